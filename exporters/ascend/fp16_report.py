"""Which tensors of a network float16 cannot hold: `atc` computes in it unless told otherwise.

The ONNX variant runs on good images with every tensor exposed; only extrema are kept. A compiler fuses operators, so a
tensor here may not exist on the chip, and a sum inside a kernel may be kept in float32: this is a warning where to look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from exporters.quantize.calibration import batches, spread
from exporters.source_variant import source
from harness.detector.artifact import Artifact
from harness.errors import ArtifactError, MissingExtra
from harness.types import AnyArray, Category

try:
    import onnx
    import onnx.helper
    import onnx.numpy_helper
    import onnx.shape_inference
    import onnxruntime
except ImportError as _error:
    raise MissingExtra("onnx and onnxruntime", "mindspore,ort", needed_for="The float16 report") from _error

LARGEST = float(np.finfo(np.float16).max)
"""65504."""
SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)
"""2⁻¹⁴, about 6.1e-5: what is smaller loses digits, below 3e-8 it becomes 0."""


class TensorRange(msgspec.Struct, frozen=True, kw_only=True):
    """What one float tensor held over all images."""

    name: str
    kind: str
    """`input`, `weight`, `output`, or the operator that made an inner tensor."""
    min: float
    max: float
    absmax: float
    smallest: float | None
    """Smallest magnitude that is not 0; `None` where all is 0."""
    overflow: float
    """Share of all values beyond 65504."""
    below_normal: float
    """Share of the values other than 0 that are smaller than 2⁻¹⁴."""

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.overflow:
            return "overflow"
        return "loses digits" if self.below_normal else "fits"


class Fp16Report(msgspec.Struct, frozen=True, kw_only=True):
    """All float tensors, the worst first: overflow by size, then the largest share below the smallest normal."""

    artifact: str
    variant: str
    images: int
    largest: float = LARGEST
    smallest_normal: float = SMALLEST_NORMAL
    tensors: tuple[TensorRange, ...]

    def text(self) -> str:
        """For a terminal."""
        from tabulate import tabulate

        rows = [
            {
                "tensor": tensor.name,
                "kind": tensor.kind,
                "float16": tensor.verdict,
                "min": f"{tensor.min:.4g}",
                "max": f"{tensor.max:.4g}",
                "smallest": "–" if tensor.smallest is None else f"{tensor.smallest:.2g}",
                "over 65504": f"{tensor.overflow:.2%}",
                "below 6.1e-5": f"{tensor.below_normal:.2%}",
            }
            for tensor in self.tensors
        ]
        verdicts = [tensor.verdict for tensor in self.tensors]
        title = (
            f"{self.artifact}: {self.variant} on {self.images} good images, {len(rows)} float tensors: "
            f"{verdicts.count('overflow')} overflow, {verdicts.count('loses digits')} lose digits below 2^-14"
        )
        return f"{title}\n{tabulate(rows, headers='keys', tablefmt='rounded_outline', disable_numparse=True)}"


class _Extrema:
    """Of one tensor, image by image."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._min, self._max, self._smallest = np.inf, -np.inf, np.inf
        self._values = self._nonzero = self._over = self._under = 0

    def add(self, array: AnyArray, name: str) -> None:
        """Take another array of the tensor into account.

        Raises:
            ArtifactError: a value that is not finite.
        """
        if not array.size:
            return
        if not np.isfinite(array).all():
            raise ArtifactError(f"tensor {name}: not finite even in float32; fit the detector again")
        magnitude = np.abs(array)
        present = magnitude[magnitude > 0]
        self._min, self._max = min(self._min, float(array.min())), max(self._max, float(array.max()))
        self._smallest = min(self._smallest, float(present.min(initial=np.inf)))
        self._values += array.size
        self._nonzero += present.size
        self._over += int((magnitude > LARGEST).sum())
        self._under += int((present < SMALLEST_NORMAL).sum())

    def range(self, name: str) -> TensorRange | None:
        """What was seen; `None` if there was no value at all."""
        if not self._values:
            return None
        return TensorRange(
            name=name,
            kind=self.kind,
            min=self._min,
            max=self._max,
            absmax=max(abs(self._min), abs(self._max)),
            smallest=self._smallest if self._nonzero else None,
            overflow=self._over / self._values,
            below_normal=self._under / self._nonzero if self._nonzero else 0.0,
        )


def report(artifact: Artifact, category: Category, *, images: int, head_in_graph: bool = False) -> Fp16Report:
    """Run the ONNX variant on `images` of the category's good training images, evenly spread.

    Raises:
        ArtifactError: no ONNX variant, or a tensor that is not finite in float32.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    variant = source(artifact, ("onnx",), head_in_graph=head_in_graph)
    model = onnx.load(str(artifact.model_file(variant)))
    extrema_by_name = {name: _Extrema("weight") for name, _ in _constants(model)}
    for name, array in _constants(model):
        extrema_by_name[name].add(array, name)
    exposed = _expose(model)
    extrema_by_name |= {name: _Extrema(kind) for name, kind in exposed.items()}
    input_ = variant.input.name
    extrema_by_name[input_] = _Extrema("input")
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    samples = spread(category.train, images)
    for batch in batches(artifact, variant, samples):
        extrema_by_name[input_].add(batch, input_)
        for name, array in zip(exposed, session.run(list(exposed), {input_: batch}), strict=True):
            extrema_by_name[name].add(array, name)
    ranges = [
        tensor_range
        for tensor_range in (extrema.range(name) for name, extrema in extrema_by_name.items())
        if tensor_range is not None
    ]
    ranges.sort(
        key=lambda tensor_range: (
            -tensor_range.absmax if tensor_range.overflow else 0.0,
            -tensor_range.below_normal,
            -tensor_range.absmax,
        )
    )
    return Fp16Report(
        artifact=str(artifact.path), variant=variant.id, images=len(samples), tensors=tuple(ranges)
    )


def _constants(model: Any) -> Iterator[tuple[str, AnyArray]]:
    """Float initializers and constant nodes."""
    tensors = [(tensor.name, tensor) for tensor in model.graph.initializer]
    tensors += [
        (node.output[0], node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].HasField("t")
    ]
    for name, tensor in tensors:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            yield name, onnx.numpy_helper.to_array(tensor)


def _expose(model: Any) -> Mapping[str, str]:
    """Make every float tensor that an operator computes an output; gives its kind by name, in the graph's order."""
    outputs = {value.name for value in model.graph.output}
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output)}
    exposed = {}
    for node in model.graph.node:
        for name in node.output:
            if node.op_type == "Constant" or name not in known:
                continue
            if known[name].type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
                exposed[name] = "output" if name in outputs else node.op_type
                if name not in outputs:
                    model.graph.output.append(known[name])
    return exposed
