"""Files: written whole or not at all, digested, and never outside their folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from harness.errors import HarnessError, UsageError
from harness.types import AnyArray

T = TypeVar("T")


class _Versioned(msgspec.Struct):
    schema: int


_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_COPIES = {
    "s3": ("aws s3 cp --recursive {source} {target}", "aws s3 cp {source} {target}"),
    "obs": ("obsutil cp {source} {target} -r -f", "obsutil cp {source} {target} -f"),
}
"""The command that copies a folder, and a single file."""


def local_path(text: str) -> Path:
    """The local path in a command-line argument; all such paths are read here.

    Raises:
        UsageError: an address in object storage, with the command that copies it; or another address.
    """
    url = _SCHEME.match(text.strip())
    if url is None:
        return Path(text)
    scheme = url[1].lower()
    if scheme not in _COPIES:
        raise UsageError(f"{text}: {scheme}:// is not read here: give the path of a local file or folder")
    copy = _COPIES[scheme][bool(Path(text).suffix)]
    fetch = copy.format(source=shlex.quote(text), target="LOCAL")
    bring = copy.format(source="LOCAL", target=shlex.quote(text))
    raise UsageError(
        f"{text}: object storage is neither read nor written: copy it here and give the local path: {fetch} "
        f"(results go the other way: {bring})"
    )


def shipped(name: str) -> Path:
    """A folder of data that is installed with the program: `suites`, `gates` or `published`."""
    packed = Path(__file__).parent / "shipped" / name  # in a wheel
    checkout = {"suites": "benchmarks/suites", "gates": "benchmarks/gates", "published": "results/published"}
    return packed if packed.is_dir() else Path(__file__).parents[1] / checkout[name]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)  # noqa: PTH101 - mkstemp and MindSpore both write files others cannot read
        temporary.replace(path)
    except OSError as error:
        if (
            error.filename is None or Path(os.fsdecode(error.filename)) == temporary
        ):  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its place when the block ends without an error.

    Raises:
        UsageError: something is at `path` already.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path}: not empty; name a new folder, or remove this one")
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent) as temporary:
        new = temporary / path.name
        new.mkdir()
        yield new
        new.replace(path)


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Give a temporary folder inside `parent`; it is removed when the block ends."""
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=".scratch-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, document: Any) -> None:
    """Write `document` as readable JSON; NaN and infinities raise `ValueError`."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path, kind: type[T], *, schema: int, error: type[HarnessError], remedy: str) -> T:
    """Read a JSON document of `kind` strictly; `error` says where it is wrong, then the `remedy`."""
    return read_document(path, kind, schema=schema, error=error, remedy=remedy)[0]


def read_document(
    path: Path, kind: type[T], *, schema: int, error: type[HarnessError], remedy: str
) -> tuple[T, dict[str, Any]]:
    """As `read_json`, with the object of the file itself, in which absent keys are absent."""
    name = kind.__name__.lower()
    name = f"an {name}" if name[0] in "aeiou" else f"a {name}"
    try:
        document = msgspec.json.decode(path.read_bytes())
        version = msgspec.convert(document, _Versioned).schema
        if version != schema:
            raise error(f"{path}: schema {version}, this harness reads {schema}; {remedy}")
        return msgspec.convert(document, kind), document
    except (OSError, UnicodeDecodeError, RecursionError, msgspec.DecodeError) as problem:
        raise error(f"{path}: not {name} of this harness: {problem}; {remedy}") from problem


def save_arrays(
    arrays: Mapping[str, AnyArray], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays as safetensors, with `metadata` in the header.

    Arrays are made contiguous: the library writes memory in its order, which would scramble a transposed view.

    Raises:
        OSError: the file cannot be written, for example on a full disk.
    """
    try:
        safetensors.numpy.save_file(
            {name: np.asarray(array, order="C") for name, array in arrays.items()},
            path,
            metadata=None if metadata is None else dict(metadata),
        )
    except safetensors.SafetensorError as error:
        raise OSError(errno.EIO, f"cannot write the arrays ({error})", str(path)) from error


def require_writable(folder: Path) -> None:
    """Raise `UsageError` unless files can be made in `folder`: before hours of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: cannot write here ({error.strerror}); choose another folder") from error


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_array(array: AnyArray) -> str:
    """Hexadecimal SHA-256 of an array's dtype, shape and bytes, so that a reshape is a difference."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def sha256_of_arrays(arrays: Mapping[str, AnyArray]) -> str:
    """Hexadecimal SHA-256 over named arrays, whatever their order."""
    return sha256_of_json({name: sha256_of_array(array) for name, array in arrays.items()})


def sha256_of_json(document: Any) -> str:
    """Hexadecimal SHA-256 of a document's canonical JSON form (sorted keys, no blanks)."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def inside(folder: Path, name: str, error: type[HarnessError]) -> Path:
    """`folder / name`, or `error` when that would leave `folder` (absolute, `..`, or through a link)."""
    path = folder / name
    if (
        "\0" in name
        or Path(name).is_absolute()
        or not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    ):
        raise error(f"{name!r} leaves its folder {folder}: files are only read below it")
    return path
