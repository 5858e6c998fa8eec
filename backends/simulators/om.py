"""The file that the simulated `atc` writes and the simulated `acl` loads: never a real OM, and no real OM is read.

Layout: the magic line `harness.detector.artifact.SIMULATED_OM`, 8 bytes of little-endian length, that many bytes of JSON
(`Header`), then the ONNX model to the end of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from harness.detector.artifact import SIMULATED_OM

DType = Literal["float32", "float16", "uint8", "int8", "int32", "int64"]
Channels = Annotated[tuple[float, ...], msgspec.Meta(min_length=3, max_length=3)]


class NotSimulatedOmError(ValueError):
    """The bytes are not a whole file of the simulated `atc`."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Tensor(_Strict, frozen=True, kw_only=True):
    """A data input or an output."""

    name: str
    """Inputs: as in the ONNX model. Outputs: `<node>:<index>:<onnx name>`."""
    dtype: DType
    shape: tuple[int, ...]
    """The batch is −1 with gears, on inputs and outputs."""


class Aipp(_Strict, frozen=True, kw_only=True):
    """Static AIPP of the only input: uint8 NHWC, `(x − mean − min) · var_reci` in float16, after the channel swap."""

    rbuv_swap: bool
    mean: tuple[int, int, int]
    min: Channels
    var_reci: Channels


class Header(_Strict, frozen=True, kw_only=True):
    """All about the model but its graph."""

    soc: str
    cann: str
    precision_mode: str
    """`force_fp16` computes in float16; `force_fp32` and `must_keep_origin_dtype` as the ONNX says."""
    inputs: tuple[Tensor, ...]
    """Data inputs; the hidden input of gears is not among them."""
    outputs: tuple[Tensor, ...]
    gears: tuple[int, ...] = ()
    """Batch gears, ascending; empty for a static batch."""
    aipp: Aipp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedOm:
    """One compiled model."""

    header: Header
    onnx: bytes

    def to_bytes(self) -> bytes:
        """The file's contents."""
        header = msgspec.json.encode(self.header)
        return SIMULATED_OM + len(header).to_bytes(8, "little") + header + self.onnx


def parse(data: bytes) -> SimulatedOm:
    """Read a file's contents.

    Raises:
        NotSimulatedOmError: another file, a shortened one, or a header that does not fit.
    """
    if not data.startswith(SIMULATED_OM):
        raise NotSimulatedOmError("it does not start as a file of the simulated atc does")
    start = len(SIMULATED_OM) + 8
    end = start + int.from_bytes(data[start - 8 : start], "little")
    if not start < end < len(data):
        raise NotSimulatedOmError("it is cut short")
    try:
        header = msgspec.json.decode(data[start:end], type=Header)
    except msgspec.DecodeError as error:
        raise NotSimulatedOmError(f"its header is damaged: {error}") from error
    return SimulatedOm(header=header, onnx=data[end:])
