"""Backbone weights from any file users bring, without PyTorch and without MindSpore.

`file → {name: StoredTensor} → torchvision's names → exactly the expected parameters, float32`
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporters.errors import WeightsError
from exporters.weights.backbones import (
    BACKBONES,
    expected_parameters,
    is_training_state,
    is_unused,
    torchvision_names,
)
from exporters.weights.mindspore import read_checkpoint
from exporters.weights.tensor import StoredTensor, stored_tensor
from exporters.weights.torch import read_legacy, read_zip
from harness.errors import UsageError
from harness.storage import replacing
from harness.types import AnyArray, Float32

__all__ = [
    "BACKBONES",
    "Conversion",
    "convert",
    "expected_parameters",
    "load_backbone",
    "random_backbone",
    "read_weights",
]

_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "BOOL": "bool",
    **{f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
_FLOATS = ("float32", "float16", "bfloat16", "float64")
_LISTED = 10
"""Names per kind of difference that a message lists; it counts the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What `convert` did."""

    backbone: str
    """Recognised from the names and shapes."""
    source_sha256: str
    parameters: int
    """Parameters kept."""
    dtypes: dict[str, int]
    """How many of those the source stores in which dtype; all are float32 afterwards."""
    dropped: tuple[str, ...]
    """The source's own names of what is left out: `layer4`, `fc`, batch counters, training state."""
    notes: tuple[str, ...]
    """What the user should know about numbers that may differ from the source's network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameters:
    path: Path
    sha256: str
    kept: dict[str, StoredTensor]
    """By torchvision's name."""
    sources: dict[str, str]
    """The source's own name of each kept parameter, by torchvision's."""
    dropped: tuple[str, ...]


def read_weights(path: Path) -> dict[str, AnyArray]:
    """Every tensor of a weights file under its own name; the format is told by content, not by suffix.

    Reads `.safetensors`, zip and legacy PyTorch files and MindSpore checkpoints. Arrays are of the stored dtype,
    except bfloat16, which becomes float32. Raises `WeightsError`, and never runs anything the file says; only a
    `.ckpt` cut exactly between two parameters cannot be told from a whole one.
    """
    _, tensors = _read(path)
    return {name: tensor.array() for name, tensor in tensors.items()}


def load_backbone(path: Path, backbone: str) -> dict[str, Float32]:
    """The parameters of `expected_parameters(backbone)`, float32, from any file `read_weights` reads.

    `layer4`, `fc`, `num_batches_tracked` and training state may be absent or of any shape. Raises `WeightsError`
    listing what is missing, unexpected, misshapen or not finite, and `UsageError` for an unknown backbone.
    """
    expected_parameters(backbone)
    return _values(_parameters(path), backbone)


def random_backbone(backbone: str, seed: int) -> dict[str, Float32]:
    """Untrained parameters: He-normal convolutions with zero-mean kernels, and batch norms that change nothing.

    The standard deviation is sqrt(2 / fan-in) (He et al., arXiv:1502.01852); each output channel's kernel then
    has its mean subtracted. Equal seeds give equal parameters. For demonstrations and tests, never for a claim.
    """
    generator = np.random.default_rng(seed)
    parameters: dict[str, Float32] = {}
    for name, shape in expected_parameters(backbone).items():
        if len(shape) == 4:
            kernels = generator.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
            kernels -= kernels.mean(axis=(1, 2, 3), keepdims=True)
            parameters[name] = kernels.astype(np.float32)
        else:
            ones = name.endswith(("weight", "running_var"))
            parameters[name] = np.full(shape, 1 if ones else 0, np.float32)
    return parameters


def convert(source: Path, target: Path) -> Conversion:
    """Write stem and layers 1-3 of `source` as `.safetensors`, float32, under torchvision's names.

    `source` is any file `read_weights` reads. Equal sources give equal bytes; the metadata holds, as JSON under
    `provenance`, the backbone and the source's digest. Raises `WeightsError` and `UsageError`.
    """
    import safetensors.numpy

    if target.suffix != ".safetensors":
        raise UsageError(f"{target}: converted weights are written as .safetensors, so name the file so")
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the source itself: choose another name")
    parameters = _parameters(source)
    backbone = min(BACKBONES, key=lambda name: sum(map(len, _differences(parameters, name).values())))
    arrays = _values(parameters, backbone)
    # One entry only: safetensors writes several in no fixed order.
    provenance = json.dumps({"backbone": backbone, "source_sha256": parameters.sha256})
    with replacing(target) as temporary:
        temporary.write_bytes(safetensors.numpy.save(dict(arrays), {"provenance": provenance}))
    return Conversion(
        backbone=backbone,
        source_sha256=parameters.sha256,
        parameters=len(arrays),
        dtypes=dict(Counter(tensor.dtype for tensor in parameters.kept.values())),
        dropped=parameters.dropped,
        notes=_notes(parameters),
    )


def _read(path: Path) -> tuple[str, dict[str, StoredTensor]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror}): give the path of a weights file"
        ) from error
    try:
        tensors = _tensors(data)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors")
    return hashlib.sha256(data).hexdigest(), tensors


def _tensors(data: bytes) -> dict[str, StoredTensor]:
    # safetensors begins with a 64-bit header length, far below 4 GB, and the header's brace.
    if data[4:9] == b"\0\0\0\0{":
        return _read_safetensors(data)
    if data.startswith(b"PK\x03\x04"):
        return read_zip(data)
    if data.startswith(b"\x80"):
        return read_legacy(data)
    if data.startswith(b"\x0a"):
        return read_checkpoint(data)
    raise ValueError("not a .safetensors, PyTorch or unencrypted MindSpore file, or cut off at its start")


def _read_safetensors(data: bytes) -> dict[str, StoredTensor]:
    import safetensors

    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(f"a damaged safetensors file ({error})") from error
    return {
        name: stored_tensor(
            entry["data"], _SAFETENSORS_DTYPES.get(entry["dtype"], entry["dtype"]), entry["shape"]
        )
        for name, entry in entries
    }


def _parameters(path: Path) -> _Parameters:
    sha256, tensors = _read(path)
    dropped = [name for name, tensor in tensors.items() if is_training_state(name) or tensor.dtype == "str"]
    sources: dict[str, str] = {}
    for source, name in torchvision_names(name for name in tensors if name not in dropped).items():
        if is_unused(name):
            dropped.append(source)
        elif sources.setdefault(name, source) != source:
            raise WeightsError(
                f"{path}: {sources[name]} and {source} are both torchvision's {name}: remove one"
            )
    kept = {name: tensors[source] for name, source in sources.items()}
    return _Parameters(path=path, sha256=sha256, kept=kept, sources=sources, dropped=tuple(dropped))


def _differences(parameters: _Parameters, backbone: str) -> dict[str, list[str]]:
    expected, kept = expected_parameters(backbone), parameters.kept
    return {
        "missing": [name for name in expected if name not in kept],
        "unexpected": [source for name, source in parameters.sources.items() if name not in expected],
        "misshapen": [
            f"{parameters.sources[name]} is {kept[name].dtype} {kept[name].stored.shape}, not float32 {shape}"
            for name, shape in expected.items()
            if name in kept and (kept[name].stored.shape != shape or kept[name].dtype not in _FLOATS)
        ],
    }


def _values(parameters: _Parameters, backbone: str) -> dict[str, Float32]:
    differences = _differences(parameters, backbone)
    if any(differences.values()):
        others = [other for other in BACKBONES if not any(_differences(parameters, other).values())]
        advice = (
            f"ask for {others[0]}, which it is" if others else f"bring torchvision's {' or '.join(BACKBONES)}"
        )
        raise WeightsError(f"{parameters.path} is not {backbone}: {_listed(differences)}. Next: {advice}")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as such
        arrays: dict[str, Float32] = {
            name: np.array(parameters.kept[name].array(), np.float32, order="C")
            for name in expected_parameters(backbone)
        }
    broken = [
        parameters.sources[name]
        for name, array in arrays.items()
        if not np.isfinite(array).all() or (name.endswith("running_var") and array.min() < 0)
    ]
    if broken:
        problem = _listed({"with NaN, infinite or negative-variance values": broken})
        raise WeightsError(f"{parameters.path}: {problem}. Next: take an undamaged copy")
    return arrays


def _listed(differences: Mapping[str, list[str]]) -> str:
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''})"
        for kind, names in differences.items()
        if names
    )


def _notes(parameters: _Parameters) -> tuple[str, ...]:
    if not any(".bn1d." in source for source in parameters.sources.values()):
        return ()
    # mindspore-ai/models official/cv/ResNet/src/resnet.py: ResidualBlockBase calls _bn without res_base.
    return (
        "the model zoo's ResNet-18 has batch-norm epsilon 1e-4 in bn1d and bn2d; here it is 1e-5 everywhere",
    )
