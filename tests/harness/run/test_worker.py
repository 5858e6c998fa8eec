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

Ended = tuple[Path, Mapping[str, Record]]

BROKEN = ("kill", "exit", "fail", "nan", "shape")


def run(request: BenchRequest) -> dict[str, Record]:
    """Records by backend, `fake-` left out."""
    records = plan.run(plan.plan(request), timeout=request.options.timeout, report=list[Record]().append)
    return {made.case.backend.removeprefix("fake-"): made for made in records}


@pytest.fixture(scope="module")
def ended(
    tiny: Tiny, another_distribution: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ended]:
    """One run over backends of which most come to grief, the sound ones among them and last."""
    folder = tmp_path_factory.mktemp("ended")
    names = [f"fake-{ail}" for ail in (*BROKEN, "absent", "chatter", "big", "work")]
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_known(another_distribution, folder / "notes", monkeypatch)
        yield folder, run(tiny.request(folder / "results", *names))


def test_a_backend_of_another_distribution_is_measured(ended: Ended) -> None:
    made = ended[1]["work"]
    assert (made.status, made.reason) == ("measured", None)
    assert made.device is not None
    assert made.device.device == "fake"


def test_cases_beside_those_that_die_are_measured(ended: Ended) -> None:
    statuses = {name: made.status for name, made in ended[1].items()}
    sound = dict.fromkeys(("chatter", "big", "work"), "measured")
    assert statuses == dict.fromkeys(BROKEN, "failed") | {"absent": "skipped"} | sound


def test_a_killed_worker_leaves_its_signal_and_its_last_words(ended: Ended) -> None:
    reason = str(ended[1]["kill"].reason)
    words = "line 2 | line 3 | line 4 | line 5 | line 6"
    assert reason == f"the worker was killed by SIGKILL; its last words: {words}"


def test_a_worker_that_exits_leaves_its_exit_status(ended: Ended) -> None:
    assert ended[1]["exit"].reason == "the worker ended with exit status 7 before its record was written"


@pytest.mark.parametrize(
    ("ail", "words"),
    [
        ("fail", "ZeroDivisionError: the driver lost its temper"),
        ("shape", r"embedding has shape (1, 6, 7, 8)"),
    ],
)
def test_an_unexpected_exception_is_quoted(ended: Ended, ail: str, words: str) -> None:
    reason = str(ended[1][ail].reason)
    assert reason.startswith("the worker ended with exit status 1")
    assert words in reason


def test_a_backend_that_gives_nan_fails_with_the_image_named(ended: Ended, tiny: Tiny) -> None:
    image = tiny.data / "widget" / "test" / "good" / "002.png"
    assert str(ended[1]["nan"].reason).startswith(f"{image}: its anomaly map holds NaN")


def test_a_backend_that_is_not_here_is_skipped_in_its_own_words(ended: Ended) -> None:
    assert ended[1]["absent"].reason == "there is no such board here: plug one in"


@pytest.mark.parametrize("ail", [*BROKEN, "absent"])
def test_what_was_not_measured_has_no_numbers(ended: Ended, ail: str) -> None:
    made = ended[1][ail]
    assert (made.metrics, made.images, made.latency_ms, made.evidence) == ({}, (), {}, None)
    assert made.finished >= made.started


def test_what_a_runtime_prints_is_not_taken_for_an_event(ended: Ended) -> None:
    scores = [[image.score for image in ended[1][name].images] for name in ("chatter", "work")]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 8


def test_every_record_is_on_disk_as_it_was_given(ended: Ended) -> None:
    folder, made = ended
    read = {item.case.backend.removeprefix("fake-"): item for item in record.read_all(folder / "results")}
    assert read == made


def test_the_next_call_runs_what_failed_and_nothing_else(
    ended: Ended, tiny: Tiny, fakes: Path, tmp_path: Path
) -> None:
    shutil.copytree(ended[0] / "results", tmp_path / "results")
    (fakes / "healed").touch()
    again = run(tiny.request(tmp_path / "results", "fake-work", "fake-kill", "fake-nan", "fake-big"))
    assert (fakes / "opened").read_text().split() == ["kill", "nan"]
    assert {made.status for made in again.values()} == {"measured"}
    assert again["work"] == ended[1]["work"]
    assert again["kill"].metrics == again["work"].metrics


def test_a_worker_that_hangs_is_killed_with_all_it_started(tiny: Tiny, fakes: Path, tmp_path: Path) -> None:
    made = run(tiny.request(tmp_path / "out", "fake-hang", "fake-work", timeout=4.0))
    assert made["hang"].status == "failed"
    assert str(made["hang"].reason).startswith("the worker gave no sign of life for 4 s and was killed")
    assert made["work"].status == "measured"
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


def test_the_environment_is_set_and_the_cores_are_pinned_before_the_backend_is_imported(ended: Ended) -> None:
    device = ended[1]["work"].device
    assert device is not None
    assert device.options == {"flag_at_exec": "True", "cores_at_import": "1", "cores_of_threads": "{1}"}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_worker_gets_as_many_cores_as_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    device = run(tiny.request(tmp_path / "out", "fake-work", threads=2))["work"].device
    assert device is not None
    assert device.options["cores_of_threads"] == "{2}"


def test_peak_memory_is_the_workers_alone(ended: Ended, tiny: Tiny, tmp_path: Path) -> None:
    ballast = np.ones(50_000_000)  # 400 MB that a child would inherit in ru_maxrss
    light = run(tiny.request(tmp_path / "out", "fake-work"))["work"].peak_memory_bytes
    heavy = ended[1]["big"].peak_memory_bytes  # holds 320 MB
    assert ballast.all()
    assert light is not None
    assert heavy is not None
    assert light < 320e6 < heavy


@pytest.mark.parametrize(
    ("backend", "reason"), [("fake-work", None), ("fake-absent", "there is no such board here: plug one in")]
)
def test_a_probe_gives_the_backends_own_answer(backend: str, reason: str | None) -> None:
    assert worker.probe(backend) == reason
