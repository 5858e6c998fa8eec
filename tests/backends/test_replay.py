"""Stored outputs played again: the same bits, no data set, no model, and nothing that was altered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from backends.errors import BackendError
from backends.replay import play
from harness import cli, parity, registry, storage
from harness.contracts import DeviceReport
from harness.detector import artifact
from harness.detector.artifact import Artifact, HeadSpec, TensorSpec
from harness.detector.preprocess import Windows
from harness.errors import HarnessError, RecordError
from harness.records import outputs, record
from harness.records.record import Record
from harness.run import pipeline, plan
from harness.run import replay as replay_module
from harness.types import AnyArray
from tests.conftest import Tiny

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

CPU = DeviceReport(device="cpu", runtime={"some": "1"}, options={"threads": "1"}, simulated=False)


def measured(tiny: Tiny, out: Path, *, backend: str = "onnxruntime-cpu", batch_size: int = 3) -> Record:
    """A record whose outputs were saved, made in this process."""
    request = tiny.request(out, backend, batch_size=batch_size, save_outputs=True)
    (job,) = plan.plan(request).jobs
    session = registry.backend(backend).open(job.artifact, job.variant, threads=1)
    return pipeline.run(job, session, load_ms=1.0, advance=lambda _: None)


@pytest.fixture(scope="module")
def saved(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder whose record keeps its outputs; not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    measured(tiny, folder)
    return folder


@pytest.fixture
def board(saved: Path, tmp_path: Path) -> Path:
    """A copy of that folder that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "board"))


@pytest.fixture
def bare(tiny: Tiny, tmp_path: Path) -> Path:
    """The artifact without its model."""
    copy = Path(shutil.copytree(tiny.artifact, tmp_path / "bare"))
    (copy / "onnx-fp32.onnx").unlink()
    (copy / artifact.NET).unlink()
    return copy


def replay(board: Path, detector: Path, out: Path, *more: str) -> int:
    return cli.main(["replay", str(board), "--artifact", str(detector), "--out", str(out), *more])


def only(folder: Path) -> Record:
    (made,) = record.read_all(folder)
    return made


def test_a_replay_needs_neither_data_nor_model_and_gives_the_same_bits(
    board: Path, bare: Path, tmp_path: Path
) -> None:
    assert replay(board, bare, tmp_path / "r") == 0
    original, again = only(board), only(tmp_path / "r")
    assert [image.score for image in again.images] == [image.score for image in original.images]
    assert again.images == original.images
    assert again.metrics == original.metrics
    assert again.f1_max_thresholds == original.f1_max_thresholds
    assert again.data == original.data
    one, two = record.read_evidence(board, original), record.read_evidence(tmp_path / "r", again)
    assert one is not None
    assert two is not None
    for name in ("maps", "masks", "frames"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_a_replay_is_no_other_side_of_its_original(board: Path, bare: Path) -> None:
    assert replay(board, bare, board) == 0
    report = parity.parity(board, reference="onnxruntime-cpu")
    assert (report.verdict, report.pairs) == ("not measured", ())
    assert (
        report.reasons[-1]
        == "replay (onnxruntime-cpu) is left out: it and the reference share the outputs of one run"
    )


def test_the_record_says_what_was_replayed_and_times_only_the_head(
    board: Path, bare: Path, tmp_path: Path
) -> None:
    assert replay(board, bare, tmp_path / "r") == 0
    original, again = only(board), only(tmp_path / "r")
    assert (again.case.backend, again.case.source) == ("replay", "onnxruntime-cpu")
    assert again.source is not None
    path = record.path_of(board, original)
    assert again.source.record_sha256 == storage.sha256_of_file(path)
    assert again.source.made_by == "onnxruntime-cpu"
    assert again.source.host == original.host
    assert again.device is not None
    assert original.device is not None
    assert again.device.device == "replay of cpu"
    assert (again.device.runtime, again.device.simulated) == (original.device.runtime, False)
    assert again.model_sha256 == original.model_sha256
    assert set(again.latency_ms) == set(again.latency_samples_ms) == {"head"}
    assert (again.load_ms, again.first_inference_ms, again.images_per_second) == (None, None, None)


def rewritten(board: Path, change: Callable[[Any], None]) -> None:
    """Change the record as JSON, and compute its digest anew."""
    path = record.path_of(board, only(board))
    document = json.loads(path.read_bytes())
    change(document)
    del document["record_sha256"]
    path.write_text(json.dumps(document | {"record_sha256": storage.sha256_of_json(document)}))


def test_outputs_of_a_simulator_stay_marked(board: Path, bare: Path, tmp_path: Path) -> None:
    rewritten(board, lambda document: document["device"].update(simulated=True))
    assert replay(board, bare, tmp_path / "r") == 0
    device = only(tmp_path / "r").device
    assert device is not None
    assert device.simulated


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def outputs_file(board: Path) -> Path:
    return next(board.glob("evidence/*.outputs.safetensors"))


def evidence_file(board: Path) -> Path:
    return next(path for path in board.glob("evidence/*") if "outputs" not in path.name)


def other_detector(bare: Path) -> None:
    manifest = artifact.read(bare).manifest
    thresholds = msgspec.structs.replace(manifest.thresholds, image=1.0)
    changed = msgspec.structs.replace(manifest, thresholds=thresholds)
    digest = artifact.detector_digest(changed)
    artifact.write_manifest(bare, msgspec.structs.replace(changed, detector_sha256=digest))


def other_state(bare: Path) -> None:
    state = artifact.read(bare).state()
    state["mean"] = state["mean"] + np.float32(1)
    artifact.write_arrays(bare / artifact.STATE, state)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda board, _: flip(outputs_file(board)), "altered since"),
        (lambda board, _: outputs_file(board).unlink(), "missing"),
        (lambda board, _: flip(evidence_file(board)), "altered since"),
        (lambda board, _: evidence_file(board).unlink(), "missing"),
        (lambda _, bare: other_detector(bare), "replay with the artifact that was measured"),
        (lambda _, bare: other_state(bare), "does not match the digest"),
        (
            lambda board, _: rewritten(
                board, lambda item: item["outputs"].update(file="evidence/x.safetensors")
            ),
            "its outputs are another record's",
        ),
        (
            lambda board, _: rewritten(board, lambda item: item.update(model_sha256="0" * 64)),
            "its outputs are another model's",
        ),
        (lambda board, _: rewritten(board, lambda item: item.pop("outputs")), "bench with --save-outputs"),
    ],
)
def test_what_was_altered_or_is_of_something_else_is_refused(
    board: Path,
    bare: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tamper: Callable[[Path, Path], None],
    words: str,
) -> None:
    tamper(board, bare)
    assert replay(board, bare, tmp_path / "r") in (2, 3)
    assert words in capsys.readouterr().err
    assert not [path for path in tmp_path.glob("r/*.json") if record.read(path).status == "measured"]


def test_an_altered_state_is_refused_before_anything_is_played(
    board: Path, bare: Path, tmp_path: Path
) -> None:
    other_state(bare)
    assert replay(board, bare, tmp_path / "r") == 2
    assert not (tmp_path / "r").exists()


@pytest.mark.usefixtures("fakes")
def test_replays_of_two_backends_do_not_collide(tiny: Tiny, board: Path, bare: Path, tmp_path: Path) -> None:
    measured(tiny, board, backend="fake-work")
    assert replay(board, bare, tmp_path / "r") == 0
    made = record.read_all(tmp_path / "r")
    assert {item.case.runner for item in made} == {"replay (onnxruntime-cpu)", "replay (fake-work)"}
    report = parity.parity(tmp_path / "r", reference="replay (onnxruntime-cpu)")
    assert report.verdict == "passed"
    assert [pair.other.runner for pair in report.pairs] == ["replay (fake-work)"]


@pytest.mark.parametrize("missing", ["--outputs", "--artifact"])
def test_a_replay_without_what_it_plays_is_wrong_use(
    board: Path, bare: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--outputs": str(board), "--artifact": str(bare)}
    del given[missing]
    assert cli.main(["bench", "--backend", "replay", *(part for pair in given.items() for part in pair)]) == 2
    assert "replay RESULTS --artifact DIR" in capsys.readouterr().err


@pytest.mark.parametrize("more", [("--data", "d"), ("--save-outputs",), ("--mask-threshold", "3")])
def test_what_the_replayed_record_decides_cannot_be_asked_for(
    board: Path, bare: Path, tmp_path: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        replay(board, bare, tmp_path / "r", *more)
    assert f"unrecognized arguments: {more[0]}" in capsys.readouterr().err


def test_another_variant_is_not_replayed(board: Path, bare: Path) -> None:
    request = replay_module.ReplayRequest(
        artifacts=(bare,), results=board, categories=(), out=board, variant="om-fp16"
    )
    with pytest.raises(RecordError, match="no record of variant om-fp16 has saved outputs"):
        replay_module.jobs(request)


# Saving.


def test_saving_outputs_changes_no_number_and_a_record_without_them_is_measured_again(
    tiny: Tiny, tmp_path: Path
) -> None:
    where = ["--artifact", str(tiny.artifact), "--data", str(tiny.data), "--out", str(tmp_path)]
    asked = ["bench", *where, "--backend", "onnxruntime-cpu", "--threads", "1"]
    assert cli.main(asked) == 0
    plain = only(tmp_path)
    assert plain.outputs is None
    assert cli.main([*asked, "--save-outputs"]) == 0
    kept = only(tmp_path)
    assert kept.outputs is not None
    assert (kept.images, kept.metrics, kept.evidence) == (plain.images, plain.metrics, plain.evidence)
    assert cli.main([*asked, "--save-outputs"]) == 0
    assert only(tmp_path) == kept
    assert not list(tmp_path.rglob("*.part"))


def test_the_file_holds_the_networks_outputs_row_by_row(tiny: Tiny, saved: Path) -> None:
    arrays = safetensors.numpy.load_file(outputs_file(saved))
    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "output.embedding": ("float32", (8, 6, 8, 8)),
        "rows": ("int64", (8,)),
    }
    found = artifact.read(tiny.artifact)
    session = registry.backend("onnxruntime-cpu").open(found, found.manifest.variants[0], threads=1)
    (job,) = plan.plan(tiny.request(saved, force=True)).jobs
    fed = pipeline.sources(job, None)[0].batch(0, 8)
    for image, stored in zip(fed, arrays["output.embedding"], strict=True):
        np.testing.assert_allclose(session.run(image.rows)["embedding"][0], stored, rtol=1e-5, atol=1e-6)


def stored(path: Path, *, inputs: bool) -> outputs.Reader:
    """Three images of 2, 1 and 2 rows, written in two batches."""
    with path.open("wb") as file:
        writer = outputs.Writer(file, [2, 1, 2])
        for begin, end in ((0, 3), (3, 5)):
            rows = np.arange(begin, end)
            batch = np.repeat(rows.astype(np.uint8)[:, None], 5, axis=1) if inputs else None
            wide = np.ones((len(rows), 2, 3), np.float32) * rows[:, None, None].astype(np.float32)
            writer.add({"b": wide, "a": rows.astype(np.float32)}, batch)
        writer.finish()
    return outputs.Reader(path, storage.sha256_of_file(path))


def test_batches_written_apart_are_read_as_one_in_any_cut(tmp_path: Path) -> None:
    reader = stored(tmp_path / "x.safetensors", inputs=True)
    assert reader.rows == (2, 1, 2)
    for begin, end in ((0, 5), (0, 2), (2, 4), (4, 5)):
        rows = np.arange(begin, end)
        found = reader.outputs(begin, end)
        np.testing.assert_array_equal(found["a"], rows)
        np.testing.assert_array_equal(found["b"][:, 1, 2], rows)
        np.testing.assert_array_equal(reader.inputs(begin, end)[:, 4], rows)


def test_inputs_that_were_not_kept_are_rows_without_values(tmp_path: Path) -> None:
    assert stored(tmp_path / "x.safetensors", inputs=False).inputs(1, 4).shape == (3, 0)


def test_a_file_that_is_not_whole_is_never_finished(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        writer = outputs.Writer(file, [1, 1, 1])
        writer.add({"a": np.zeros((2, 3), np.float32)}, None)
        with pytest.raises(HarnessError, match="2 rows of outputs were stored, expected 3"):
            writer.finish()
        with pytest.raises(HarnessError, match="does not continue"):
            writer.add({"a": np.zeros((1, 4), np.float32)}, None)
        with pytest.raises(HarnessError, match="does not continue"):
            writer.add({"c": np.zeros((1, 3), np.float32)}, None)


def test_the_session_plays_in_order_and_no_further(tmp_path: Path) -> None:
    session = play(stored(tmp_path / "x.safetensors", inputs=False), CPU)
    assert session.report.runtime == {"some": "1"}
    assert dict(session.device_ms) == {}
    assert [session.run(np.empty((count, 0)))["a"].tolist() for count in (2, 3)] == [[0, 1], [2, 3, 4]]
    with pytest.raises(BackendError, match="asked for row 6 of 5"):
        session.run(np.empty((1, 0)))
    session.close()


# A head that scores the inputs too.


class Halving:
    """Gives back half of what goes in."""

    device_ms: Mapping[str, float] = {}
    report = DeviceReport(device="none", runtime={}, options={}, simulated=False)

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        return {"reconstruction": batch * np.float32(0.5)}

    def close(self) -> None:
        pass


def windowed(tiny: Tiny, folder: Path) -> Artifact:
    """SSIM-AE over 4 windows an image."""
    found = artifact.read(tiny.artifact)
    changed = msgspec.structs.replace(
        found.manifest,
        detector="ssim_ae",
        backbone="none",
        preprocessing=(*found.manifest.preprocessing, Windows(size=24, stride=8)),
        head=HeadSpec(name="ssim_ae", parameters={"map_size": [32, 32], "window": 24, "stride": 8}),
    )
    manifest = msgspec.structs.replace(changed, detector_sha256=artifact.detector_digest(changed))
    path = Path(shutil.copytree(tiny.artifact, folder / "ssim"))
    artifact.write_manifest(path, manifest)
    made = artifact.read(path)
    shape = (None, 3, 24, 24)
    variant = msgspec.structs.replace(
        made.manifest.variants[0],
        input=TensorSpec(name="image", dtype="float32", shape=shape),
        input_stage="windows",
        outputs=(TensorSpec(name="reconstruction", dtype="float32", shape=shape),),
    )
    artifact.add_variant(path, variant)
    return artifact.read(path)


def test_a_head_that_scores_the_inputs_finds_them_stored(tiny: Tiny, tmp_path: Path) -> None:
    found = windowed(tiny, tmp_path)
    request = tiny.request(tmp_path / "board", artifacts=(found.path,), batch_size=3, save_outputs=True)
    (job,) = plan.plan(request).jobs
    original = pipeline.run(job, Halving(), load_ms=0, advance=lambda _: None)
    arrays = safetensors.numpy.load_file(outputs_file(tmp_path / "board"))
    assert arrays["input"].shape == arrays["output.reconstruction"].shape == (32, 3, 24, 24)
    assert arrays["rows"].tolist() == [4] * 8
    assert replay(tmp_path / "board", found.path, tmp_path / "r") == 0
    again = only(tmp_path / "r")
    assert (again.images, again.metrics) == (original.images, original.metrics)
    assert len({image.score for image in again.images}) > 1


def test_batches_of_windows_keep_the_rows_of_an_image_together(tiny: Tiny, tmp_path: Path) -> None:
    found = windowed(tiny, tmp_path)
    (plain,) = plan.plan(tiny.request(tmp_path / "r", artifacts=(found.path,), batch_size=3)).jobs
    expected = pipeline.run(plain, Halving(), load_ms=0, advance=lambda _: None)
    asked = ["inputs", str(found.path), "--data", str(tiny.data), "--to", str(tmp_path / "in")]
    assert cli.main([*asked, "--batch-size", "3"]) == 0
    request = tiny.request(tmp_path / "s", artifacts=(found.path,), inputs=tmp_path / "in")
    (job,) = plan.plan(request).jobs
    assert job.case.batch_size == 3
    made = pipeline.run(job, Halving(), load_ms=0, advance=lambda _: None)
    assert made.images == expected.images
