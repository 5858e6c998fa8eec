from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import NotMeasured, RecordError
from harness.gates import interleaved
from harness.gates.interleaved import FILE, RESAMPLES, measure, ratio, relative
from tests.harness.gates.gatefiles import timed, write_run


class Clock:
    """Time that passes only when a subject or a control is called, and notes who was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.called: list[str] = []
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now)

    def takes(self, name: str, ms: float) -> Any:
        def call() -> None:
            self.called.append(name)
            self.now += round(ms * 1e6)

        return call


def test_sides_take_turns_and_take_turns_in_going_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    measure(clock.takes("s", 2), clock.takes("c", 2), blocks=3, samples=2, shortest_ms=1)
    assert (
        "".join(clock.called) == "ss" + "cc" + "sscc" + "ccss" + "sscc"
    )  # the first four find out how long they take


def test_a_sample_is_the_time_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = measure(clock.takes("s", 0.3), clock.takes("c", 5), blocks=2, samples=3, shortest_ms=1)
    assert found["calls"] == (4, 1)
    assert np.allclose(found["subject_ms"], np.full((2, 3), 0.3))
    assert np.allclose(found["control_ms"], np.full((2, 3), 5.0))


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    """One draw after the other, with Python's own medians and sorted order."""
    item = timed(1.2, blocks=21, spread=0.2)
    draws = np.random.default_rng(0).integers(21, size=(RESAMPLES, 21))
    ratios = sorted(
        statistics.median([ms for block in draw for ms in item.subject_ms[block]])
        / statistics.median([ms for block in draw for ms in item.control_ms[block]])
        for draw in draws
    )
    found = ratio(item, level=0.95)
    below = (RESAMPLES - 1) * 0.025
    assert ratios[int(below)] <= found.low <= ratios[int(below) + 1]
    assert ratios[-int(below) - 2] <= found.high <= ratios[-int(below) - 1]
    everything = [statistics.median(sum(side, ())) for side in (item.subject_ms, item.control_ms)]
    assert found.estimate == pytest.approx(everything[0] / everything[1])


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    """Of 150 intervals that each hold it with probability 0.95, 132 or fewer do so once in a thousand times."""
    blocks = interleaved.MINIMUM_BLOCKS
    found = [ratio(timed(1.2, blocks=blocks, spread=0.1, seed=seed), level=0.95) for seed in range(150)]
    assert sum(interval.low <= 1.2 <= interval.high for interval in found) > 132
    assert max(interval.high / interval.low for interval in found) < 1.4


def test_a_drift_that_hits_both_sides_does_not_widen_the_interval() -> None:
    """Blocks drift by a factor of 1.35 and samples vary by 1 %: unpaired, the ratio would be known to some 8 %."""
    found = ratio(timed(1.0, blocks=30, spread=0.01), level=0.95)
    assert found.high - found.low < 0.06


def test_the_interval_widens_with_the_level_and_is_the_same_twice() -> None:
    item = timed(1.0, spread=0.1)
    narrow, wide = ratio(item, level=0.9), ratio(item, level=0.99)
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high
    assert ratio(item, level=0.9) == narrow


def test_exchanging_subject_and_control_inverts_the_ratio() -> None:
    item = timed(2.0, spread=0.1)
    other = timed(1.0, subject_ms=item.control_ms, control_ms=item.subject_ms)
    one, two = ratio(item, level=0.95), ratio(other, level=0.95)
    assert [two.low, two.estimate, two.high] == pytest.approx(
        [1 / one.high, 1 / one.estimate, 1 / one.low], rel=1e-3
    )


def test_two_runs_are_drawn_independently() -> None:
    """Beside itself a ratio is 1, and no better known for being the same twice."""
    item = timed(1.5, spread=0.1)
    found, alone = relative(item, item, level=0.95), ratio(item, level=0.95)
    assert found.estimate == 1
    assert found.high / found.low > alone.high / alone.low


@pytest.mark.parametrize("side", ["subject_ms", "control_ms"])
def test_times_that_are_not_finite_are_not_measured(side: str) -> None:
    times: dict[str, Any] = {side: ((float("nan"),) * 5,) * 30}
    with pytest.raises(NotMeasured, match="not positive numbers"):
        ratio(timed(1.0, **times), level=0.95)


def test_a_run_survives_the_disk(tmp_path: Path) -> None:
    items = (timed(1.0), timed(2.0, benchmark="b.py::other"))
    interleaved.write(tmp_path / FILE, items, started="a")
    run = interleaved.read(tmp_path)
    assert run.benchmarks == items
    assert run.started == "a"


def test_a_run_that_is_absent_or_edited_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="pytest benchmarks/"):
        interleaved.read(tmp_path)
    path = write_run(tmp_path, [timed(1.0)])
    path.write_text(path.read_text().replace('"finished": "later"', '"finished": "now"'))
    with pytest.raises(RecordError, match="edited"):
        interleaved.read(tmp_path)
