from __future__ import annotations

import argparse
import errno
import hashlib
import json
import math
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from harness import cli, storage
from harness.cli import arguments
from harness.errors import ArtifactError, RecordError, UsageError
from harness.types import AnyArray


class Interrupt(BaseException):
    """Not an `Exception`, as Ctrl-C is not."""


class Note(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    lines: list[str]


def read(path: Path) -> Note:
    return storage.read_json(path, Note, schema=2, error=RecordError, remedy="write it again")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, Interrupt])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "note"
    path.write_text("old")

    def write() -> None:
        with storage.replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["note"]


def test_a_killed_process_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    path.write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from harness import storage\n"
        "with storage.replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"
    assert list(tmp_path.glob("*.json")) == [path]  # what is left behind is hidden and not of the kind


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "note"
    storage.write_bytes(path, b"old")
    with storage.replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent  # `os.replace` is atomic within one file system only
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_written_files_can_be_read_by_others(tmp_path: Path) -> None:
    with storage.replacing(tmp_path / "note") as temporary:
        temporary.chmod(0o600)
    assert stat.S_IMODE((tmp_path / "note").stat().st_mode) == 0o644


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    storage.write_bytes(link, b"new")
    assert target.read_text() == "precious"
    assert not link.is_symlink()


def test_json_is_readable_and_keeps_umlauts(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "a.json", {"kind": "Riß", "scores": [0.5]})
    assert (tmp_path / "a.json").read_text(
        encoding="utf-8"
    ) == '{\n "kind": "Riß",\n "scores": [\n  0.5\n ]\n}\n'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_without_a_number_is_neither_written_nor_digested(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(path, {"score": [value]})
    with pytest.raises(ValueError, match="JSON"):
        storage.sha256_of_json({"score": [value]})
    assert path.read_text() == "old"


def test_json_written_is_read_back(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "a.json", {"schema": 2, "lines": ["ü"]})
    assert read(tmp_path / "a.json") == Note(schema=2, lines=["ü"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (b'{"schema": 2, "lines": ["\xff"]}', "(utf|UTF)-8"),
        (b'{"schema": 2, "lines": [NaN]}', "malformed"),
        (b'{"schema": 2}', "missing required field `lines`"),
        (b'{"schema": 2, "lines": [], "linse": []}', "unknown field `linse`"),
        (b'{"schema": 2, "lines": ["a", 1]}', r"Expected `str`, got `int` - at `\$\.lines\[1\]`"),
        (b'{"lines": []}', "missing required field `schema`"),
        (b'{"schema": 3, "lines": [], "margins": 1}', "schema 3, this harness reads 2"),
    ],
)
def test_json_of_another_form_is_refused_with_file_place_and_remedy(
    tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(RecordError, match=rf"a\.json: .*{message}.*; write it again"):
        read(tmp_path / "a.json")


def test_json_that_is_missing_or_endlessly_nested_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"a\.json: .*No such file.*; write it again"):
        read(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"schema": 2, "extra": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(RecordError, match=r"a\.json: .*; write it again"):
        read(tmp_path / "a.json")


def test_file_digests_are_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * (1 << 13)  # more than two blocks
    (tmp_path / "a").write_bytes(data + b"end")
    assert storage.sha256_of_file(tmp_path / "a") == hashlib.sha256(data + b"end").hexdigest()


def test_array_digests_tell_shape_type_and_values_apart() -> None:
    array = np.arange(6, dtype=np.int32)
    others: list[AnyArray] = [
        array.reshape(2, 3),
        array.reshape(3, 2),
        array.astype(np.int64),
        array.view(np.uint32),
        array.astype(">i4"),
        array[::-1],
        np.zeros(6, np.int32),
        np.zeros((0, 6), np.int32),
    ]
    assert len({storage.sha256_of_array(item) for item in [array, *others]}) == 9


def test_array_digests_are_of_type_shape_and_bytes_in_rows() -> None:
    array = np.array([[1, 2, 3], [4, 5, 6]], "<u2")
    data = b"<u2(2, 3)" + bytes([1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0])
    assert storage.sha256_of_array(array) == hashlib.sha256(data).hexdigest()


def test_array_digests_do_not_depend_on_memory_layout() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = storage.sha256_of_array(array.copy())
    assert storage.sha256_of_array(np.asfortranarray(array)) == expected
    assert storage.sha256_of_array(np.repeat(array, 2, axis=1)[:, ::2]) == expected


def test_digests_of_named_arrays_depend_on_names_but_not_on_their_order() -> None:
    one, two = np.zeros(2), np.ones(2)
    digest = storage.sha256_of_arrays({"a": one, "b": two})
    assert storage.sha256_of_arrays({"b": two, "a": one}) == digest
    assert storage.sha256_of_arrays({"a": two, "b": one}) != digest
    assert storage.sha256_of_arrays({"a": one, "c": two}) != digest


def test_json_digests_are_of_the_canonical_form() -> None:
    expected = hashlib.sha256('{"a":[1,2.5],"ü":{"b":null,"c":true}}'.encode()).hexdigest()
    assert storage.sha256_of_json({"ü": {"c": True, "b": None}, "a": [1, 2.5]}) == expected
    assert storage.sha256_of_json(json.loads('{"a": [1, 2.5], "ü": {"b": null, "c": true}}')) == expected
    assert storage.sha256_of_json({"ü": {"c": True, "b": None}, "a": [2.5, 1]}) != expected


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../beside", "a/../../beside", "out/secret", "loop/a", "..", "a\0b"]
)
def test_no_name_leaves_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "beside").write_text("secret")
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to("../folder2")
    with pytest.raises(ArtifactError, match=r"leaves its folder .*folder"):
        storage.inside(folder, name, ArtifactError)


def test_an_absolute_name_is_refused_wherever_it_points(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="leaves its folder"):
        storage.inside(tmp_path, str(tmp_path / "a"), RecordError)


@pytest.mark.parametrize("name", ["a", "b/a", "b/../a", "not there", "link", "..a"])
def test_names_below_the_folder_are_given_as_paths(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "link to folder"
    (tmp_path / "folder" / "b").mkdir(parents=True)
    folder.symlink_to("folder")
    (folder / "link").symlink_to("b")
    assert storage.inside(folder, name, ArtifactError) == folder / name


# --- paths from the command line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["data", "/data/mvtec", "../up", "s3", "s3:/bucket", "a b", "über/x.pth", "C:data"]
)
def test_a_local_path_stays_what_it_is(text: str) -> None:
    assert storage.local_path(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "fetch", "bring"),
    [
        ("s3://bucket/mvtec", "aws s3 cp --recursive s3://bucket/mvtec LOCAL", "LOCAL s3://bucket/mvtec"),
        ("S3://bucket/mvtec/", "aws s3 cp --recursive S3://bucket/mvtec/ LOCAL", "LOCAL S3://bucket/mvtec/"),
        ("s3://bucket/w.pth", "aws s3 cp s3://bucket/w.pth LOCAL", "aws s3 cp LOCAL s3://bucket/w.pth"),
        ("obs://bucket/data", "obsutil cp obs://bucket/data LOCAL -r -f", "LOCAL obs://bucket/data -r -f"),
        ("obs://b/w.ckpt", "obsutil cp obs://b/w.ckpt LOCAL -f", "LOCAL obs://b/w.ckpt -f"),
        ("s3://my bucket/x", "aws s3 cp --recursive 's3://my bucket/x' LOCAL", "LOCAL 's3://my bucket/x'"),
        (" s3://bucket/x", "aws s3 cp --recursive ' s3://bucket/x' LOCAL", ""),
    ],
)
def test_object_storage_is_refused_with_the_commands_that_copy(text: str, fetch: str, bring: str) -> None:
    with pytest.raises(UsageError) as caught:
        storage.local_path(text)
    assert str(caught.value).startswith(f"{text}: object storage is neither read nor written")
    assert f"give the local path: {fetch} (" in str(caught.value)
    assert str(caught.value).endswith(f"{bring})")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["file:///data", "https://example.org/w.pth", "gs://bucket/x", "hdfs://a/b"])
def test_other_addresses_are_refused(text: str) -> None:
    scheme = text.partition(":")[0]
    with pytest.raises(UsageError, match=rf"{scheme}:// is not read here: give the path of a local"):
        storage.local_path(text)


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """All arguments of all commands."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [inner for sub in action.choices.values() for inner in actions(sub)]
        else:
            found.append(action)
    return found


def test_every_path_of_the_command_line_goes_through_one_function() -> None:
    of_paths = {"DIR", "FILE", "W", "OUT", "ARTIFACT", "INDEX", "OUT.safetensors"}
    for action in actions(cli.parser()):
        assert action.type is not Path, action
        assert action.metavar not in of_paths or action.type is arguments.path, action


REFUSED = [
    ["bench", "--artifact", "s3://b/a"],
    ["bench", "--suite", "padim", "--data", "s3://b/a"],
    ["bench", "--suite", "s3://b/own.toml", "--data", "d"],
    ["bench", "--out", "s3://b/a"],
    ["fit", "--data", "d", "--weights", "s3://b/w.pth"],
    ["fit", "--data", "d", "--init-from", "s3://b/w.pth"],
    ["export", "s3://b/a", "--format", "onnx"],
    ["parity", "--reference", "x", "--results", "s3://b/a"],
    ["parity", "--reference", "x", "--report", "s3://b/a"],
    ["tables", "--results", "s3://b/a"],
    ["data", "synth", "s3://b/a"],
    ["data", "check", "s3://b/a"],
    ["weights", "convert", "s3://b/w.pth", "w.safetensors"],
    ["weights", "convert", "w.pth", "s3://b/w.safetensors"],
]


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_the_command_line_refuses_object_storage_with_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert "aws s3 cp" in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_a_path_among_the_settings_is_no_exception(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "widget" / "train" / "good").mkdir(parents=True)
    arguments = ["fit", "--detector", "patchcore", "--weights", "random", "--data", str(tmp_path)]
    assert cli.main([*arguments, "--set", "bank=s3://b/i.faiss"]) == 2
    assert "aws s3 cp s3://b/i.faiss LOCAL" in capsys.readouterr().err


def test_a_program_that_asked_for_json_gets_the_refusal_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tables", "--results", "obs://b/a", "--json"]) == 2
    assert "obsutil cp obs://b/a LOCAL -r -f" in json.loads(capsys.readouterr().out)["error"]


# --- what travels with the program ------------------------------------------------------------------------------------


def test_suites_and_published_tables_are_found_in_a_checkout() -> None:
    assert (storage.shipped("suites") / "padim.toml").is_file()
    assert (storage.shipped("published") / "sources.toml").is_file()


def test_what_a_wheel_holds_goes_before_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "harness" / "shipped" / "suites"
    packed.mkdir(parents=True)
    monkeypatch.setattr(storage, "__file__", str(tmp_path / "harness" / "storage.py"))
    assert storage.shipped("suites") == packed
    assert storage.shipped("published") == tmp_path / "results" / "published"


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    def write() -> None:
        with storage.replacing(tmp_path / "note"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as caught:
        write()
    assert caught.value.filename == str(tmp_path / "note")
    assert not list(tmp_path.iterdir())
