"""A reproducer: a folder that shows one difference, with `model.onnx`, `input.npz`, `expected.npz` and a short script.

If the backend is not plain onnxruntime, `manifest.json` makes the folder an artifact that the backend's adapter opens.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from harness import registry, storage
from harness.blame.nodes.side import Side
from harness.detector import artifact
from harness.types import AnyArray

MODEL, INPUT, EXPECTED, SCRIPT = "model.onnx", "input.npz", "expected.npz", "reproduce.py"
_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest date of a zip archive, for all: equal arrays give equal bytes."""

_ONNXRUNTIME = """\
import numpy, onnxruntime
outputs = onnxruntime.InferenceSession("model.onnx", providers={providers!r}).run(None, dict(numpy.load("input.npz")))
print(abs(outputs[0].astype("float32") - numpy.load("expected.npz")[{tensor!r}]).max())
"""
_ADAPTER = """\
from harness.blame.nodes import rerun
print(rerun(".", {backend!r}))
"""


def write(
    folder: Path, side: Side, model: Any, inputs: Mapping[str, AnyArray], expected: Mapping[str, AnyArray]
) -> Path:
    """Write the folder completely, or not at all.

    Args:
        folder: New or empty.
        side: Computes other values than expected.
        model: Has one input and one output.
        inputs: The input by name.
        expected: The output by name, float32.

    Raises:
        UsageError: `folder` exists and is not empty.
    """
    variant, report = side.run(model, next(iter(inputs.values())))[1:]
    with storage.new_folder(folder) as new:
        onnx.save(model, str(new / MODEL))
        _save(new / INPUT, inputs)
        _save(new / EXPECTED, expected)
        if "onnxruntime" in report.runtime and "providers" in report.options:
            providers = report.options["providers"].split(", ")[:1]
            text = _ONNXRUNTIME.format(providers=providers, tensor=next(iter(expected)))
        else:
            text = _ADAPTER.format(backend=side.backend)
            manifest = msgspec.structs.replace(side.artifact.manifest, variants=(variant,))
            artifact.write_manifest(new, manifest)
        (new / SCRIPT).write_text(text, encoding="utf-8")
    return folder


def rerun(folder: str | Path, backend: str) -> float:
    """Run a reproducer through a backend's adapter; return the largest absolute difference from the expected output."""
    reproducer = artifact.read(Path(folder))
    session = registry.backend(backend).open(reproducer, reproducer.manifest.variants[0], threads=1)
    with np.load(reproducer.path / INPUT) as inputs, np.load(reproducer.path / EXPECTED) as expected:
        outputs = session.run(inputs[inputs.files[0]])
        session.close()
        return max(float(np.abs(outputs[name] - expected[name]).max()) for name in expected.files)


def _save(path: Path, arrays: Mapping[str, AnyArray]) -> None:
    """Like `numpy.savez`, but an array may be called `file`, and the time of day is not written."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
