"""PyTorch's own weight files, zip and legacy, without PyTorch and without running anything they say.

Zip (torch 1.6 and later): `NAME/data.pkl` beside one `NAME/data/KEY` per storage, all stored uncompressed.
Legacy: pickles of a magic number, a protocol, the writer's system, the object and the storage keys, then per key
a 64-bit element count and the raw elements. Both after `torch/serialization.py`; little-endian only.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from exporters.weights.safe_pickle import ORDERED_DICT, Call, Name, PersistentId, read_pickle
from exporters.weights.tensor import StoredTensor, itemsize, stored_tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
_STORAGES = {
    f"{module}.{prefix}Storage": dtype
    for module in ("torch", "torch.cuda")
    for prefix, dtype in {
        "Double": "float64",
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
    }.items()
}
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
# Files written before torch 0.4 hold their parameters as the class itself.
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter")
_ALLOWED = frozenset((ORDERED_DICT, *_TENSORS, *_PARAMETERS, *_STORAGES))
_WRAPPERS = ("state_dict", "model_state_dict", "model")

_Storage = tuple[str, str, int]
"""Key, dtype and number of elements."""


def read_zip(data: bytes) -> dict[str, StoredTensor]:
    """Tensors of a zip checkpoint by name; raises `ValueError`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_archive(archive, limit=len(data))
    except (zipfile.BadZipFile, EOFError, OverflowError, NotImplementedError) as error:
        raise ValueError(f"a damaged zip file ({str(error) or 'it ends too early'})") from error


def _read_archive(archive: zipfile.ZipFile, limit: int) -> dict[str, StoredTensor]:
    entries = _plain_entries(archive)
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError(f"a zip file with {len(pickles)} data.pkl, not a PyTorch checkpoint")
    folder = pickles[0].removesuffix("data.pkl")
    order = archive.read(entries[folder + "byteorder"]) if folder + "byteorder" in entries else b"little"
    if order != b"little":
        raise ValueError(f"byte order {order[:20]!r} is not supported: save it on a little-endian machine")
    root, _ = read_pickle(io.BytesIO(archive.read(pickles[0])), _ALLOWED)

    def read_storage(key: str, size: int) -> bytes:
        entry = entries.get(f"{folder}data/{key}")
        if entry is None or entry.file_size != size:
            raise ValueError(f"storage {key[:40]!r} is absent or not of the {size} bytes it should have")
        return archive.read(entry)

    return _tensors(root, read_storage, limit)


def _plain_entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        packed = entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size
        if packed or entry.flag_bits & 0x1 or entry.filename in entries:
            raise ValueError(
                f"zip entry {entry.filename[:80]!r} is compressed, encrypted or doubled: not a state dict"
            )
        entries[entry.filename] = entry
    return entries


def read_legacy(data: bytes) -> dict[str, StoredTensor]:
    """Tensors of a checkpoint written before torch 1.6 by name; raises `ValueError`."""
    file = io.BytesIO(data)
    magic, _ = read_pickle(file, ())
    if magic != LEGACY_MAGIC:
        raise ValueError("a pickle, but not one written by torch.save")
    protocol, _ = read_pickle(file, ())
    system, _ = read_pickle(file, ())
    if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("only protocol 1001 written on a little-endian machine is supported: save it again")
    root, references = read_pickle(file, _ALLOWED)
    keys, _ = read_pickle(file, ())
    storages = _legacy_storages(data, file.tell(), keys, [_storage(reference) for reference in references])

    def read_storage(key: str, size: int) -> memoryview:
        if key not in storages or len(storages[key]) != size:
            raise ValueError(f"storage {key[:40]!r} is absent or not of the {size} bytes it should have")
        return storages[key]

    return _tensors(root, read_storage, limit=len(data))


def _legacy_storages(
    data: bytes, start: int, keys: Any, declared: Iterable[_Storage]
) -> dict[str, memoryview]:
    sizes = {key: (count, itemsize(dtype)) for key, dtype, count in declared}
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in sizes for key in keys):
        raise ValueError("the list of storage keys names one that no tensor uses")
    view, blocks = memoryview(data), {}
    for key in keys:
        count, size = sizes[key]
        head, end = view[start : start + 8], start + 8 + count * size
        if end > len(data) or int.from_bytes(head, "little") != count:
            raise ValueError(f"truncated or damaged at storage {key[:40]!r}, byte {start}")
        blocks[key] = view[start + 8 : end]
        start = end
    if start != len(data):
        raise ValueError(f"{len(data) - start} bytes follow the last storage")
    return blocks


def _tensors(
    root: Any, read_storage: Callable[[str, int], bytes | memoryview], limit: int
) -> dict[str, StoredTensor]:
    buffers: dict[str, bytes | memoryview] = {}
    tensors: dict[str, StoredTensor] = {}
    for name, value in _state_dict(root).items():
        call = (
            value.arguments[0]
            if isinstance(value, Call) and value.name in _PARAMETERS and value.arguments
            else value
        )
        if not (isinstance(call, Call) and call.name in _TENSORS and len(call.arguments) >= 4):
            raise ValueError(f"entry {str(name)[:80]!r} is not a tensor")
        reference, offset, shape, strides = call.arguments[:4]
        key, dtype, count = _storage(reference)
        size = count * itemsize(dtype)
        if key not in buffers:
            buffers[key] = read_storage(key, size)
        if len(buffers[key]) != size or not (isinstance(shape, tuple) and isinstance(strides, tuple)):
            raise ValueError(f"entry {str(name)[:80]!r} does not fit its storage")
        tensors[str(name)] = stored_tensor(buffers[key], dtype, shape, strides, offset)
    if sum(tensor.stored.nbytes for tensor in tensors.values()) > limit:
        raise ValueError("its tensors unfold to more bytes than the file holds")
    return tensors


def _state_dict(root: Any) -> Mapping[Any, Any]:
    for _ in range(3):
        if not isinstance(root, dict):
            break
        inner = [root[key] for key in _WRAPPERS if isinstance(root.get(key), dict)]
        if len(inner) != 1:
            break
        root = inner[0]
    if not isinstance(root, dict) or not any(isinstance(value, Call) for value in root.values()):
        raise ValueError(
            f"no state dict at its top or under exactly one of {', '.join(_WRAPPERS)}: save model.state_dict()"
        )
    return root


def _storage(reference: Any) -> _Storage:
    fields = reference.value if isinstance(reference, PersistentId) else None
    match fields:
        case ("storage", Name(kind), str(key), str(), int(count)) | (
            "storage",
            Name(kind),
            str(key),
            str(),
            int(count),
            None,
        ):
            if kind in _STORAGES and 0 <= count < 1 << 48:
                return key, _STORAGES[kind], count
    raise ValueError(
        "a tensor refers to something that is no plain storage (views of storages are not supported)"
    )
