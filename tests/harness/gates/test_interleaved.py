from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import NotMeasured, RecordError
from harness.gates import interleaved
from harness.gates.interleaved import FILE, Interleaved, Run, measure, merged
from tests.harness.gates.gatefiles import timed, write_run


class Clock:
    """A clock that advances only with calls of a subject or a control, and notes the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.called: list[str] = []
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now)

    def takes(self, name: str, ms: float) -> Any:
        def call() -> None:
            self.called.append(name)
            self.now += round(ms * 1e6)

        return call


def test_subject_and_control_take_turns_and_alternate_in_going_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    measure(clock.takes("s", 2), clock.takes("c", 2), blocks=3, samples=2, shortest_ms=1)
    assert (
        "".join(clock.called) == "s" * 6 + "c" * 6 + "sscc" + "ccss" + "sscc"
    )  # the first twelve calls measure how long a call takes


def test_a_sample_is_the_time_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    process = measure(clock.takes("s", 0.3), clock.takes("c", 5), blocks=2, samples=3, shortest_ms=1)
    assert process.calls == (4, 1)
    assert np.allclose(process.subject_ms, np.full((2, 3), 0.3))
    assert np.allclose(process.control_ms, np.full((2, 3), 5.0))


def test_a_stall_does_not_count_as_a_long_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    stalls = iter(
        [0, 30, 0, 0, 0, 0, 30]
    )  # the second and the seventh call: the first tries with 1 and with 2 calls per sample

    def stalling() -> None:
        clock.takes("s", 0.3 + next(stalls, 0))()

    process = measure(stalling, clock.takes("c", 0.3), blocks=1, samples=1, shortest_ms=1)
    assert process.calls == (4, 4)


def run(tmp_path: Path, *items: Interleaved) -> Run:
    write_run(tmp_path, items)
    return interleaved.read(tmp_path)


def test_processes_are_merged_in_the_order_in_which_they_ran(tmp_path: Path) -> None:
    one, two = timed(1.0, processes=1, seed=1), timed(1.0, processes=1, seed=2)
    other = timed(1.0, processes=1, seed=3, benchmark="b.py::other")
    both = merged([run(tmp_path, one, other), run(tmp_path, other, two)])
    assert both[0] == timed(1.0, processes=(*one.processes, *two.processes))
    assert both[1] == timed(1.0, benchmark="b.py::other", processes=other.processes * 2)


@pytest.mark.parametrize(
    "changes",
    [{"subject": "other"}, {"control": "other"}, {"simulated": True}, {"status": "failed"}],
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_benchmark_that_not_every_process_measured_alike_has_failed(
    tmp_path: Path, changes: dict[str, Any], order: int
) -> None:
    runs = [run(tmp_path, timed(1.0, seed=1)), run(tmp_path, timed(1.0, seed=2, **changes))]
    assert [benchmark.status for benchmark in merged(runs[::order])] == ["failed"]
    absent = [run(tmp_path), run(tmp_path, timed(1.0))]
    assert [benchmark.status for benchmark in merged(absent[::order])] == ["failed"]
    assert [benchmark.status for benchmark in merged([run(tmp_path, timed(1.0, **changes))] * 2)] == [
        changes.get("status", "measured")
    ]


def test_a_run_survives_the_disk(tmp_path: Path) -> None:
    items = (timed(1.0), timed(2.0, benchmark="b.py::other"))
    interleaved.write(tmp_path / FILE, items, started="a")
    run = interleaved.read(tmp_path)
    assert run.benchmarks == items
    assert run.started == "a"


def test_a_run_that_is_absent_or_edited_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="pytest --benchmark-only benchmarks/"):
        interleaved.read(tmp_path)
    path = write_run(tmp_path, [timed(1.0)])
    path.write_text(path.read_text().replace('"finished": "later"', '"finished": "now"'))
    with pytest.raises(RecordError, match="edited"):
        interleaved.read(tmp_path)
