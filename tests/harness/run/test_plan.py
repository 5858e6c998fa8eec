from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from harness.detector import artifact
from harness.errors import ArtifactError, DatasetError, HarnessError, UsageError
from harness.records import record
from harness.records.record import Record
from harness.run import plan as plan_module
from harness.run import worker
from harness.run.interrupted import Interrupted
from harness.run.job import Job
from harness.run.options import RunOptions
from harness.run.plan import BenchRequest
from harness.run.worker import Failure
from harness.types import Case
from tests.conftest import Tiny, _write_onnx, write_image

pytestmark = pytest.mark.usefixtures("fakes")


def run(request: BenchRequest) -> tuple[Record, ...]:
    return plan_module.run(
        plan_module.plan(request), timeout=request.options.timeout, report=list[Record]().append
    )


@pytest.fixture
def data(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.data, tmp_path / "data"))


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"artifacts": (Path("/nowhere"),)}, ArtifactError, "/nowhere: no artifact here; make one with"),
        ({"categories": ("gadget",)}, ArtifactError, "fitted on 'widget', asked for gadget"),
        ({"backends": ("onnxruntime-cpp",)}, UsageError, "did you mean 'onnxruntime-cpu'"),
        ({"backends": ("mindspore-cpu",)}, ArtifactError, "no variant in format mindir .*--format mindir"),
        ({"variants": ("onnx-fp16",)}, UsageError, "did you mean 'onnx-fp32'"),
        ({"options": RunOptions(threads=10_000)}, UsageError, "--threads 10000: only"),
    ],
)
def test_missing_things_are_reported_before_anything_runs(
    tiny: Tiny, tmp_path: Path, changed: dict[str, Any], error: type[HarnessError], words: str
) -> None:
    with pytest.raises(error, match=words):
        plan_module.plan(dataclasses.replace(tiny.request(tmp_path / "out"), **changed))
    assert not (tmp_path / "out").exists()


def test_a_missing_category_is_reported_before_anything_runs(tiny: Tiny, tmp_path: Path, data: Path) -> None:
    (data / "widget").rename(data / "wodget")
    with pytest.raises(DatasetError, match=r"no category 'widget', did you mean wodget"):
        plan_module.plan(tiny.request(tmp_path / "out", data=data))


def test_a_variant_that_the_backend_does_not_open_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--variant onnx-fp32 is onnx; mindspore-cpu opens mindir"):
        plan_module.plan(tiny.request(tmp_path / "out", "mindspore-cpu", variants=("onnx-fp32",)))


def test_cases_are_planned_backend_by_backend_with_their_defaults_written_out(
    tiny: Tiny, tmp_path: Path
) -> None:
    plan = plan_module.plan(
        tiny.request(tmp_path / "out", "onnxruntime-cpu", "onnxruntime-gpu", batch_size=4)
    )
    assert [job.case.backend for job in plan.jobs] == ["onnxruntime-cpu", "onnxruntime-gpu"]
    assert plan.jobs[0].case == Case(
        detector="padim",
        backbone="tiny",
        category="widget",
        backend="onnxruntime-cpu",
        variant="onnx-fp32",
        dataset="data",
        batch_size=4,
    )
    assert set(msgspec.to_builtins(plan.jobs[0].case)) == set(Case.__struct_fields__)


def test_a_finished_case_is_not_run_again_unless_forced(tiny: Tiny, fakes: Path, tmp_path: Path) -> None:
    first = run(tiny.request(tmp_path / "out", "fake-work"))
    assert run(tiny.request(tmp_path / "out", "fake-work")) == first
    assert (fakes / "opened").read_text().split() == ["work"]
    (forced,) = run(tiny.request(tmp_path / "out", "fake-work", force=True))
    assert (fakes / "opened").read_text().split() == ["work", "work"]
    assert forced.finished > first[0].finished
    assert record.read_all(tmp_path / "out") == (forced,)


@pytest.mark.parametrize(
    "settings", [{"batch_size": 2}, {"warmup": 1}, {"mask_threshold": 100}, {"threads": 2}]
)
def test_a_changed_setting_is_another_case(tiny: Tiny, tmp_path: Path, settings: dict[str, Any]) -> None:
    if settings.get("threads", 1) > len(os.sched_getaffinity(0)):
        pytest.skip("needs two cores")
    digests = {
        plan_module.plan(request).jobs[0].inputs_sha256
        for request in (tiny.request(tmp_path), tiny.request(tmp_path, **settings))
    }
    assert len(digests) == 2


@pytest.mark.parametrize("changed", ["test/good/000.png", "ground_truth/scratch/000_mask.png"])
def test_a_changed_image_or_mask_is_another_case(
    tiny: Tiny, tmp_path: Path, data: Path, changed: str
) -> None:
    (before,) = plan_module.plan(tiny.request(tmp_path / "out", data=data)).jobs
    pixels = cv2.imread(str(data / "widget" / changed), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    pixels[20, 20] ^= 255
    write_image(data / "widget" / changed, pixels)
    (after,) = plan_module.plan(tiny.request(tmp_path / "out", data=data)).jobs
    assert before.inputs_sha256 != after.inputs_sha256


def test_a_changed_training_image_is_the_same_case(tiny: Tiny, tmp_path: Path, data: Path) -> None:
    (before,) = plan_module.plan(tiny.request(tmp_path / "out", data=data)).jobs
    (data / "widget" / "train" / "good" / "000.png").unlink()
    (after,) = plan_module.plan(tiny.request(tmp_path / "out", data=data)).jobs
    assert before.inputs_sha256 == after.inputs_sha256


def test_a_model_exported_again_is_another_case(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.artifact, tmp_path / "widget"))
    (before,) = plan_module.plan(tiny.request(tmp_path / "out", artifacts=(folder,))).jobs
    variant = artifact.read(folder).manifest.variants[0]
    artifact.add_variant(folder, msgspec.structs.replace(variant, files={variant.model: "1" * 64}))
    (after,) = plan_module.plan(tiny.request(tmp_path / "out", artifacts=(folder,))).jobs
    assert before.inputs_sha256 != after.inputs_sha256


def test_a_case_that_failed_since_it_was_measured_runs_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tiny.request(tmp_path / "out", "fake-work"))

    def die(*_: Any, **__: Any) -> Path:
        raise Failure("the worker died")

    with monkeypatch.context() as patched:
        patched.setattr(worker, "start", die)
        (failed,) = run(tiny.request(tmp_path / "out", "fake-work", force=True))
    assert (failed.status, failed.reason) == ("failed", "the worker died")
    assert record.read(record.path_of(tmp_path / "out", first[0])) == first[0]  # nothing is lost
    (again,) = run(tiny.request(tmp_path / "out", "fake-work"))
    assert again.status == "measured"
    assert again.finished > failed.finished
    assert run(tiny.request(tmp_path / "out", "fake-work")) == (again,)


def test_a_case_measured_with_another_model_since_runs_again(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.artifact, tmp_path / "widget"))
    request = tiny.request(tmp_path / "out", artifacts=(folder,))
    kernels = artifact.read(folder).net()["conv.weight"]

    def exported(scale: float) -> str:
        measured = _write_onnx(folder / "onnx-fp32.onnx", kernels * np.float32(scale))
        artifact.add_variant(folder, measured)
        return measured.files[measured.model]

    run(request)
    wrong = exported(1.5)
    run(request)
    right = exported(1.0)
    (again,) = run(request)
    assert again.model_sha256 == right != wrong
    assert record.latest(record.read_all(tmp_path / "out")) == (again,)
    assert plan_module.plan(request).finished == (again,)


def test_a_record_that_was_carried_here_is_kept(tiny: Tiny, tmp_path: Path) -> None:
    (measured,) = run(tiny.request(tmp_path, "fake-work"))
    assert measured.device is not None
    board = msgspec.structs.replace(measured.host, name="board")
    device = msgspec.structs.replace(measured.device, runtime={"numpy": "0.1"})
    record.write(tmp_path, msgspec.structs.replace(measured, host=board, device=device))
    (finished,) = plan_module.plan(tiny.request(tmp_path, "fake-work")).finished
    assert finished.host.name == "board"


def test_a_case_of_another_detector_or_other_data_since_runs_again(
    tiny: Tiny, tmp_path: Path, data: Path
) -> None:
    request, other = (tiny.request(tmp_path / "out", "fake-work", data=where) for where in (tiny.data, data))
    run(request)
    write_image(data / "widget" / "test/good/000.png", np.zeros((40, 40), np.uint8))
    run(other)
    plan = plan_module.plan(request)
    assert plan.finished == ()
    (again,) = plan_module.run(plan, timeout=60, report=lambda _: None)
    assert max(record.read_all(tmp_path / "out"), key=lambda old: old.finished) == again


@pytest.mark.parametrize(
    ("module", "version", "finished"), [("numpy", "0.1", 0), ("numpy", np.__version__, 1), ("cann", "7", 1)]
)
def test_a_record_of_another_version_of_the_runtime_is_not_finished(
    tiny: Tiny, tmp_path: Path, module: str, version: str, finished: int
) -> None:
    (measured,) = run(tiny.request(tmp_path, "fake-work"))
    assert measured.device is not None
    device = msgspec.structs.replace(measured.device, runtime={module: version})
    record.write(tmp_path, msgspec.structs.replace(measured, device=device))
    assert len(plan_module.plan(tiny.request(tmp_path, "fake-work")).finished) == finished


def test_a_clock_behind_an_earlier_record_is_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny.request(tmp_path, "fake-work"))
    monkeypatch.setattr(plan_module, "now", lambda: "1970-01-01T00:00:01.000000+00:00")
    with pytest.raises(
        UsageError, match=r"clock says 1970-01-01T00:00:01Z, and fake-work widget was measured at 20"
    ):
        plan_module.plan(tiny.request(tmp_path, "fake-work", force=True))
    assert len(plan_module.plan(tiny.request(tmp_path, "fake-work")).finished) == 1  # nothing is measured


def test_images_that_change_while_they_are_measured_fail_the_case(
    tiny: Tiny, tmp_path: Path, data: Path
) -> None:
    plan = plan_module.plan(tiny.request(tmp_path / "out", "onnxruntime-cpu", data=data))
    write_image(data / "widget" / "test/good/000.png", np.zeros((40, 40), np.uint8))
    (measured,) = plan_module.run(plan, timeout=60, report=lambda _: None)
    assert measured.status == "failed"
    assert "test images or masks were changed while they were measured" in str(measured.reason)


def test_a_record_without_a_measurement_never_counts_as_finished(tiny: Tiny, tmp_path: Path) -> None:
    (measured,) = run(tiny.request(tmp_path / "out", "fake-absent"))
    (job,) = plan_module.plan(tiny.request(tmp_path / "out", "fake-absent")).jobs
    (tmp_path / "out" / f"{record.file_name(measured.case, measured.inputs_sha256)}").write_bytes(
        next((tmp_path / "out").glob("*.skipped.json")).read_bytes()
    )
    assert job.finished() is None


def test_two_artifacts_of_the_same_case_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    request = tiny.request(tmp_path / "out", "onnxruntime-cpu")
    twice = dataclasses.replace(request, artifacts=request.artifacts * 2)
    with pytest.raises(UsageError, match="same detector, backbone and category: bench them into different"):
        plan_module.plan(twice)


def test_a_folder_that_cannot_be_written_is_reported_before_anything_runs(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file: cannot write here .* choose another folder"):
        plan_module.plan(tiny.request(tmp_path / "file", "onnxruntime-cpu"))


def test_ctrl_c_keeps_finished_cases_and_counts_them(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = worker.start, list[str]()

    def interrupted(job: Job, **settings: Any) -> Path:
        started.append(job.case.backend)
        if job.case.backend == "fake-off":
            raise KeyboardInterrupt
        return start(job, **settings)

    monkeypatch.setattr(worker, "start", interrupted)
    run(tiny.request(tmp_path / "out", "fake-work"))
    names = ("fake-work", "fake-chatter", "fake-off", "fake-nan")
    with pytest.raises(
        Interrupted, match=r"^interrupted: 2 of 4 cases are measured and kept; the same command"
    ):
        run(tiny.request(tmp_path / "out", *names))
    assert started == ["fake-work", "fake-chatter", "fake-off"]
    assert [measured.case.backend for measured in record.read_all(tmp_path / "out")] == [
        "fake-chatter",
        "fake-work",
    ]


@pytest.mark.parametrize("damage", ["record", "evidence gone", "evidence altered", "model", "state"])
def test_a_case_with_changed_files_is_measured_again(tiny: Tiny, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(tiny.artifact, tmp_path / "widget"))
    request = tiny.request(tmp_path / "out", "fake-work", artifacts=(folder,))
    (job,) = plan_module.plan(request).jobs
    (measured,) = run(request)
    assert job.finished() == measured
    assert measured.evidence is not None
    path = {
        "record": tmp_path / "out" / record.file_name(measured.case, measured.inputs_sha256),
        "model": folder / job.variant.model,
        "state": folder / artifact.STATE,
    }.get(damage, tmp_path / "out" / measured.evidence.file)
    if damage == "evidence gone":
        path.unlink()
    elif damage == "record":
        path.write_text(path.read_text().replace('"images_per_second": ', '"images_per_second": 1'))
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert job.finished() is None
