"""The ratio of a subject's time to its control's time, with an interval over processes.

Memory layout, the core and its neighbours differ from process to process and move the ratio by more than blocks of one
process show (docs/reference/gate-rules.md). So the unit is the process: the interval is Student's, of the mean over the processes of the
logs of their ratios of medians, Georges, Buytaert and Eeckhout, "Statistically rigorous Java performance evaluation", OOPSLA
2007, sections 3.2 and 3.3. It is at least as wide as a bootstrap over the processes' blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import NotMeasured
from harness.gates.interleaved import Interleaved, Process

MINIMUM_PROCESSES = 5
MINIMUM_BLOCKS = 20
"""In a simulation without differences between processes, with blocks of five samples that vary by 10 %, 95 % of 600
intervals at level 0.95 held the true ratio with 20 blocks (96 to 99 % if blocks drift), and 91 % with 10."""
RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioInterval:
    """A ratio with the bounds of its two-sided interval."""

    low: float
    estimate: float
    """Geometric mean of `processes`."""
    high: float
    processes: tuple[float, ...]
    """For each process, the median time of the subject over the median time of the control."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Logs:
    """The logs of the ratios of P processes, (P,), and of the geometric means of `RESAMPLES` bootstrap draws of their blocks."""

    processes: NDArray[np.float64]
    draws: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.processes.mean())

    @property
    def variance(self) -> float:
        """Variance of the mean."""
        return float(self.processes.var(ddof=1)) / len(self.processes)


def ratio(benchmark: Interleaved, *, level: float) -> RatioInterval:
    """Return the geometric mean of the processes' ratios x, with an interval of confidence `level`.

    The interval is exp(m ± t s / √P): m and s are the mean and the standard deviation (divisor P - 1) of log x over P
    processes, t is Student's quantile with P - 1 degrees of freedom. A bound of the bootstrap (blocks drawn with
    replacement within each process, `RESAMPLES` times) replaces it if it lies further out.

    Raises:
        NotMeasured: too few processes or blocks, unequal ones, or times that are not positive numbers.
    """
    logs = _logs(benchmark, seed=0)
    half = student(level, len(logs.processes) - 1) * math.sqrt(logs.variance)
    return _interval(logs.mean, half, logs.draws, level, logs)


def relative(now: Interleaved, then: Interleaved, *, level: float) -> RatioInterval:
    """Return the ratio of `now` over the ratio of `then`, two independent measurements, with its interval.

    As `ratio`, but with the interval of a difference of means whose variances differ: Welch, "The generalization of
    'Student's' problem when several different population variances are involved", Biometrika 1947; the degrees of
    freedom are rounded down. `processes` are those of `now`.

    Raises:
        NotMeasured: as `ratio`.
    """
    one, two = _logs(now, seed=0), _logs(then, seed=1)
    variance = one.variance + two.variance
    shares = sum(logs.variance**2 / (len(logs.processes) - 1) for logs in (one, two))
    half = student(level, int(variance**2 / shares)) * math.sqrt(variance) if shares else 0.0
    return _interval(one.mean - two.mean, half, one.draws - two.draws, level, one)


def student(level: float, freedom: int) -> float:
    """Return the two-sided quantile of Student's t: |T| with `freedom` degrees lies below it with probability `level`.

    Bisection of Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4; θ = atan(t / √freedom).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halvings: beyond the digits of a float
        middle = (low + high) / 2
        low, high = (middle, high) if _probability(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _probability(angle: float, freedom: int) -> float:
    """Return the probability of |T| < √freedom · tan(angle): a sum over the odd or even powers of the cosine."""
    odd, cosine = freedom % 2, math.cos(angle)
    total, term = 0.0, cosine**odd
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total


def _interval(
    mean: float, half: float, draws: NDArray[np.float64], level: float, logs: _Logs
) -> RatioInterval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return RatioInterval(
        low=math.exp(min(mean - half, low)),
        estimate=math.exp(mean),
        high=math.exp(max(mean + half, high)),
        processes=tuple(np.exp(logs.processes).tolist()),
    )


def _logs(benchmark: Interleaved, *, seed: int) -> _Logs:
    count = len(benchmark.processes)
    if count < MINIMUM_PROCESSES:
        raise NotMeasured(
            f"{benchmark.benchmark}: {count} processes are too few to show the differences between them; run the benchmarks with: "
            f"pytest --interleaved-processes {MINIMUM_PROCESSES}"
        )
    if len(set(benchmark.processes)) < count:
        raise NotMeasured(
            f"{benchmark.benchmark}: two processes hold the same times, so they are one; run the benchmarks again"
        )
    random = np.random.default_rng(seed)
    resampled = [_resampled(benchmark.benchmark, process, random) for process in benchmark.processes]
    processes = np.array([estimate for estimate, _ in resampled])
    return _Logs(processes=processes, draws=np.mean([draws for _, draws in resampled], axis=0))


def _resampled(name: str, process: Process, random: np.random.Generator) -> tuple[float, NDArray[np.float64]]:
    """Return the log of a process's ratio, and the logs of `RESAMPLES` draws of its blocks, subject and control together.

    They are drawn together, because a slow phase of the machine slows both: Künsch, "The jackknife and the bootstrap for general
    stationary observations", 1989; bounds are percentiles, Efron and Tibshirani, "An Introduction to the Bootstrap",
    1993, chapter 13.
    """
    subject, control = _times(name, process.subject_ms), _times(name, process.control_ms)
    if len(subject) != len(control):
        raise NotMeasured(f"{name}: {len(subject)} blocks of the subject, {len(control)} of the control")
    count = len(subject)
    if count < MINIMUM_BLOCKS:
        raise NotMeasured(f"{name}: {count} blocks are too few, {MINIMUM_BLOCKS} are needed")
    drawn = random.integers(count, size=(RESAMPLES, count))
    medians = [np.median(times[drawn].reshape(RESAMPLES, -1), axis=1) for times in (subject, control)]
    draws = np.log(medians[0] / medians[1])
    if np.ptp(draws) == 0:
        raise NotMeasured(f"{name}: all blocks took the same time: the clock is too coarse for them")
    return math.log(np.median(subject) / np.median(control)), draws


def _times(name: str, blocks: tuple[tuple[float, ...], ...]) -> NDArray[np.float64]:
    lengths = {len(block) for block in blocks}
    if len(lengths) != 1 or 0 in lengths:
        raise NotMeasured(f"{name}: blocks of {sorted(lengths)} samples: they must be equally long")
    times = np.array(blocks, np.float64)
    if not (np.isfinite(times) & (times > 0)).all():
        raise NotMeasured(f"{name}: it has times that are not positive numbers")
    return times
