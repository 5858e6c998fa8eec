"""Packs: round trips keep every byte, and nothing foreign, altered or half gets into a results folder."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import cli, storage
from harness.errors import HarnessError, RecordError, UsageError
from harness.records import archive as archive_module
from harness.records import record
from tests.harness.record_factory import Results, outputs


@pytest.fixture
def full(results: Results) -> Results:
    for backend in ("ascend310", "onnxruntime-cpu"):
        results.add(backend, outputs())
    return results


@pytest.fixture
def packed(full: Results, tmp_path: Path) -> Path:
    archive_module.pack(full.folder, tmp_path / "board.pack")
    return tmp_path / "board.pack"


def contents(folder: Path) -> dict[str, bytes]:
    """Path → bytes of every file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_is_packed_and_merged_is_the_same_to_the_byte(
    full: Results, packed: Path, tmp_path: Path
) -> None:
    names = archive_module.merge(packed, tmp_path / "laptop")
    assert contents(tmp_path / "laptop") == contents(full.folder)
    assert sorted(names) == sorted(contents(full.folder))
    assert archive_module.merge(packed, tmp_path / "laptop") == ()


def test_a_pack_of_the_same_results_has_the_same_bytes(full: Results, packed: Path, tmp_path: Path) -> None:
    for path in full.folder.glob("*.json"):
        path.touch()
    archive_module.pack(full.folder, tmp_path / "again.pack")
    assert (tmp_path / "again.pack").read_bytes() == packed.read_bytes()


def test_only_what_fits_a_pattern_is_packed(full: Results, tmp_path: Path) -> None:
    names = archive_module.pack(full.folder, tmp_path / "p", only=["*_ascend310_*"])
    assert len(names) == 2
    archive_module.merge(tmp_path / "p", tmp_path / "laptop")
    assert [made.case.backend for made in record.read_all(tmp_path / "laptop")] == ["ascend310"]
    with pytest.raises(UsageError, match="no record fits --only nothing"):
        archive_module.pack(full.folder, tmp_path / "q", only=["nothing"])
    assert not (tmp_path / "q").exists()


def test_every_pattern_must_fit_a_record(full: Results, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no record fits --only \*_typo_\*"):
        archive_module.pack(full.folder, tmp_path / "p", only=["*_ascend310_*", "*_typo_*"])
    names = archive_module.pack(full.folder, tmp_path / "p", only=["*_ascend310_*", "*"])
    assert len(names) == 4


LATER: dict[str, Any] = {"finished": "2025-01-02T00:00:00+00:00"}
FAILED: dict[str, Any] = {
    "status": "failed",
    "reason": "boom",
    **dict.fromkeys(("device", "data", "evidence")),
    "images": (),
    "metrics": {},
    "f1_max_thresholds": {},
}


@pytest.mark.parametrize("changes", [FAILED, {"model_sha256": "2" * 64}], ids=["failed", "measured"])
def test_a_record_is_not_packed_without_the_newer_one_that_supersedes_it(
    full: Results, tmp_path: Path, changes: Mapping[str, Any]
) -> None:
    older, _ = record.read_all(full.folder)
    newer = record.path_of(full.folder, full.add("ascend310", outputs(), **changes, **LATER)).name
    name = record.path_of(full.folder, older).name
    with pytest.raises(UsageError, match=f"{newer} supersedes {name} and would stay behind"):
        archive_module.pack(full.folder, tmp_path / "p", only=[name])
    assert not (tmp_path / "p").exists()
    assert name in archive_module.pack(full.folder, tmp_path / "p", only=[name, newer])
    assert newer in archive_module.pack(full.folder, tmp_path / "p", only=[newer])


def test_the_record_that_stays_behind_is_named_not_one_that_is_packed(full: Results, tmp_path: Path) -> None:
    older, _ = record.read_all(full.folder)
    assert older.data is not None
    failed = full.add("ascend310", outputs(), **FAILED, **LATER)
    again = full.add(
        "ascend310",
        outputs(),
        model_sha256="2" * 64,
        data=msgspec.structs.replace(older.data, fingerprint="9" * 64),
        finished="2025-01-03T00:00:00+00:00",
    )
    names = [record.path_of(full.folder, item).name for item in (older, again)]
    with pytest.raises(UsageError, match=f"{record.path_of(full.folder, failed).name} supersedes {names[0]}"):
        archive_module.pack(full.folder, tmp_path / "p", only=names)


def test_an_older_failure_and_another_detector_may_stay_behind(full: Results, tmp_path: Path) -> None:
    newest = full.add("ascend310", outputs(), model_sha256="2" * 64, **LATER)
    full.add("ascend310", outputs(), model_sha256="3" * 64, **FAILED)
    full.add("ascend310", outputs(), detector_sha256="b" * 64, finished="2025-01-03T00:00:00+00:00")
    name = record.path_of(full.folder, newest).name
    assert len(archive_module.pack(full.folder, tmp_path / "p", only=[name])) == 2


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_record_without_its_evidence_is_not_packed(full: Results, tmp_path: Path, damage: str) -> None:
    path = next(full.folder.glob("evidence/*"))
    path.unlink() if damage == "missing" else path.write_bytes(b"else")
    with pytest.raises(RecordError, match=damage):
        archive_module.pack(full.folder, tmp_path / "p")
    assert not (tmp_path / "p").exists()


Files = dict[str, bytes]


def repacked(
    packed: Path,
    change: Callable[[Files], None],
    *,
    listed: bool = True,
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """Write the pack again with other contents, its list brought up to date or not."""
    with zipfile.ZipFile(packed) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(files.pop("pack.json"))
    change(files)
    if listed:
        manifest["files"] = digests(files, packed.parent / "scratch")
    with zipfile.ZipFile(packed, "w", compression) as archive:
        archive.writestr("pack.json", json.dumps(manifest))
        for name, data in files.items():
            archive.writestr(name, data)


def digests(files: Mapping[str, bytes], scratch: Path) -> dict[str, str]:
    found = {}
    for name, data in files.items():
        scratch.write_bytes(data)
        found[name] = storage.sha256_of_file(scratch)
    return found


def first(files: Files, *, evidence: bool) -> str:
    return min(name for name in files if ("/" in name) == evidence)


def alter(files: Files) -> None:
    files[first(files, evidence=True)] += b"x"


def drop(files: Files) -> None:
    del files[first(files, evidence=True)]


ATTACKS: dict[str, tuple[Callable[[Files], None], bool, str]] = {
    "altered": (alter, False, "was altered"),
    "altered and listed": (alter, True, "altered since"),
    "dropped": (drop, False, "holds other files than it lists"),
    "dropped and listed": (drop, True, "is missing or belongs to no record"),
    "smuggled": (lambda files: files.update({"more.json": b"{}"}), False, "holds other files than it lists"),
    "smuggled record": (lambda files: files.update({"more.json": b"{}"}), True, "not a record"),
    "stray": (lambda files: files.update({"run.sh": b"x"}), True, "belongs to no record"),
    "stray evidence": (lambda files: files.update({"evidence/x": b"x"}), True, "belongs to no record"),
    "up": (lambda files: files.update({"../x.json": b"{}"}), True, "leaves its folder"),
    "deep up": (lambda files: files.update({"evidence/../../x": b"{}"}), True, "leaves its folder"),
    "absolute": (lambda files: files.update({"/tmp/x.json": b"{}"}), True, "leaves its folder"),  # noqa: S108
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_pack_that_was_tampered_with_is_refused_and_leaves_nothing(
    packed: Path, tmp_path: Path, name: str
) -> None:
    change, listed, words = ATTACKS[name]
    repacked(packed, change, listed=listed)
    before = contents(tmp_path)
    with pytest.raises(RecordError, match=words):
        archive_module.merge(packed, tmp_path / "laptop")
    assert contents(tmp_path) == before


def test_a_compressed_pack_is_refused(packed: Path, tmp_path: Path) -> None:
    repacked(packed, lambda _: None, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(RecordError, match="compressed"):
        archive_module.merge(packed, tmp_path / "laptop")


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_pack_is_refused(packed: Path, tmp_path: Path, content: bytes | None) -> None:
    packed.write_bytes(packed.read_bytes()[:-30] if content is None else content)
    with pytest.raises(RecordError, match="not a pack of this harness"):
        archive_module.merge(packed, tmp_path / "laptop")


def test_another_file_of_the_same_name_stays_unless_forced(packed: Path, tmp_path: Path) -> None:
    laptop = tmp_path / "laptop"
    archive_module.merge(packed, laptop)
    other, path = sorted(laptop.glob("*.json"))
    (laptop / "evidence" / f"{other.stem}.safetensors").unlink()
    path.write_bytes(path.read_bytes() + b"\n")
    before = contents(laptop)
    with pytest.raises(UsageError, match=f"{path.name}: another file of this name"):
        archive_module.merge(packed, laptop)
    assert contents(laptop) == before
    assert len(archive_module.merge(packed, laptop, force=True)) == 2
    assert path.read_bytes() == before[path.name].rstrip(b"\n") + b"\n"


def test_a_link_out_of_the_results_folder_is_not_followed(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "laptop").mkdir()
    (tmp_path / "laptop" / "evidence").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="leaves its folder"):
        archive_module.merge(packed, tmp_path / "laptop")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("force", [False, True])
def test_a_merge_that_fails_half_way_leaves_everything_as_it_was(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, force: bool
) -> None:
    laptop = tmp_path / "laptop"
    if force:
        archive_module.merge(packed, laptop)
        for path in laptop.glob("evidence/*"):
            path.write_bytes(b"mine")
    before = contents(laptop) if force else {}
    replace, moved = Path.replace, list[Path]()

    def failing(self: Path, target: Path) -> Path:
        moved.append(self)
        if len(moved) == (4 if force else 3):
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(HarnessError, match="No space left on device"):
        archive_module.merge(packed, laptop, force=force)
    assert contents(laptop) == before


@pytest.mark.parametrize("there", [False, True])
def test_a_refused_merge_makes_no_folder_and_removes_none(tmp_path: Path, *, there: bool) -> None:
    laptop = tmp_path / "laptop"
    if there:
        laptop.mkdir()
    (tmp_path / "p.pack").write_bytes(b"no zip")
    assert cli.main(["merge", str(tmp_path / "p.pack"), "--into", str(laptop)]) == 2
    assert laptop.exists() == there


def test_a_pack_that_is_not_there_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["merge", str(tmp_path / "p.pack"), "--into", str(tmp_path / "laptop")]) == 2
    assert "p.pack: no such file" in capsys.readouterr().err


def test_the_commands_carry_results_over(
    full: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack, laptop = tmp_path / "p.pack", tmp_path / "laptop"
    assert cli.main(["pack", str(full.folder), "--to", str(pack)]) == 0
    assert cli.main(["merge", str(pack), "--into", str(laptop)]) == 0
    assert f"{laptop}: 4 files added, 2 of them records" in capsys.readouterr().out
    assert contents(laptop) == contents(full.folder)
