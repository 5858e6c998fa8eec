"""The file exchange: write inputs, run them in a program without the harness, score its outputs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import cli, parity, storage
from harness.detector import artifact
from harness.detector.preprocess import Preprocessor
from harness.errors import DatasetError
from harness.records import batches, record
from harness.records.record import Record
from tests.conftest import Tiny

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

OTHER_PROGRAM = """
import pathlib
import sys

import numpy as np
import onnxruntime

model, inputs, outputs, suffix = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
(image_input,) = session.get_inputs()
pathlib.Path(outputs).mkdir(exist_ok=True)
for path in sorted(pathlib.Path(inputs).iterdir()):
    if path.suffix == ".npy":
        batch = np.load(path)
    else:
        batch = np.fromfile(path, np.float32).reshape(-1, 3, 32, 32)
    for index, array in enumerate(session.run(None, {image_input.name: batch})):
        target = pathlib.Path(outputs) / f"{path.stem}_{index}{suffix}"
        if suffix == ".npy":
            np.save(target, array)
        else:
            array.tofile(target)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """The folders of one file exchange."""

    tiny: Tiny
    inputs: Path
    outputs: Path

    def score(self, out: Path, *more: str, program: str = "ais_bench") -> int:
        """Run the command."""
        where = ["--inputs", str(self.inputs), "--outputs", str(self.outputs), "--data", str(self.tiny.data)]
        arguments = [
            "score",
            str(self.tiny.artifact),
            *where,
            "--from",
            program,
            "--out",
            str(out),
            "--threads",
            "1",
        ]
        return cli.main([*arguments, *more])

    def copied(self, to: Path) -> Exchange:
        """A copy that a test may change."""
        folders = [Path(shutil.copytree(path, to / path.name)) for path in (self.inputs, self.outputs)]
        return Exchange(tiny=self.tiny, inputs=folders[0], outputs=folders[1])


def exchanged(tiny: Tiny, folder: Path, *more: str, suffix: str = ".bin") -> Exchange:
    """Write inputs and run the other program on them."""
    exchange = Exchange(tiny=tiny, inputs=folder / "in", outputs=folder / "outs")
    arguments = ["inputs", str(tiny.artifact), "--data", str(tiny.data), "--to", str(exchange.inputs), *more]
    assert cli.main(arguments) == 0
    (folder / "other_program.py").write_text(OTHER_PROGRAM)
    model = str(tiny.artifact / "onnx-fp32.onnx")
    places = [str(exchange.inputs / "batches"), str(exchange.outputs), suffix]
    subprocess.run([sys.executable, str(folder / "other_program.py"), model, *places], check=True, cwd=folder)
    return exchange


@pytest.fixture(scope="module")
def exchange(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Exchange:
    return exchanged(tiny, tmp_path_factory.mktemp("exchange"))


def bench(tiny: Tiny, out: Path, *more: str) -> Record:
    """The record of a bench on onnxruntime-cpu, in a worker."""
    where = [str(tiny.artifact), "--data", str(tiny.data), "--out", str(out)]
    before = {path.name for path in out.glob("*.json")}
    assert cli.main(["bench", *where, "--backend", "onnxruntime-cpu", "--threads", "1", *more]) == 0
    (measured,) = [entry for entry in out.glob("*.json") if entry.name not in before]
    return record.read(measured)


@pytest.fixture(scope="module")
def reference(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A results folder with the reference record."""
    out = tmp_path_factory.mktemp("reference")
    return out, bench(tiny, out)


def only(out: Path) -> Record:
    (measured,) = record.read_all(out)
    return measured


def same_numbers(one: Record, two: Record, *, exact: bool = True) -> bool:
    """Whether metrics, scores and inputs are equal."""
    scores = [[image.score for image in measured.images] for measured in (one, two)]
    near = scores[0] == scores[1] if exact else np.allclose(scores[0], scores[1], rtol=1e-5)
    same = one.metrics == two.metrics or (not exact and set(one.metrics) == set(two.metrics))
    stages = [[image.stages for image in measured.images] for measured in (one, two)]
    return bool(near) and same and stages[0] == stages[1]


@pytest.mark.parametrize(
    ("more", "suffix", "program"),
    [
        ((), ".bin", "ais_bench"),
        ((), ".npy", "ais_bench"),
        (("--format", "bin"), ".bin", "cpp"),
        (("--batch-size", "3"), ".npy", "npy"),
    ],
)
def test_outputs_of_another_program_give_the_numbers_of_bench(
    tiny: Tiny,
    tmp_path: Path,
    reference: tuple[Path, Record],
    more: tuple[str, ...],
    suffix: str,
    program: str,
) -> None:
    assert exchanged(tiny, tmp_path, *more, suffix=suffix).score(tmp_path / "r", program=program) == 0
    measured, (out, benched) = only(tmp_path / "r"), reference
    assert same_numbers(measured, benched, exact="--batch-size" not in more)
    if not more:
        one, two = record.read_evidence(tmp_path / "r", measured), record.read_evidence(out, benched)
        assert one is not None
        assert two is not None
        np.testing.assert_array_equal(one.maps, two.maps)
        np.testing.assert_array_equal(one.frames, two.frames)
        np.testing.assert_array_equal(one.masks, two.masks)


def test_a_scored_record_says_where_its_outputs_came_from_and_times_only_what_ran_here(
    exchange: Exchange, tmp_path: Path
) -> None:
    assert exchange.score(tmp_path / "r", "--label", "board 7") == 0
    measured = only(tmp_path / "r")
    assert measured.case.runner == "files-ais_bench (board 7)"
    assert measured.device is not None
    assert measured.device.device.startswith("elsewhere")
    assert set(measured.latency_ms) == {"head"}
    assert (measured.images_per_second, measured.load_ms, measured.first_inference_ms) == (None, None, None)
    assert measured.source is not None
    assert measured.source.inputs_sha256 == storage.sha256_of_file(exchange.inputs / "index.json")
    assert measured.source.reported_ms == {}


def test_times_reported_by_ais_bench_are_recorded_separately(
    exchange: Exchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = exchange.copied(tmp_path)
    summary = {"NPU_compute_time": {"min": 1, "mean": 2.5, "count": 8}, "filesinfo": {}}
    (copy.outputs.parent / f"{copy.outputs.name}_summary.json").write_text(json.dumps(summary))
    assert copy.score(tmp_path / "r") == 0
    measured = only(tmp_path / "r")
    assert measured.source is not None
    assert measured.source.reported_ms == {"compute": {"min": 1, "mean": 2.5, "count": 8}}
    assert "compute" not in measured.latency_ms
    capsys.readouterr()
    assert cli.main(["tables", "--results", str(tmp_path / "r"), "--stage", "compute"]) == 0
    assert "ais_bench reports, in ms per run: min 1, mean 2.5, count 8" in capsys.readouterr().out


def first(folder: Path, number: int = 0) -> Path:
    return sorted(folder.iterdir())[number]


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def overwrite(path: Path, value: float) -> None:
    data = np.fromfile(path, np.float32)
    data[7] = value
    data.tofile(path)


def edit_index(folder: Path, change: Callable[[Any], None]) -> None:
    document = json.loads((folder / "index.json").read_text())
    change(document)
    (folder / "index.json").write_text(json.dumps(document))


def swap_batches(document: Any) -> None:
    one, two = document["batches"][:2]
    document["batches"][:2] = [two, one]


def leave(document: Any) -> None:
    batch = document["batches"][0]
    batch["file"] = "../" + Path(batch["file"]).name


TAMPERINGS: dict[str, tuple[Callable[[Exchange], Any], str]] = {
    "missing": (lambda exchange: first(exchange.outputs).unlink(), "missing: 00000-"),
    "extra": (
        lambda exchange: (exchange.outputs / "more_0.bin").write_bytes(b""),
        "not an output of these inputs",
    ),
    "twice": (
        lambda exchange: shutil.copy(first(exchange.outputs), first(exchange.outputs).with_suffix(".npy")),
        "twice",
    ),
    "short": (
        lambda exchange: first(exchange.outputs).write_bytes(first(exchange.outputs).read_bytes()[:-4]),
        "too short",
    ),
    "long": (
        lambda exchange: first(exchange.outputs).write_bytes(first(exchange.outputs).read_bytes() * 2),
        "too long",
    ),
    "nan": (lambda exchange: overwrite(first(exchange.outputs), np.nan), "NaN or infinite"),
    "infinite": (lambda exchange: overwrite(first(exchange.outputs, 3), np.inf), "NaN or infinite"),
    "copied": (
        lambda exchange: shutil.copy(first(exchange.outputs), first(exchange.outputs, 1)),
        "the same bytes",
    ),
    "other inputs": (
        lambda exchange: first(exchange.outputs).rename(exchange.outputs / "00000-00000000_0.bin"),
        "missing: 00000-",
    ),
    "input altered": (lambda exchange: flip(first(exchange.inputs / "batches")), "altered since index.json"),
    "input gone": (lambda exchange: first(exchange.inputs / "batches").unlink(), "cannot be read"),
    "index reordered": (
        lambda exchange: edit_index(exchange.inputs, swap_batches),
        "are not those of the inputs",
    ),
    "another detector": (
        lambda exchange: edit_index(exchange.inputs, lambda index: index.update(detector_sha256="0" * 64)),
        "another detector",
    ),
    "other images": (
        lambda exchange: edit_index(exchange.inputs, lambda index: index.update(data_fingerprint="0" * 64)),
        "other test images",
    ),
    "renamed image": (
        lambda exchange: edit_index(
            exchange.inputs, lambda index: index["images"][0].update(name="test/good/x.png")
        ),
        "lists other images",
    ),
    "an image less": (
        lambda exchange: edit_index(exchange.inputs, lambda index: index["images"].pop()),
        "do not hold",
    ),
    "leaves its folder": (
        lambda exchange: edit_index(exchange.inputs, leave),
        "leaves its folder",
    ),
    "unknown key": (lambda exchange: edit_index(exchange.inputs, lambda index: index.update(more=1)), "more"),
    "no index": (lambda exchange: (exchange.inputs / "index.json").unlink(), "no index.json"),
    "nothing": (lambda exchange: shutil.rmtree(exchange.outputs), "cannot be read"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_altered_files_are_refused(
    exchange: Exchange, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    tamper, words = TAMPERINGS[name]
    copy = exchange.copied(tmp_path)
    tamper(copy)
    assert copy.score(tmp_path / "r") in (2, 3)
    assert words in capsys.readouterr().err
    assert not [path for path in (tmp_path / "r").glob("*.json") if record.read(path).status == "measured"]
    assert not list((tmp_path / "r").rglob("*.part"))


def test_float16_outputs_must_be_declared_and_are_widened(
    exchange: Exchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = exchange.copied(tmp_path)
    for path in copy.outputs.iterdir():
        np.fromfile(path, np.float32).astype(np.float16).tofile(path)
    assert copy.score(tmp_path / "r") == 2
    assert "too short" in capsys.readouterr().err
    assert copy.score(tmp_path / "r", "--output-dtype", "float16") == 0
    assert copy.score(tmp_path / "full", "--output-dtype", "float32") == 2


def test_output_dtype_is_refused_for_npy_files(
    exchange: Exchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exchange.score(tmp_path / "r", "--output-dtype", "float16", program="npy") == 2
    assert "a .npy file contains its own type" in capsys.readouterr().err


def test_a_scored_record_can_be_replayed(exchange: Exchange, tmp_path: Path) -> None:
    assert exchange.score(tmp_path / "r") == 0
    to = ["--artifact", str(exchange.tiny.artifact), "--out", str(tmp_path / "a")]
    assert cli.main(["replay", str(tmp_path / "r"), *to]) == 0
    measured = only(tmp_path / "a")
    assert measured.case.runner == "replay (files-ais_bench)"
    assert same_numbers(measured, only(tmp_path / "r"))


# Inputs.


def test_a_fixed_batch_is_padded_with_its_last_row_and_the_index_counts_the_real_rows(
    tiny: Tiny, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(tiny.artifact, tmp_path / "widget"))
    detector = artifact.read(path)
    fixed = msgspec.structs.replace(detector.manifest.variants[0], id="fixed", gears=(1, 2, 5))
    artifact.add_variant(path, fixed)
    arguments = ["inputs", str(path), "--data", str(tiny.data), "--variant", "fixed"]
    assert cli.main([*arguments, "--to", str(tmp_path / "in")]) == 0
    folder = batches.read(tmp_path / "in")
    assert [(batch.rows, batch.real_rows) for batch in folder.index.batches] == [(5, 5), (5, 3)]
    stored = np.load(tmp_path / "in" / folder.index.batches[1].file)
    np.testing.assert_array_equal(stored[3:], stored[[2, 2]])
    assert len(folder.read(folder.index.batches[1])) == 3
    assert cli.main([*arguments, "--to", str(tmp_path / "more"), "--batch-size", "6"]) == 2
    assert not (tmp_path / "more").exists()


def test_the_rows_are_those_of_the_preprocessor_in_the_order_of_the_images(exchange: Exchange) -> None:
    detector = artifact.read(exchange.tiny.artifact)
    ready = Preprocessor(detector.manifest.preprocessing)
    folder = batches.read(exchange.inputs)
    assert len(folder.index.images) == 8
    for image, batch in zip(folder.index.images, folder.index.batches, strict=True):
        pixels = ready.decode(exchange.tiny.data / "widget" / image.name)
        np.testing.assert_array_equal(folder.read(batch), ready.tensor(ready.frame(pixels))[None])


def test_inputs_are_written_completely_or_not_at_all_and_replace_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["inputs", str(tiny.artifact), "--data", str(tiny.data), "--to", str(tmp_path / "in")]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "mine").touch()
    assert cli.main(arguments) == 2
    assert "not empty" in capsys.readouterr().err
    (tmp_path / "in" / "mine").unlink()
    monkeypatch.setattr(Preprocessor, "tensor", lambda *_: 1 / 0)
    assert cli.main(arguments) == 3
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]
    assert not list((tmp_path / "in").iterdir())


def test_a_folder_of_artifacts_gets_a_folder_per_category(tiny: Tiny, tmp_path: Path) -> None:
    arguments = ["inputs", str(tiny.artifact.parent), "--data", str(tiny.data), "--to", str(tmp_path / "in")]
    assert cli.main(arguments) == 0
    assert batches.read(batches.below(tmp_path / "in", "widget")).index.category == "widget"
    measured = bench(tiny, tmp_path / "r", "--inputs", str(tmp_path / "in"))
    assert measured.case.source is not None


def test_the_batches_of_several_categories_are_one_side(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("widget", "gadget"):
        shutil.copytree(tiny.data / "widget", tmp_path / "data" / name)
        path = Path(shutil.copytree(tiny.artifact, tmp_path / "artifacts" / name))
        manifest = msgspec.structs.replace(artifact.read(path).manifest, category=name)
        digest = artifact.detector_digest(manifest)
        artifact.write_manifest(path, msgspec.structs.replace(manifest, detector_sha256=digest))
    where = ["--data", str(tmp_path / "data")]
    assert cli.main(["inputs", str(tmp_path / "artifacts"), *where, "--to", str(tmp_path / "in")]) == 0
    arguments = ["bench", str(tmp_path / "artifacts"), *where, "--inputs", str(tmp_path / "in")]
    assert (
        cli.main([*arguments, "--backend", "onnxruntime-cpu", "--threads", "1", "--out", str(tmp_path / "r")])
        == 0
    )
    measured = record.read_all(tmp_path / "r")
    assert {entry.case.category for entry in measured} == {"widget", "gadget"}
    assert {entry.case.source for entry in measured} == {f"inputs {batches.digest(tmp_path / 'in')[:12]}"}


# bench --inputs.


def test_bench_reads_input_batches_and_does_not_time_preprocessing_that_it_did_not_do(
    exchange: Exchange, tmp_path: Path, reference: tuple[Path, Record]
) -> None:
    measured = bench(exchange.tiny, tmp_path / "r", "--inputs", str(exchange.inputs))
    assert same_numbers(measured, reference[1])
    assert set(measured.latency_ms) == {"infer", "head", "infer_head"}
    assert measured.images_per_second is None
    assert str(measured.case.source).startswith("inputs ")


def written_elsewhere(exchange: Exchange, to: Path, *, change: float) -> Path:
    """The inputs as another program would write them; one pixel of image 2 differs by `change`."""
    folder = Path(shutil.copytree(exchange.inputs, to))

    def rewrite(document: Any) -> None:
        for image in document["images"]:
            del image["stages"]
        path = folder / document["batches"][2]["file"]
        array = np.load(path)
        array[0, 0, 0, 0] += change
        np.save(path, array)
        document["batches"][2]["sha256"] = storage.sha256_of_file(path)

    edit_index(folder, rewrite)
    return folder


@pytest.mark.parametrize(("change", "verdict"), [(0.0, "passed"), (1e-3, "failed")])
def test_parity_shows_where_the_inputs_of_another_program_differ(
    exchange: Exchange, tmp_path: Path, change: float, verdict: str
) -> None:
    bench(exchange.tiny, tmp_path / "r")
    measured = bench(
        exchange.tiny,
        tmp_path / "r",
        "--inputs",
        str(written_elsewhere(exchange, tmp_path / "in", change=change)),
    )
    assert all(set(image.stages) == {"input"} for image in measured.images)
    (pair,) = parity.parity(tmp_path / "r", reference="onnxruntime-cpu").pairs
    assert pair.other.runner == measured.case.runner
    level = pair.levels[0]
    assert (level.name, level.verdict) == ("inputs", verdict)
    assert "compared by the input alone" in level.messages[-1]
    if change:
        assert "first differ at input: 1 of 8 images (test/good/002.png)" in level.messages[0]


def test_digests_of_other_inputs_are_refused(exchange: Exchange, tmp_path: Path) -> None:
    folder = written_elsewhere(exchange, tmp_path / "in", change=1.0)
    stages = json.loads((exchange.inputs / "index.json").read_text())["images"][2]["stages"]
    edit_index(folder, lambda document: document["images"][2].update(stages=stages))
    out = tmp_path / "r"
    where = [str(exchange.tiny.artifact), "--data", str(exchange.tiny.data), "--out", str(out)]
    arguments = ["bench", *where, "--backend", "onnxruntime-cpu", "--threads", "1", "--inputs", str(folder)]
    assert cli.main(arguments) == 3
    assert "are not those of the inputs" in str(only(out).reason)


def test_a_batch_size_that_differs_from_the_batches_is_refused(exchange: Exchange, tmp_path: Path) -> None:
    tiny = exchange.tiny
    where = [str(tiny.artifact), "--data", str(tiny.data), "--out", str(tmp_path)]
    arguments = [
        "bench",
        *where,
        "--backend",
        "onnxruntime-cpu",
        "--threads",
        "1",
        "--inputs",
        str(exchange.inputs),
    ]
    assert cli.main([*arguments, "--batch-size", "4"]) == 2


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [
        ("float64", (2, 3), "holds float64"),
        ("float32", (3, 2), r"\(3, 2\)"),
        ("object", (2, 3), "holds object"),
        ("float32", (2, 0), r"\(2, 0\)"),
    ],
)
def test_an_array_of_another_type_or_shape_is_refused(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], words: str
) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(shape, np.dtype(dtype)), allow_pickle=True)
    with pytest.raises(DatasetError, match=words):
        batches.array_from_bytes(path, path.read_bytes(), ["float32", "float16"], (2, 3))


def test_an_array_that_claims_to_be_larger_than_memory_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 3), np.float32))
    data = path.read_bytes().replace(b"(2, 3), }" + b" " * 14, b"(100000000000000, 3), }")
    assert b"100000000000000" in data
    with pytest.raises(DatasetError, match=r"holds float32 \(100000000000000, 3\), expected"):
        batches.array_from_bytes(path, data, ["float32"], (2, 3))


def test_an_archive_under_an_arrays_name_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(DatasetError, match="not an array in NumPy's format"):
        batches.array_from_bytes(tmp_path / "a.npy", (tmp_path / "a.npz").read_bytes(), ["float32"], (3,))


def test_one_of_several_variants_must_be_named(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    widget = Path(shutil.copytree(tiny.artifact, tmp_path / "widget"))
    manifest = artifact.read(widget).manifest
    other = msgspec.structs.replace(manifest.variants[0], id="onnx-other")
    artifact.add_variant(widget, other)
    arguments = ["inputs", str(widget), "--data", str(tiny.data), "--to", str(tmp_path / "in")]
    assert cli.main(arguments) == 2
    assert "name one of its variants with --variant: onnx-fp32, onnx-other" in capsys.readouterr().err
    assert not (tmp_path / "in").exists()
    assert cli.main([*arguments, "--variant", "onnx-other"]) == 0


@pytest.mark.parametrize("label", ["", " ", "bo\nard"])
def test_a_label_with_unprintable_characters_is_refused(
    exchange: Exchange, tmp_path: Path, label: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        exchange.score(tmp_path / "r", "--label", label)
    assert not (tmp_path / "r").exists()
