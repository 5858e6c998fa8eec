from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from harness.records import record
from harness.records.record import Record
from harness.run import plan, worker
from harness.run.plan import BenchRequest
from tests.conftest import Tiny, make_known

pytestmark = pytest.mark.usefixtures("fakes")

Records = tuple[Path, Mapping[str, Record]]

BROKEN = ("kill", "exit", "fail", "nan", "shape")


def run(request: BenchRequest) -> dict[str, Record]:
    """Records by backend, without `fake-`."""
    records = plan.run(plan.plan(request), timeout=request.options.timeout, report=list[Record]().append)
    return {measured.case.backend.removeprefix("fake-"): measured for measured in records}


@pytest.fixture(scope="module")
def finished_run(
    tiny: Tiny, another_distribution: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Records]:
    """One run over mostly faulty backends; a working one is among them, and another is last."""
    folder = tmp_path_factory.mktemp("ended")
    names = [f"fake-{fault}" for fault in (*BROKEN, "absent", "chatter", "big", "work")]
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_known(another_distribution, folder / "notes", monkeypatch)
        yield folder, run(tiny.request(folder / "results", *names))


def test_a_backend_of_another_distribution_is_measured(finished_run: Records) -> None:
    measured = finished_run[1]["work"]
    assert (measured.status, measured.reason) == ("measured", None)
    assert measured.device is not None
    assert measured.device.device == "fake"


def test_cases_beside_those_that_die_are_measured(finished_run: Records) -> None:
    statuses = {name: measured.status for name, measured in finished_run[1].items()}
    sound = dict.fromkeys(("chatter", "big", "work"), "measured")
    assert statuses == dict.fromkeys(BROKEN, "failed") | {"absent": "skipped"} | sound


def test_a_killed_worker_leaves_its_signal_and_its_last_words(finished_run: Records) -> None:
    reason = str(finished_run[1]["kill"].reason)
    words = "line 2 | line 3 | line 4 | line 5 | line 6"
    assert reason == f"the worker was killed by SIGKILL; its last words: {words}"


def test_a_worker_that_exits_leaves_its_exit_status(finished_run: Records) -> None:
    assert (
        finished_run[1]["exit"].reason == "the worker ended with exit status 7 before its record was written"
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("fail", "ZeroDivisionError: the driver lost its temper"),
        ("shape", r"embedding has shape (1, 6, 7, 8)"),
    ],
)
def test_an_unexpected_exception_is_quoted(finished_run: Records, fault: str, words: str) -> None:
    reason = str(finished_run[1][fault].reason)
    assert reason.startswith("the worker ended with exit status 1")
    assert words in reason


def test_a_backend_that_gives_nan_fails_with_the_image_named(finished_run: Records, tiny: Tiny) -> None:
    image = tiny.data / "widget" / "test" / "good" / "002.png"
    assert str(finished_run[1]["nan"].reason).startswith(f"{image}: its anomaly map holds NaN")


def test_an_unavailable_backend_is_skipped_with_its_own_reason(finished_run: Records) -> None:
    assert finished_run[1]["absent"].reason == "there is no such board here: plug one in"


@pytest.mark.parametrize("fault", [*BROKEN, "absent"])
def test_unmeasured_records_have_no_numbers(finished_run: Records, fault: str) -> None:
    measured = finished_run[1][fault]
    assert (measured.metrics, measured.images, measured.latency_ms, measured.evidence) == ({}, (), {}, None)
    assert measured.finished >= measured.started


def test_output_of_a_runtime_is_not_mistaken_for_an_event(finished_run: Records) -> None:
    scores = [[image.score for image in finished_run[1][name].images] for name in ("chatter", "work")]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 8


def test_every_returned_record_is_on_disk(finished_run: Records) -> None:
    folder, measured = finished_run
    read = {old.case.backend.removeprefix("fake-"): old for old in record.read_all(folder / "results")}
    assert read == measured


def test_the_next_call_runs_what_failed_and_nothing_else(
    finished_run: Records, tiny: Tiny, fakes: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run[0] / "results", tmp_path / "results")
    (fakes / "healed").touch()
    again = run(tiny.request(tmp_path / "results", "fake-work", "fake-kill", "fake-nan", "fake-big"))
    assert (fakes / "opened").read_text().split() == ["kill", "nan"]
    assert {measured.status for measured in again.values()} == {"measured"}
    assert again["work"] == finished_run[1]["work"]
    assert again["kill"].metrics == again["work"].metrics


def test_a_worker_that_hangs_is_killed_with_its_child_processes(
    tiny: Tiny, fakes: Path, tmp_path: Path
) -> None:
    measured = run(tiny.request(tmp_path / "out", "fake-hang", "fake-work", timeout=4.0))
    assert measured["hang"].status == "failed"
    assert str(measured["hang"].reason).startswith("the worker gave no sign of life for 4 s and was killed")
    assert measured["work"].status == "measured"
    for process in map(int, (fakes / "hanging").read_text().split()):
        assert is_gone(process)


def is_gone(process: int) -> bool:
    """Whether a process ends within some seconds; one that waits to be reaped has ended."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.1)
                continue
        return True
    return False


def test_the_environment_is_set_and_the_cores_are_pinned_before_the_backend_is_imported(
    finished_run: Records,
) -> None:
    device = finished_run[1]["work"].device
    assert device is not None
    assert device.options == {"flag_at_exec": "True", "cores_at_import": "1", "cores_of_threads": "{1}"}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_worker_gets_the_requested_cores(tiny: Tiny, tmp_path: Path) -> None:
    device = run(tiny.request(tmp_path / "out", "fake-work", threads=2))["work"].device
    assert device is not None
    assert device.options["cores_of_threads"] == "{2}"


def test_peak_memory_is_the_workers_alone(finished_run: Records, tiny: Tiny, tmp_path: Path) -> None:
    ballast = np.ones(50_000_000)  # 400 MB that a child would inherit in ru_maxrss
    light = run(tiny.request(tmp_path / "out", "fake-work"))["work"].peak_memory_bytes
    heavy = finished_run[1]["big"].peak_memory_bytes  # holds 320 MB
    assert ballast.all()
    assert light is not None
    assert heavy is not None
    assert light < 320e6 < heavy


@pytest.mark.parametrize(
    ("backend", "reason"), [("fake-work", None), ("fake-absent", "there is no such board here: plug one in")]
)
def test_a_probe_gives_the_backends_own_answer(backend: str, reason: str | None) -> None:
    assert worker.probe(backend) == reason
