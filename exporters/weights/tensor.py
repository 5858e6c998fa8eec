"""A tensor as a weights file stores it: a bounds-checked view of the file's bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.types import AnyArray

DTYPES = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",  # numpy has no bfloat16: its bits are kept until they are widened
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "|i1",
    "uint64": "<u8",
    "uint32": "<u4",
    "uint16": "<u2",
    "uint8": "|u1",
    "bool": "|b1",
}
_LARGEST = 1 << 48
"""Sizes and strides beyond this are no network's, and would overflow numpy's own arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a weights file, not yet converted."""

    dtype: str
    """A key of `DTYPES`, or `str` for the texts a MindSpore checkpoint may hold."""
    stored: AnyArray
    """Read-only view of the file's bytes; bfloat16 as its bits in uint16."""

    def array(self) -> AnyArray:
        """The values, in the stored dtype; bfloat16 widened to float32, which is exact."""
        if self.dtype != "bfloat16":
            return self.stored
        return (self.stored.astype(np.uint32) << 16).view(np.float32)


def itemsize(dtype: str) -> int:
    """Bytes of one element; raises `ValueError` for a dtype no weights are stored in."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not supported")
    return np.dtype(DTYPES[dtype]).itemsize


def stored_tensor(
    buffer: bytes | bytearray | memoryview,
    dtype: str,
    shape: Sequence[int],
    strides: Sequence[int] | None = None,
    offset: int = 0,
) -> StoredTensor:
    """View `shape` elements of `buffer`; strides and offset count elements, and nothing outside is reached.

    Without strides the tensor is contiguous and must fill the buffer exactly. Raises `ValueError`.
    """
    size = itemsize(dtype)
    if not all(type(n) is int and 0 <= n < _LARGEST for n in (offset, *shape, *(strides or ()))):
        raise ValueError("a size, stride or offset is not a sensible whole number")
    count, held = math.prod(shape), len(buffer) // size
    if strides is None and count * size != len(buffer):
        raise ValueError(
            f"shape {tuple(shape)} of {dtype} needs {count * size} bytes, stored are {len(buffer)}"
        )
    if strides is not None:
        if len(strides) != len(shape):
            raise ValueError(f"{len(shape)} sizes but {len(strides)} strides")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if count > held or offset > held or (count and last >= held):
            raise ValueError(f"a view of shape {tuple(shape)} reaches beyond its storage of {held} elements")
    steps = None if strides is None else tuple(stride * size for stride in strides)
    # A bytearray would give a writable view.
    frozen = memoryview(buffer).toreadonly()
    view: AnyArray = np.ndarray(tuple(shape), DTYPES[dtype], frozen, offset * size, steps)
    return StoredTensor(dtype=dtype, stored=view)
