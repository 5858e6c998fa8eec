"""What of an ONNX file says how the model is to be used, and the files that belong to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import storage
from harness.errors import ArtifactError
from harness.onnx_models.protobuf import Message, parse
from harness.types import AnyArray

# Of TensorProto.DataType; the others are of no use for a picture, a map or a score.
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""What a stock onnxruntime runs."""


def printable(text: str) -> str:
    """`text` from a file as a terminal may show it: with quotes and escapes where a character is not printable."""
    return text if text.isprintable() else repr(text)


def is_name(text: str) -> bool:
    """Whether `text` is one line of printable characters, as records and tables want it."""
    return bool(text.strip()) and text.isprintable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An input or output of the graph."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    """`None` for a side that is free; `None` in its place where the file does not even say the rank."""

    def __str__(self) -> str:
        sides = (
            "?"
            if self.shape is None
            else ", ".join("?" if side is None else str(side) for side in self.shape)
        )
        return f"{self.name!r} {self.dtype} ({sides})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator of the graph."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A model that was read and not run."""

    path: Path
    producer: str
    opsets: Mapping[str, int]
    """Domain → version; the empty domain is ONNX's own."""
    metadata: tuple[tuple[str, str], ...]
    """Keys and values; nothing keeps a file from giving one twice."""
    inputs: tuple[Value, ...]
    """Without those that have an initial value."""
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, AnyArray]
    """Small ones: name → float32 or int64 values, flat."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of the initial values, large ones too."""
    files: Mapping[str, str]
    """Name relative to the model's folder → SHA-256: the model, then its external data."""


def read(path: Path) -> Graph:
    """Read an ONNX file and digest it with its external data.

    Raises:
        ArtifactError: no ONNX model, a truncated one, one with custom operators, or whose external data is missing, too
            short, or outside the model's folder; or a file name that no record may hold.
    """
    _require_file(path, "no such file", "name an .onnx file")
    if not is_name(path.stem):
        raise ArtifactError(
            f"{str(path)!r}: its name is not one line of printable characters; rename the file"
        )
    try:
        model = parse(memoryview(path.read_bytes()))
    except ValueError as error:
        raise ArtifactError(
            f"{path}: not an ONNX model, or a truncated one ({error}); copy or export it again"
        ) from error
    graph = _first(model, "graph")
    if (
        len(model.get("graph", [])) != 1
        or not graph.get("node")
        or not model.get("opset_import")
        or not graph.get("output")
    ):
        raise ArtifactError(
            f"{path}: not an ONNX model, or a truncated one (no graph); copy or export it again"
        )
    _require_known_operators(path, model)
    tensors = list(_tensors(model))
    initialised = {_text(item, "name") for item in graph.get("initializer", [])}
    return Graph(
        path=path,
        producer=f"{_text(model, 'producer_name')} {_text(model, 'producer_version')}".strip(),
        opsets={_text(item, "domain"): _number(item, "version") for item in model.get("opset_import", [])},
        metadata=tuple(
            (_text(item, "key"), _text(item, "value")) for item in model.get("metadata_props", [])
        ),
        inputs=tuple(
            _value(item) for item in graph.get("input", []) if _text(item, "name") not in initialised
        ),
        outputs=tuple(_value(item) for item in graph["output"]),
        nodes=tuple(_node(item) for item in graph["node"]),
        constants=_constants(graph),
        shapes={_text(item, "name"): tuple(item.get("dims", [])) for item in graph.get("initializer", [])},
        files={path.name: storage.sha256_of_file(path), **_external(path, tensors)},
    )


def _require_file(path: Path, missing: str, remedy: str) -> None:
    if not path.is_file():
        what = "a folder or a device, not a file" if path.exists() else missing
        raise ArtifactError(f"{printable(str(path))}: {what}; {remedy}")


def _require_known_operators(path: Path, model: Message) -> None:
    own = {_text(item, "domain") for item in model.get("functions", [])}
    nodes = [item for scope in (*model["graph"], *model.get("functions", [])) for item in _all_nodes(scope)]
    custom = {
        f"{_text(node, 'domain')}.{_text(node, 'op_type')}"
        for node in nodes
        if _text(node, "domain") not in (*_KNOWN_DOMAINS, *own)
    }
    if custom:
        raise ArtifactError(
            f"{path}: needs custom operators ({', '.join(map(printable, sorted(custom)))}); libraries of custom operators are never "
            "loaded: export it with ONNX's own"
        )


def _all_nodes(scope: Message) -> Iterator[Message]:
    """Nodes of a graph or function, those of the graphs inside them too."""
    for node in scope.get("node", []):
        yield node
        for attribute in node.get("attribute", []):
            for inner in attribute.get("graph", []):
                yield from _all_nodes(inner)


def _tensors(message: Message) -> Iterator[Message]:
    """Every stored tensor, wherever it lies: in graphs inside nodes, in functions, as an attribute, or sparse."""
    for name, values in message.items():
        for value in values:
            if isinstance(value, dict):
                if name in ("initializer", "tensor"):
                    yield value
                yield from _tensors(value)


def _external(path: Path, tensors: list[Message]) -> dict[str, str]:
    """Digests of the files that hold weights outside the model."""
    needed: dict[str, int] = {}
    for tensor in tensors:
        if _number(tensor, "data_location") != 1:
            continue
        entries = {_text(item, "key"): _text(item, "value") for item in tensor.get("external_data", [])}
        location = entries.get("location", "")
        if not location:
            raise ArtifactError(f"{path}: weights {_text(tensor, 'name')!r} lie in a file it does not name")
        try:
            end = int(entries.get("offset") or 0) + int(entries.get("length") or 0)
        except ValueError as error:
            raise ArtifactError(f"{path}: its external data is described by no numbers ({error})") from error
        needed[location] = max(needed.get(location, 0), end)
    for location, end in needed.items():
        file = storage.inside(path.parent, location, ArtifactError)
        if ".." in Path(location).parts:
            raise ArtifactError(
                f"{path}: its external data {location!r} takes a way round; save the model again"
            )
        _require_file(file, "missing", f"it holds weights of {path.name}: copy both files together")
        if file.stat().st_size < end:
            raise ArtifactError(
                f"{printable(str(file))}: truncated: {path.name} wants {end} bytes of it, it has {file.stat().st_size}; copy it again"
            )
    return {location: storage.sha256_of_file(path.parent / location) for location in sorted(needed)}


def _constants(graph: Message) -> dict[str, AnyArray]:
    found = {_text(item, "name"): _array(item) for item in graph.get("initializer", [])}
    for node in graph["node"]:
        tensors = [tensor for item in node.get("attribute", []) for tensor in item.get("tensor", [])]
        if _text(node, "op_type") == "Constant" and len(tensors) == 1:
            found[_text(node, "output")] = _array(tensors[0])
    return {name: array for name, array in found.items() if array is not None}


def _array(tensor: Message) -> AnyArray | None:
    """Values of a small float32 or int64 tensor, flat."""
    dtype = np.dtype({1: "<f4", 7: "<i8"}.get(_number(tensor, "data_type"), "V"))
    if not dtype.itemsize or _number(tensor, "data_location") == 1:
        return None
    size = math.prod(tensor.get("dims", []))
    raw = b"".join(tensor.get("raw_data", []) or tensor.get("float_data", []))
    if not raw and "int64_data" in tensor:
        return np.array(tensor["int64_data"], np.int64)
    return np.frombuffer(raw, dtype) if len(raw) == size * dtype.itemsize else None


def _value(message: Message) -> Value:
    type_ = _first(_first(message, "type"), "tensor_type")
    shape = type_.get("shape")
    sides = None
    if shape:
        sizes = [_number(item, "size") for item in shape[0].get("dim", [])]
        sides = tuple(size if size > 0 else None for size in sizes)
    number = _number(type_, "elem_type")
    return Value(name=_text(message, "name"), dtype=_DTYPES.get(number, f"type {number}"), shape=sides)


def _node(message: Message) -> Node:
    return Node(
        operator=_text(message, "op_type"),
        inputs=tuple(item.decode(errors="replace") for item in message.get("input", [])),
        outputs=tuple(item.decode(errors="replace") for item in message.get("output", [])),
    )


def _first(message: Message, name: str) -> Message:
    found: Message = (message.get(name) or [Message()])[0]
    return found


def _text(message: Message, name: str) -> str:
    values: list[Any] = message.get(name, [])
    return values[0].decode(errors="replace") if values else ""


def _number(message: Message, name: str) -> int:
    values: list[Any] = message.get(name, [])
    return int(values[0]) if values else 0
