"""Which ONNX opsets a release of CANN takes, and models brought down to one of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from exporters.errors import ExportError, ExportMismatch
from harness.errors import MissingExtra, UsageError
from harness.onnx_models.graph import opset_of
from harness.types import AnyArray, Float32

try:
    import onnx
    import onnx.version_converter
except ImportError as _error:
    raise MissingExtra("onnx", "mindspore", needed_for="Exporting OM") from _error

_RANGES = {(8, 0): (11, 18), (7, 0): (9, 18), (5, 0): (9, 13)}
"""First release → lowest and highest opset, as documented for 5.0.4, 7.0 and later than 8.0.

Nothing was found about 5.1 and 6.x: they are taken for no wider than 5.0, which every later release is too.
"""
TOLERANCE = 1e-5
"""Largest accepted difference of a converted model, relative to the largest value of the output."""


def accepted(cann: str) -> tuple[int, int]:
    """Lowest and highest opset that the `atc` of release `cann` takes.

    Raises:
        UsageError: not a version, or one older than 5.0.
    """
    match = re.match(r"(\d+)\.(\d+)", cann)
    if match is None or not re.fullmatch(r"[\w.]+", cann):
        raise UsageError(f"--cann {cann}: not a version of CANN: 5.0.4, 7.0, 8.0.RC2")
    release = (int(match[1]), int(match[2]))
    for first, opsets in _RANGES.items():
        if release >= first:
            return opsets
    raise UsageError(
        f"CANN {cann} is older than 5.0, the first whose atc this exporter knows: install a newer toolkit"
    )


def stage(source: Path, target: Path, cann: str) -> int:
    """Write the model at `source` to `target`, `converted` for `cann`; gives its opset there."""
    model = converted(onnx.load(str(source)), cann)
    onnx.save(model, str(target))
    return opset_of(model)


def converted(model: onnx.ModelProto, cann: str) -> onnx.ModelProto:
    """`model` in an opset that `cann` takes; the nearest one where it has to be converted.

    Raises:
        ExportError: ONNX cannot convert it.
        ExportMismatch: the converted model computes something else.
        MissingExtra: onnxruntime, which compares the two, is not installed.
    """
    lowest, highest = accepted(cann)
    has = opset_of(model)
    return in_opset(
        model,
        min(max(has, lowest), highest),
        why=f"the atc of CANN {cann} takes {lowest} to {highest}",
        remedy="compile with a newer CANN, or export ONNX in an older opset",
    )


def in_opset(model: onnx.ModelProto, wanted: int, *, why: str, remedy: str) -> onnx.ModelProto:
    """`model` in opset `wanted`, converted where it has another.

    Raises:
        ExportError: ONNX cannot convert it; says `why` it should and the `remedy`.
        ExportMismatch: the converted model computes something else.
        MissingExtra: onnxruntime, which compares the two, is not installed.
    """
    has = opset_of(model)
    if wanted == has:
        return model
    try:
        converted_model = onnx.version_converter.convert_version(model, wanted)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        raise ExportError(
            f"the ONNX model has opset {has}, {why}, and ONNX cannot convert it to {wanted}: {error}; {remedy}"
        ) from error
    _require_equal(model, converted_model)
    return converted_model


def _require_equal(model: onnx.ModelProto, converted_model: onnx.ModelProto) -> None:
    """Run both on a batch of two rows of noise."""
    shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    noise = np.random.default_rng(0).random(shape, np.float32)
    for spec, expected, got in zip(
        model.graph.output, _run(model, noise), _run(converted_model, noise), strict=True
    ):
        largest = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
        difference = float(np.abs(got - expected).max()) / largest if got.shape == expected.shape else np.inf
        if not difference <= TOLERANCE:  # NaN too
            raise ExportMismatch(
                f"output {spec.name!r} of the model in opset {opset_of(converted_model)} differs by {difference:.2g} of its largest value "
                f"from opset {opset_of(model)} (accepted: {TOLERANCE:g}); nothing was compiled: use a newer CANN"
            )


def _run(model: onnx.ModelProto, batch: Float32) -> list[AnyArray]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "ort", needed_for="Checking a converted ONNX model") from error
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    arrays: list[AnyArray] = session.run(None, {session.get_inputs()[0].name: batch})
    return arrays
