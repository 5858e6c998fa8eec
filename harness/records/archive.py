"""Packs records with their files into one file, to carry them to another machine and merge them there.

A zip archive, uncompressed, with fixed times and order: equal results give equal bytes. `pack.json` digests every other
member. Merging checks everything in a folder of its own before the first file takes its place.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from harness import storage
from harness.errors import HarnessError, RecordError, UsageError
from harness.records import record

SCHEMA = 1
MANIFEST = "pack.json"
_REMEDY = "carry the file over again, or pack it again"


class Pack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of `pack.json`."""

    schema: int
    files: dict[str, str]
    """Path below the results folder → SHA-256."""


def pack(results: Path, target: Path, *, only: Sequence[str] = ()) -> tuple[str, ...]:
    """Write records, evidence and saved outputs into one file and return their names.

    Args:
        results: Results folder.
        target: The file to write.
        only: Patterns as in a shell; a record whose file name fits one of them goes in. All when none is given.
            Each must fit a record.

    Raises:
        RecordError: a record or what belongs to it is missing or was altered.
        UsageError: no record fits a pattern, or a record would go without the newer one that supersedes it.
    """
    files: dict[str, str] = {}
    for entry_record in _chosen(results, only):
        path = record.path_of(results, entry_record)
        files[path.name] = storage.sha256_of_file(path)
        for name, digest in _attached(entry_record).items():
            _require_digest(storage.inside(results, name, RecordError), digest)
            files[name] = digest
    with storage.replacing(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        manifest = msgspec.json.encode(Pack(schema=SCHEMA, files=dict(sorted(files.items()))))
        with archive.open(_member(MANIFEST, len(manifest)), "w") as entry:
            entry.write(manifest)
        for name in sorted(files):
            path = results / name
            with path.open("rb") as source, archive.open(_member(name, path.stat().st_size), "w") as entry:
                shutil.copyfileobj(source, entry)
    return tuple(sorted(files))


def _chosen(results: Path, only: Sequence[str]) -> tuple[record.Record, ...]:
    """The records that match a pattern; refuses one if a newer record of its case would stay behind."""
    everything = {
        record.path_of(results, candidate).name: candidate for candidate in record.read_all(results)
    }
    fitting = {
        pattern: {name for name in everything if fnmatch.fnmatchcase(name, pattern)} for pattern in only
    }
    for pattern, names_of_pattern in fitting.items():
        if not names_of_pattern:
            raise UsageError(f"{results}: no record fits --only {pattern}")
    names = set[str]().union(*fitting.values()) if only else set(everything)
    chosen = tuple(candidate for name, candidate in everything.items() if name in names)
    newest = record.latest(tuple(everything.values()))
    for candidate in record.latest(chosen):
        if candidate in newest:
            continue
        behind = [
            (newer.finished, name)
            for name, newer in everything.items()
            if name not in names
            and (newer.case, newer.detector_sha256) == (candidate.case, candidate.detector_sha256)
            and newer.finished >= candidate.finished
        ]
        raise UsageError(
            f"{results}: {max(behind)[1]} supersedes {record.path_of(results, candidate).name} and would stay behind; "
            "take it along with another --only"
        )
    return chosen


def _attached(owner: record.Record) -> dict[str, str]:
    """Files that belong to a record, with their digests."""
    return {part.file: part.sha256 for part in (owner.evidence, owner.outputs) if part is not None}


def _require_digest(path: Path, expected: str) -> None:
    if not path.is_file():
        raise RecordError(
            f"{path}: missing; copy `evidence` along with the records, or pack with --only others"
        )
    if storage.sha256_of_file(path) != expected:
        raise RecordError(f"{path}: altered since its record was written; bench the case again")


def _member(name: str, size: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)  # of 1980-01-01
    member.external_attr = 0o644 << 16
    member.create_system = 3  # Unix, on every system
    member.file_size = size  # decides between the two forms of a member
    return member


def merge(source: Path, results: Path, *, force: bool = False) -> tuple[str, ...]:
    """Add a pack's records to a results folder, all or none, and give the names of the files that are new there.

    Args:
        source: What `pack` wrote.
        results: Results folder, which need not exist.
        force: Replace files of the same name that differ.

    Raises:
        RecordError: the pack was altered, or holds anything but records and what belongs to them.
        UsageError: no such file, or another file of one of the names is there already.
    """
    if not source.is_file():
        raise UsageError(f"{source}: no such file: name what `python -m harness pack` wrote")
    new = not results.exists()
    storage.require_writable(results)
    try:
        with storage.scratch_folder(results) as temporary:
            names = _unpacked(source, temporary)
            fresh = [name for name in names if not _is_there(results, temporary, name, force=force)]
            _move(temporary, results, fresh)
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                results.rmdir()
        raise
    return tuple(fresh)


def _unpacked(source: Path, folder: Path) -> list[str]:
    """Extract a pack that is whole and holds records with what belongs to them, and nothing else; gives the names."""
    try:
        with zipfile.ZipFile(source) as archive:
            names = _unpack(source, archive, folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise RecordError(f"{source}: not a pack of this harness ({error}); {_REMEDY}") from error
    _require_records(source, folder, names)
    return names


def _unpack(source: Path, archive: zipfile.ZipFile, folder: Path) -> list[str]:
    """Extract what `pack.json` lists, checked against its digests; gives the names."""
    members = {member.filename: member for member in archive.infolist()}
    if MANIFEST not in members:
        raise RecordError(f"{source}: not a pack of this harness (no {MANIFEST}); {_REMEDY}")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise RecordError(f"{source}: compressed, as no pack of this harness is; {_REMEDY}")
    with archive.open(members[MANIFEST]) as entry:
        (folder / MANIFEST).write_bytes(entry.read())
    manifest = storage.read_json(folder / MANIFEST, Pack, schema=SCHEMA, error=RecordError, remedy=_REMEDY)
    (folder / MANIFEST).unlink()
    if sorted([*manifest.files, MANIFEST]) != sorted(member.filename for member in archive.infolist()):
        raise RecordError(f"{source}: holds other files than it lists; {_REMEDY}")
    for name, expected in manifest.files.items():
        path = storage.inside(folder, name, RecordError)
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(members[name]) as entry, path.open("xb") as target:
            if _copied(entry, target) != expected:
                raise RecordError(f"{source}: {name} was altered; {_REMEDY}")
    return sorted(manifest.files)


def _copied(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy and give the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    while block := source.read(1 << 20):
        digest.update(block)
        target.write(block)
    return digest.hexdigest()


def _require_records(source: Path, folder: Path, names: Sequence[str]) -> None:
    """Raise `RecordError` unless the files are records and exactly what belongs to them."""
    expected: dict[str, str] = {}
    for member in record.read_all(folder):
        expected[record.path_of(folder, member).name] = ""
        expected |= _attached(member)
    if sorted(expected) != list(names):
        odd = sorted(set(expected) ^ set(names))
        raise RecordError(f"{source}: {odd[0]} is missing or belongs to no record in it; {_REMEDY}")
    for name, digest in expected.items():
        if digest:
            _require_digest(folder / name, digest)


def _is_there(results: Path, temporary: Path, name: str, *, force: bool) -> bool:
    """Whether the same file is in place already."""
    path = storage.inside(results, name, UsageError)
    if not path.exists():
        return False
    if path.is_file() and storage.sha256_of_file(path) == storage.sha256_of_file(temporary / name):
        return True
    if not force:
        raise UsageError(f"{path}: another file of this name is there; merge into another folder, or --force")
    return False


def _move(temporary: Path, results: Path, names: Sequence[str]) -> None:
    """Put the files in their places, records last; when one fails, everything is as it was."""
    placed: list[str] = []
    replaced = temporary / "replaced"
    try:
        for name in sorted(names, key=lambda name: ("/" not in name, name)):
            path = results / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                (replaced / name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(replaced / name)
            placed.append(name)
            (temporary / name).replace(path)
    except OSError as error:
        for name in placed:
            (results / name).unlink(missing_ok=True)
            if (replaced / name).exists():
                (replaced / name).replace(results / name)
        raise HarnessError(f"{results}: cannot write here ({error.strerror}); nothing was merged") from error
