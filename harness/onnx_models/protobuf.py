"""ONNX files read field by field (protobuf wire format; field numbers from onnx.proto), without any SDK.

Only what says how a model is to be used is kept; weights are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Message = dict[str, list[Any]]
"""Field name → its values in order: `int`, `bytes` or `Message`; absent fields are not there."""

_INT, _BYTES = "int", "bytes"
FIELDS: dict[str, dict[int, tuple[str, str]]] = {
    "Model": {
        2: ("producer_name", _BYTES),
        3: ("producer_version", _BYTES),
        7: ("graph", "Graph"),
        8: ("opset_import", "Opset"),
        14: ("metadata_props", "Entry"),
        25: ("functions", "Function"),
    },
    "Opset": {1: ("domain", _BYTES), 2: ("version", _INT)},
    "Entry": {1: ("key", _BYTES), 2: ("value", _BYTES)},
    "Function": {7: ("node", "Node"), 10: ("domain", _BYTES)},
    "Graph": {
        1: ("node", "Node"),
        5: ("initializer", "Tensor"),
        11: ("input", "Value"),
        12: ("output", "Value"),
        15: ("sparse", "Sparse"),
    },
    "Node": {
        1: ("input", _BYTES),
        2: ("output", _BYTES),
        4: ("op_type", _BYTES),
        5: ("attribute", "Attribute"),
        7: ("domain", _BYTES),
    },
    "Attribute": {
        1: ("name", _BYTES),
        5: ("tensor", "Tensor"),
        6: ("graph", "Graph"),
        10: ("tensor", "Tensor"),
        11: ("graph", "Graph"),
        22: ("sparse", "Sparse"),
        23: ("sparse", "Sparse"),
    },
    "Sparse": {1: ("tensor", "Tensor"), 2: ("tensor", "Tensor")},
    "Tensor": {
        1: ("dims", _INT),
        2: ("data_type", _INT),
        4: ("float_data", _BYTES),
        7: ("int64_data", _INT),
        8: ("name", _BYTES),
        9: ("raw_data", _BYTES),
        13: ("external_data", "Entry"),
        14: ("data_location", _INT),
    },
    "Value": {1: ("name", _BYTES), 2: ("type", "Type")},
    "Type": {1: ("tensor_type", "TensorType")},
    "TensorType": {1: ("elem_type", _INT), 2: ("shape", "Shape")},
    "Shape": {1: ("dim", "Dimension")},
    "Dimension": {1: ("size", _INT), 2: ("symbol", _BYTES)},
}
_DEEPEST = 100
"""As deep as protobuf's own readers go."""
_SMALL = 1024
"""Bytes of a tensor that are kept; what is larger are weights."""


def parse(data: memoryview, kind: str = "Model", depth: int = 0) -> Message:
    """The known fields of a message.

    Raises:
        ValueError: the bytes are not one, or end before they should.
    """
    if depth > _DEEPEST:
        raise ValueError("nested too deep")
    known, found = FIELDS[kind], Message()
    for number, value in _fields(data):
        if number not in known:
            continue
        name, type_ = known[number]
        values = found.setdefault(name, [])
        if type_ == _INT:
            values += [value] if isinstance(value, int) else _packed(value)
        elif isinstance(value, int):
            raise ValueError(f"{kind} {name} is a number")
        elif type_ == _BYTES:
            small = kind != "Tensor" or len(value) <= _SMALL
            values += [bytes(value)] if small else []
        else:
            values.append(parse(value, type_, depth + 1))
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers with their values; numbers of fixed size come as bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if number == 0 or size > end - at:
            raise ValueError(f"field {number} wants {size} bytes at byte {at}, {end - at} are left")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An int64 and where the next field begins."""
    value = 0
    for count in range(10):
        if at + count >= len(data):
            raise ValueError(f"a number ends beyond the file at byte {at}")
        byte = data[at + count]
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            value &= (1 << 64) - 1
            return value - (1 << 64) if value >> 63 else value, at + count + 1
    raise ValueError(f"a number of more than ten bytes at byte {at}")


def _packed(data: memoryview) -> list[int]:
    if len(data) > _SMALL:
        return []
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values
