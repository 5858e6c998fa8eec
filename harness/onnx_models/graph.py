"""The parts of an ONNX file that say how the model is used, and the files that belong to the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import storage
from harness.errors import ArtifactError, MissingExtra
from harness.types import AnyArray

if TYPE_CHECKING:
    import onnx

# Of TensorProto.DataType; no picture, map or score has one of the others.
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
_CONSTANTS: Mapping[int, tuple[np.dtype[Any], str]] = {
    1: (np.dtype("<f4"), "float_data"),
    7: (np.dtype("<i8"), "int64_data"),
}
"""Data type of a constant that is read → how it is stored, and the field for values that are not raw bytes."""
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Domains of the operators that a stock onnxruntime runs."""
_EXTERNAL = 1
"""TensorProto.DataLocation of a tensor whose values lie in another file."""
_LARGEST = 1024
"""Bytes of the largest tensor that is read; larger tensors are weights."""


def printable(text: str) -> str:
    """`text` from a file as a terminal may show it: quoted and escaped if a character is not printable."""
    return text if text.isprintable() else repr(text)


def is_name(text: str) -> bool:
    """Whether `text` is one line of printable characters, as records and tables need it."""
    return bool(text.strip()) and text.isprintable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An input or output of the graph."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    """A free side is `None`; the whole shape is `None` if the file does not state the rank."""

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
    """Keys and values; a file may hold the same key twice."""
    inputs: tuple[Value, ...]
    """Without those that have an initial value."""
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, AnyArray]
    """Small constants: name → float32 or int64 values, flat."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shapes of all initial values, large ones too."""
    files: Mapping[str, str]
    """Name relative to the model's folder → SHA-256: the model, then its external data."""


def read(path: Path) -> Graph:
    """Read an ONNX file and digest it with its external data; nothing in the file is executed.

    Raises:
        ArtifactError: the file is no ONNX model, is truncated, or needs custom operators; its external data is missing, too
            short, or outside the model's folder; or no record may hold the file's name.
        MissingExtra: onnx is not installed.
    """
    _require_file(path, "no such file", "name an .onnx file")
    if not is_name(path.stem):
        raise ArtifactError(
            f"{str(path)!r}: its name is not one line of printable characters; rename the file"
        )
    model = _load(path)
    graph = model.graph
    if not (graph.node and graph.output and model.opset_import):
        raise _unreadable(path, "no graph")
    _require_known_operators(path, model)
    initialised = {_text(tensor.name) for tensor in graph.initializer}
    return Graph(
        path=path,
        producer=f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(),
        opsets={_text(opset.domain): opset.version for opset in model.opset_import},
        metadata=tuple((_text(entry.key), _text(entry.value)) for entry in model.metadata_props),
        inputs=tuple(_value(value) for value in graph.input if _text(value.name) not in initialised),
        outputs=tuple(_value(value) for value in graph.output),
        nodes=tuple(_node(node) for node in graph.node),
        constants=_constants(graph),
        shapes={_text(tensor.name): tuple(tensor.dims) for tensor in graph.initializer},
        files={path.name: storage.sha256_of_file(path), **_external(path, model)},
    )


def opset_of(model: onnx.ModelProto) -> int:
    """Opset of ONNX's own operators."""
    return next(int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx"))


def _load(path: Path) -> onnx.ModelProto:
    """Parse the file. External data is not opened: `_external` checks first where it lies."""
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise MissingExtra("onnx", "ort", needed_for="Reading an ONNX model from elsewhere") from error
    try:
        return onnx.load(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, RecursionError) as error:  # the last two: protobuf in pure Python
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, why: str) -> ArtifactError:
    return ArtifactError(f"{path}: not an ONNX model, or a truncated one ({why}); copy or export it again")


def _require_file(path: Path, missing: str, remedy: str) -> None:
    if not path.is_file():
        problem = "a folder or a device, not a file" if path.exists() else missing
        raise ArtifactError(f"{printable(str(path))}: {problem}; {remedy}")


def _require_known_operators(path: Path, model: onnx.ModelProto) -> None:
    known = {*_KNOWN_DOMAINS, *(_text(function.domain) for function in model.functions)}
    custom = {
        f"{_text(message.domain)}.{_text(message.op_type)}"
        for message in _messages(model, "NodeProto")
        if _text(message.domain) not in known
    }
    if custom:
        raise ArtifactError(
            f"{path}: needs custom operators ({', '.join(map(printable, sorted(custom)))}); libraries of custom operators are never "
            "loaded: export it with ONNX's own"
        )


def _messages(model: onnx.ModelProto, kind: str) -> Iterator[Any]:
    """All protobuf messages of a kind, also in functions, attributes, sparse tensors and graphs inside nodes."""
    stack: list[Any] = [*reversed(model.functions), model.graph]
    while stack:
        message = stack.pop()
        if message.DESCRIPTOR.name == kind:
            yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack += [value] if hasattr(value, "DESCRIPTOR") else value


def _external(path: Path, model: onnx.ModelProto) -> dict[str, str]:
    """Digests of the files that hold weights outside the model."""
    needed: dict[str, int] = {}
    for tensor in _messages(model, "TensorProto"):
        if tensor.data_location != _EXTERNAL:
            continue
        entries = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
        location = entries.get("location", "")
        if not location:
            raise ArtifactError(
                f"{path}: weights {_text(tensor.name)!r} lie in a file that the model does not name"
            )
        try:
            end = int(entries.get("offset") or 0) + int(entries.get("length") or 0)
        except ValueError as error:
            raise ArtifactError(
                f"{path}: offset and length of its external data are no numbers ({error})"
            ) from error
        needed[location] = max(needed.get(location, 0), end)
    for location, end in needed.items():
        file = storage.inside(path.parent, location, ArtifactError)
        if ".." in Path(location).parts:
            raise ArtifactError(
                f"{path}: its external data {location!r} is not the direct path; save the model again"
            )
        _require_file(file, "missing", f"it holds weights of {path.name}: copy both files together")
        if file.stat().st_size < end:
            raise ArtifactError(
                f"{printable(str(file))}: truncated: {path.name} wants {end} bytes of it, it has {file.stat().st_size}; copy it again"
            )
    return {location: storage.sha256_of_file(path.parent / location) for location in sorted(needed)}


def _constants(graph: onnx.GraphProto) -> dict[str, AnyArray]:
    tensors = {_text(tensor.name): tensor for tensor in graph.initializer}
    for node in graph.node:
        values = [attribute.t for attribute in node.attribute if attribute.HasField("t")]
        if node.op_type == "Constant" and len(values) == 1:
            tensors["".join(map(_text, node.output[:1]))] = values[0]
    arrays = {name: _array(tensor) for name, tensor in tensors.items()}
    return {name: array for name, array in arrays.items() if array is not None}


def _array(tensor: onnx.TensorProto) -> AnyArray | None:
    """Values of a small float32 or int64 tensor, flat; `None` for any other, and if the values do not fit the shape."""
    if tensor.data_type not in _CONSTANTS or tensor.data_location == _EXTERNAL:
        return None
    dtype, field = _CONSTANTS[tensor.data_type]
    size = math.prod(tensor.dims)
    if not 0 <= size * dtype.itemsize <= _LARGEST:
        return None
    if tensor.raw_data:
        fits = len(tensor.raw_data) == size * dtype.itemsize
        return np.frombuffer(tensor.raw_data, dtype) if fits else None
    values = getattr(tensor, field)
    return np.array(values, dtype) if len(values) == size else None


def _value(value: onnx.ValueInfoProto) -> Value:
    tensor = value.type.tensor_type
    shape = tuple(side.dim_value if side.dim_value > 0 else None for side in tensor.shape.dim)
    return Value(
        name=_text(value.name),
        dtype=_DTYPES.get(tensor.elem_type, f"type {tensor.elem_type}"),
        shape=shape if tensor.HasField("shape") else None,
    )


def _node(node: onnx.NodeProto) -> Node:
    return Node(
        operator=_text(node.op_type),
        inputs=tuple(map(_text, node.input)),
        outputs=tuple(map(_text, node.output)),
    )


def _text(text: str | bytes) -> str:
    """A text of the file; protobuf gives bytes for one that is not UTF-8."""
    return text.decode(errors="replace") if isinstance(text, bytes) else text
