"""A folder that shows one difference by itself: `model.onnx`, `input.npz`, `expected.npz` and a script of three lines.

Where the backend is not plain onnxruntime, `manifest.json` makes it an artifact that the backend's adapter opens.
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
"""The earliest a zip archive knows: equal arrays give equal bytes."""

_ONNXRUNTIME = """\
import numpy, onnxruntime
found = onnxruntime.InferenceSession("model.onnx", providers={providers!r}).run(None, dict(numpy.load("input.npz")))
print(abs(found[0].astype("float32") - numpy.load("expected.npz")[{tensor!r}]).max())
"""
_ADAPTER = """\
from harness.blame.nodes import rerun
print(rerun(".", {backend!r}))
"""


def write(
    folder: Path, side: Side, model: Any, given: Mapping[str, AnyArray], expected: Mapping[str, AnyArray]
) -> Path:
    """Write the folder, whole.

    Args:
        folder: New or empty.
        side: What computes something else than expected.
        model: One input, one output.
        given: The input by name.
        expected: The output by name, float32.

    Raises:
        UsageError: `folder` is there and not empty.
    """
    variant, report = side.run(model, next(iter(given.values())))[1:]
    with storage.new_folder(folder) as made:
        onnx.save(model, str(made / MODEL))
        _save(made / INPUT, given)
        _save(made / EXPECTED, expected)
        if "onnxruntime" in report.runtime and "providers" in report.options:
            providers = report.options["providers"].split(", ")[:1]
            text = _ONNXRUNTIME.format(providers=providers, tensor=next(iter(expected)))
        else:
            text = _ADAPTER.format(backend=side.backend)
            manifest = msgspec.structs.replace(side.artifact.manifest, variants=(variant,))
            artifact.write_manifest(made, manifest)
        (made / SCRIPT).write_text(text, encoding="utf-8")
    return folder


def rerun(folder: str | Path, backend: str) -> float:
    """Run a reproducer through a backend's adapter; gives the largest absolute difference from what is expected."""
    found = artifact.read(Path(folder))
    session = registry.backend(backend).open(found, found.manifest.variants[0], threads=1)
    with np.load(found.path / INPUT) as given, np.load(found.path / EXPECTED) as expected:
        outputs = session.run(given[given.files[0]])
        session.close()
        return max(float(np.abs(outputs[name] - expected[name]).max()) for name in expected.files)


def _save(path: Path, arrays: Mapping[str, AnyArray]) -> None:
    """As `numpy.savez`, which cannot take an array called `file`, and writes the time of day."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
