"""MindSpore's `.ckpt` files without MindSpore: the protobuf wire format of one message, read strictly.

`Checkpoint { repeated Value { string tag = 1; TensorProto tensor = 2; MapTensorProto maptensor = 3 } = 1 }`,
`TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }`, no field packed.
Large tensors come in consecutive slices under one tag, a scalar may have dims [0], and `crc_check=True` appends
`crc_num` and a 10-byte big-endian CRC-32 (after `mindspore/train/serialization.py`).
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator

import numpy as np

from exporters.weights.tensor import StoredTensor, stored_tensor

_CRC_MARK, _CRC_BYTES = b"crc_num", 10
_Slice = tuple[tuple[int, ...], str, memoryview]


def read_checkpoint(data: bytes) -> dict[str, StoredTensor]:
    """Tensors of a MindSpore checkpoint by name; raises `ValueError`."""
    slices: dict[str, list[_Slice]] = {}
    last = None
    for number, value in _fields(_without_crc(data)):
        if number != 1 or isinstance(value, int):
            raise ValueError(f"field {number} is none of a MindSpore checkpoint's")
        tag, piece = _value(value)
        if tag in slices and tag != last:
            raise ValueError(f"parameter {tag[:80]!r} is stored twice")
        slices.setdefault(tag, []).append(piece)
        last = tag
    return {tag: _tensor(tag, pieces) for tag, pieces in slices.items()}


def _without_crc(data: bytes) -> memoryview:
    view, trailer = memoryview(data), len(_CRC_MARK) + _CRC_BYTES
    if data[-trailer:-_CRC_BYTES] != _CRC_MARK:
        return view
    if binascii.crc32(view[:-trailer]) != int.from_bytes(data[-_CRC_BYTES:], "big"):
        raise ValueError("its CRC-32 does not match its contents: the file is damaged")
    return view[:-trailer]


def _tensor(tag: str, pieces: list[_Slice]) -> StoredTensor:
    dims, kind, content = pieces[0]
    if any(piece[:2] != (dims, kind) for piece in pieces):
        raise ValueError(f"the slices of {tag[:80]!r} disagree on its shape")
    if len(pieces) > 1:
        content = memoryview(b"".join(piece[2] for piece in pieces))
    if kind == "str":
        return StoredTensor(dtype="str", stored=np.array(bytes(content).decode("utf-32-le", "replace")))
    try:
        return stored_tensor(content, kind.lower(), () if dims == (0,) and content else dims)
    except ValueError as error:
        raise ValueError(f"parameter {tag[:80]!r}: {error}") from error


def _value(message: memoryview) -> tuple[str, _Slice]:
    fields = dict(_fields(message))
    tag, tensor = fields.get(1), fields.get(2)
    if isinstance(tag, int) or tag is None or isinstance(tensor, int) or tensor is None or len(fields) != 2:
        raise ValueError("an entry is not a named plain tensor (map parameters are not supported)")
    return str(tag, "utf-8"), _slice(tensor)


def _slice(message: memoryview) -> _Slice:
    dims: list[int] = []
    parts: dict[int, memoryview] = {}
    for number, value in _fields(message):
        if number == 1 and isinstance(value, int):
            dims.append(value)
        elif number in (2, 3) and not isinstance(value, int):
            parts[number] = value
        else:
            raise ValueError(f"field {number} is none of a tensor's")
    if set(parts) != {2, 3}:
        raise ValueError("a tensor is without its type or its contents")
    return tuple(dims), str(parts[2], "utf-8"), parts[3]


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        value, position = _varint(message, position)
        if key & 7 == 0:
            yield key >> 3, value
        elif key & 7 == 2:
            if value > len(message) - position:
                raise ValueError("truncated, or not a MindSpore checkpoint")
            yield key >> 3, message[position : position + value]
            position += value
        else:
            raise ValueError("truncated, or not a MindSpore checkpoint")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 63, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("truncated, or not a MindSpore checkpoint")
