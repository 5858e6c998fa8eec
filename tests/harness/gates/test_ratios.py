"""The interval of a ratio: Student's over processes, and no narrower than their blocks leave it."""

from __future__ import annotations

import math
import statistics
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from harness.errors import NotMeasured
from harness.gates import ratios
from harness.gates.interleaved import Interleaved, Process
from harness.gates.ratios import MINIMUM_BLOCKS, RESAMPLES, ratio, relative, student
from tests.harness.gates.gatefiles import process, rows, timed


def logs_of(benchmark: Interleaved) -> list[float]:
    """Return the log of each process's ratio of medians, computed by Python's statistics."""
    medians = [
        [statistics.median(sum(side, ())) for side in (it.subject_ms, it.control_ms)]
        for it in benchmark.processes
    ]
    return [math.log(subject / control) for subject, control in medians]


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99, 0.9999])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 199])
def test_students_quantile_is_that_of_scipy(freedom: int, level: float) -> None:
    assert student(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-9)


@pytest.mark.parametrize("processes", [5, 8])
def test_the_interval_is_students_over_the_logs_of_the_processes(processes: int) -> None:
    benchmark = timed(1.2, between=0.3, processes=processes)
    logs = logs_of(benchmark)
    error = statistics.stdev(logs) / math.sqrt(processes)
    bounds = ratio(benchmark, level=0.95)
    low, high = stats.t.interval(0.95, processes - 1, statistics.mean(logs), error)
    assert [bounds.low, bounds.high] == pytest.approx([math.exp(low), math.exp(high)])
    assert bounds.estimate == pytest.approx(statistics.geometric_mean(bounds.processes))
    assert bounds.processes == pytest.approx([math.exp(log) for log in logs])


def test_processes_that_agree_by_chance_leave_the_interval_of_their_blocks() -> None:
    """All processes have one ratio, so the interval is that of a plain bootstrap, computed here draw by draw."""
    first, count = process(1.2, np.random.default_rng(0), blocks=20, samples=3, spread=0.2), 5
    benchmark = timed(1.0, processes=tuple(slower(first, 2.0**power) for power in range(count)))
    random, means = np.random.default_rng(0), np.zeros(RESAMPLES)
    for it in benchmark.processes:
        for row, draw in enumerate(random.integers(20, size=(RESAMPLES, 20))):
            subject, control = (
                sorted(ms for block in draw for ms in side[block]) for side in (it.subject_ms, it.control_ms)
            )
            means[row] += math.log((subject[29] + subject[30]) / (control[29] + control[30])) / count
    bounds, means = ratio(benchmark, level=0.95), np.sort(means)
    below = (RESAMPLES - 1) * 0.025
    assert means[int(below)] <= math.log(bounds.low) <= means[int(below) + 1]
    assert means[-int(below) - 2] <= math.log(bounds.high) <= means[-int(below) - 1]
    assert bounds.low < 0.99 * bounds.estimate


def slower(process: Process, factor: float) -> Process:
    sides = {name: rows(np.array(getattr(process, name)) * factor) for name in ("subject_ms", "control_ms")}
    return msgspec.structs.replace(process, **sides)


def test_the_interval_holds_the_ratio_of_many_processes_as_often_as_its_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If each of 300 intervals holds it with probability 0.95, 271 or fewer hold it once in a thousand times."""
    monkeypatch.setattr(ratios, "RESAMPLES", 20)
    bounds = [ratio(timed(1.2, between=0.2, blocks=20, seed=seed), level=0.95) for seed in range(300)]
    assert sum(interval.low <= 1.2 <= interval.high for interval in bounds) > 271
    assert statistics.median(interval.high / interval.low for interval in bounds) < 1.7


def test_a_drift_of_subject_and_control_does_not_widen_the_interval() -> None:
    """Blocks drift by a factor of 1.35 and samples vary by 1 %: unpaired, the interval would be about 8 % wide."""
    bounds = ratio(timed(1.0, spread=0.01), level=0.95)
    assert bounds.high - bounds.low < 0.06


def test_the_interval_widens_with_the_level_and_is_the_same_twice() -> None:
    benchmark = timed(1.0, between=0.1)
    narrow, wide = ratio(benchmark, level=0.9), ratio(benchmark, level=0.99)
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high
    assert ratio(benchmark, level=0.9) == narrow


@pytest.mark.parametrize("between", [0.0, 0.2])
def test_exchanging_subject_and_control_inverts_the_ratio(between: float) -> None:
    benchmark = timed(2.0, between=between)
    exchanged = tuple(
        msgspec.structs.replace(it, subject_ms=it.control_ms, control_ms=it.subject_ms)
        for it in benchmark.processes
    )
    one, two = ratio(benchmark, level=0.95), ratio(timed(1.0, processes=exchanged), level=0.95)
    assert [two.low, two.estimate, two.high] == pytest.approx(
        [1 / one.high, 1 / one.estimate, 1 / one.low], rel=1e-3
    )


def test_two_measurements_are_compared_as_welch_does() -> None:
    now, then = timed(1.5, between=0.1, processes=6), timed(1.2, between=0.4, processes=9, seed=1)
    one, two = logs_of(now), logs_of(then)
    difference = statistics.mean(one) - statistics.mean(two)
    half = math.sqrt(statistics.variance(one) / 6 + statistics.variance(two) / 9)
    half *= stats.t.ppf(0.975, math.floor(stats.ttest_ind(one, two, equal_var=False).df))
    bounds = relative(now, then, level=0.95)
    assert [bounds.low, bounds.estimate, bounds.high] == pytest.approx(
        [math.exp(difference + sign * half) for sign in (-1, 0, 1)]
    )


def test_two_measurements_are_independent() -> None:
    """A ratio over itself is 1, and its interval is not narrower for that."""
    benchmark = timed(1.5, between=0.2)
    bounds, alone = relative(benchmark, benchmark, level=0.95), ratio(benchmark, level=0.95)
    assert bounds.estimate == 1
    assert bounds.high / bounds.low > alone.high / alone.low


def test_two_measurements_whose_processes_agree_by_chance_leave_the_interval_of_their_blocks() -> None:
    first = process(1.0, np.random.default_rng(0), spread=0.2)
    first = msgspec.structs.replace(
        first, subject_ms=first.control_ms[::-1]
    )  # the same median, to the last digit
    benchmark = timed(1.0, processes=tuple(slower(first, 2.0**power) for power in range(5)))
    bounds, alone = relative(benchmark, benchmark, level=0.95), ratio(benchmark, level=0.95)
    assert 1.2 < math.log(bounds.high / bounds.low) / math.log(alone.high / alone.low) < 1.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject_ms": ((float("nan"),) * 5,) * 30}, "not positive numbers"),
        ({"control_ms": ((float("inf"),) * 5,) * 30}, "not positive numbers"),
        ({"control_ms": ((1.0,) * 5,) * 29}, "30 blocks of the subject, 29 of the control"),
        ({"subject_ms": ((1.0,),) * 30, "control_ms": ((1.0,),) * 30}, "clock is too coarse"),
    ],
)
def test_one_process_without_valid_times_makes_the_ratio_not_measured(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotMeasured, match=message):
        ratio(timed(1.0, **changes), level=0.95)


def test_few_blocks_are_not_measured() -> None:
    with pytest.raises(NotMeasured, match="19 blocks are too few, 20 are needed"):
        ratio(timed(1.0, blocks=MINIMUM_BLOCKS - 1), level=0.95)
