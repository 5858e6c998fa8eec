"""ONNX in float32 → ONNX quantised statically to int8: quantise/dequantise pairs, weights per channel.

Weights are int8 and symmetric, activations uint8 with a zero point: what onnxruntime advises for CPUs. On x86 processors
without VNNI its kernels may saturate, so that the same file computes something else there.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from exporters import opset
from exporters.errors import ExportError
from harness.build import Calibration
from harness.errors import MissingExtra
from harness.onnx_models.graph import opset_of
from harness.types import AnyArray

try:
    import onnx
    import onnxruntime.quantization as ort_quantization
except ImportError as _error:
    raise MissingExtra(
        "onnx and onnxruntime", "mindspore,ort", needed_for="Reducing the precision"
    ) from _error

OPSET = 13
"""The first whose QuantizeLinear takes a scale per channel."""
# Not `entropy`: `quantize_static` (1.31) gives it as many bins as quantised values, so that it finds the extrema.
_METHODS = {
    "minmax": ort_quantization.CalibrationMethod.MinMax,
    "percentile": ort_quantization.CalibrationMethod.Percentile,
}


def int8_from_float32(
    model: onnx.ModelProto,
    batches: Iterator[AnyArray],
    *,
    calibration: Calibration,
    keep: Collection[str],
    folder: Path,
) -> onnx.ModelProto:
    """`model` quantised but for the nodes named in `keep`, with ranges that `batches` show.

    Args:
        model: In float32.
        batches: Inputs of the network.
        calibration: How the range of a tensor is found.
        keep: Names of nodes.
        folder: For onnxruntime's files.

    Raises:
        ExportError: nothing was quantised, or the model cannot be brought into opset 13.
        ExportMismatch: the model in opset 13 computes something else.
    """
    source, target = folder / "float32.onnx", folder / "int8.onnx"
    raised = opset.in_opset(
        model,
        max(opset_of(model), OPSET),
        why=f"int8 weights per channel need {OPSET}",
        remedy="export ONNX again, in a newer opset",
    )
    onnx.save(raised, str(source))
    logging.getLogger().addFilter(_is_no_advice)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of its histograms
            ort_quantization.quantize_static(
                str(source),
                str(target),
                _Reader(model.graph.input[0].name, batches),
                quant_format=ort_quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=ort_quantization.QuantType.QUInt8,
                weight_type=ort_quantization.QuantType.QInt8,
                nodes_to_exclude=sorted(keep),
                calibrate_method=_METHODS[calibration],
            )
    finally:
        logging.getLogger().removeFilter(_is_no_advice)
    quantised = onnx.load(str(target))
    if not any(node.op_type == "QuantizeLinear" for node in quantised.graph.node):
        raise ExportError("nothing was quantised: every node that could be was kept in float32; keep fewer")
    return quantised


def _is_no_advice(line: logging.LogRecord) -> bool:
    """Whether a line is not the advice to prepare the model as onnxruntime would, which `precision_graph` takes the place of."""
    return "pre-processing before quantization" not in line.getMessage()


class _Reader(ort_quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
    """Hands onnxruntime one batch after another."""

    def __init__(self, name: str, batches: Iterator[AnyArray]) -> None:
        self._name = name
        self._batches = batches

    def get_next(self) -> dict[str, AnyArray] | None:
        """The next batch; `None` after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}
