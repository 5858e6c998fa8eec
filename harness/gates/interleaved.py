"""A subject and its control timed in turns, block by block, and an interval for the ratio of their medians.

The interval is of one process: it says how well that process knows its ratio, not what another run would find. Memory
layout, the core and its neighbours differ from process to process and move the ratio by more (docs/gates.md).
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness import host, storage
from harness.errors import NotMeasured, RecordError
from harness.host import Host

SCHEMA = 1
FILE = "benchmarks/interleaved.json"
"""Below a results folder."""
MINIMUM_BLOCKS = 20
"""In simulation, without differences between processes: of 600 intervals at level 0.95, from blocks of five samples that vary by 10 %, 95 % held the true ratio with 20 blocks
(96 to 99 % where blocks drift), and 91 % with 10."""
RESAMPLES = 2000
_REMEDY = "run the benchmarks again"


class Interleaved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One benchmark: B blocks, in each of which subject and control have the same number of samples."""

    benchmark: str
    """The test's id."""
    subject: str
    control: str
    status: Literal["measured", "failed"]
    """Failed: the test did, whatever it had timed."""
    simulated: bool
    """A session of it ran on a simulated device."""
    calls: tuple[int, int]
    """Calls per sample, of subject and control."""
    subject_ms: tuple[tuple[float, ...], ...]
    """(B, samples), ms per call."""
    control_ms: tuple[tuple[float, ...], ...]
    """(B, samples), ms per call."""


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All interleaved benchmarks of one test session: what it did not measure is not in its file."""

    schema: int
    host: Host
    started: str
    """UTC, ISO 8601."""
    finished: str
    benchmarks: tuple[Interleaved, ...]
    run_sha256: str
    """Of all else in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioInterval:
    """A ratio with the bounds of its two-sided interval."""

    low: float
    estimate: float
    high: float


def measure(
    subject: Callable[[], Any], control: Callable[[], Any], *, blocks: int, samples: int, shortest_ms: float
) -> dict[str, Any]:
    """Time both in turns; which goes first changes from block to block, so that a drift hits both alike.

    Args:
        subject: What is judged; called without arguments.
        control: What it is compared with.
        blocks: How many times both have their turn.
        samples: Timed samples of either per block.
        shortest_ms: A sample repeats its call until it takes at least as long.

    Returns:
        The fields `calls`, `subject_ms` and `control_ms` of `Interleaved`.
    """
    sides = (subject, control)
    calls = tuple(_calls(side, shortest_ms) for side in sides)
    taken: tuple[list[tuple[float, ...]], list[tuple[float, ...]]] = ([], [])
    for block in range(blocks):
        for side in (0, 1) if block % 2 == 0 else (1, 0):
            taken[side].append(tuple(_sample(sides[side], calls[side]) for _ in range(samples)))
    return {"calls": calls, "subject_ms": tuple(taken[0]), "control_ms": tuple(taken[1])}


def _sample(call: Callable[[], Any], calls: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - begin) / 1e6 / calls


def _calls(call: Callable[[], Any], shortest_ms: float) -> int:
    """Calls that make a sample long enough; the calls made to find out are the warm-up."""
    calls = 1
    call()
    while _sample(call, calls) * calls < shortest_ms:
        calls *= 2
    return calls


def now() -> str:
    """The time: UTC, ISO 8601."""
    return dt.datetime.now(dt.timezone.utc).isoformat()


def write(path: Path, benchmarks: Sequence[Interleaved], *, started: str) -> None:
    """Write the benchmarks of one test session, in place of those of the session before."""
    document = {
        "schema": SCHEMA,
        "host": msgspec.to_builtins(host.describe()),
        "started": started,
        "finished": now(),
        "benchmarks": [msgspec.to_builtins(item) for item in benchmarks],
    }
    storage.write_json(path, document | {"run_sha256": storage.sha256_of_json(document)})


def read(folder: Path) -> Run:
    """Read the interleaved benchmarks of a results folder.

    Raises:
        NotMeasured: there are none.
        RecordError: the file is not one of this harness, or was edited.
    """
    path = folder / FILE
    if not path.is_file():
        raise NotMeasured(f"{path}: no interleaved benchmarks here; make some with: pytest benchmarks/")
    run = storage.read_json(path, Run, schema=SCHEMA, error=RecordError, remedy=_REMEDY)
    document = msgspec.to_builtins(run)
    if (
        storage.sha256_of_json({key: document[key] for key in document if key != "run_sha256"})
        != run.run_sha256
    ):
        raise RecordError(f"{path}: edited since it was written; {_REMEDY}")
    return run


def ratio(item: Interleaved, *, level: float, seed: int = 0) -> RatioInterval:
    """Median time of the subject over median time of the control, with a bootstrap interval over the blocks.

    Blocks are drawn with replacement, subject and control of a block together, since what slows the machine for a while
    slows both: Künsch, "The jackknife and the bootstrap for general stationary observations", 1989; the interval is the
    percentile one, Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Raises:
        NotMeasured: too few blocks, unequal ones, or times that are not positive numbers.
    """
    return _interval(*_resampled(item, seed), level)


def relative(now: Interleaved, then: Interleaved, *, level: float) -> RatioInterval:
    """The ratio of `now` over the ratio of `then`, two independent measurements, with its bootstrap interval."""
    (estimate, draws), (estimate_then, draws_then) = _resampled(now, 0), _resampled(then, 1)
    return _interval(estimate / estimate_then, draws / draws_then, level)


def _resampled(item: Interleaved, seed: int) -> tuple[float, NDArray[np.float64]]:
    """The ratio, and the ratios of `RESAMPLES` draws."""
    subject, control = _times(item, item.subject_ms), _times(item, item.control_ms)
    if len(subject) != len(control):
        raise NotMeasured(
            f"{item.benchmark}: {len(subject)} blocks of the subject, {len(control)} of the control"
        )
    count = len(subject)
    if count < MINIMUM_BLOCKS:
        raise NotMeasured(f"{item.benchmark}: {count} blocks are too few, {MINIMUM_BLOCKS} are needed")
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    medians = [np.median(times[drawn].reshape(RESAMPLES, -1), axis=1) for times in (subject, control)]
    draws = medians[0] / medians[1]
    if np.ptp(draws) == 0:
        raise NotMeasured(f"{item.benchmark}: all blocks took the same time: the clock is too coarse for it")
    return float(np.median(subject) / np.median(control)), draws


def _times(item: Interleaved, blocks: tuple[tuple[float, ...], ...]) -> NDArray[np.float64]:
    lengths = {len(block) for block in blocks}
    if len(lengths) != 1 or 0 in lengths:
        raise NotMeasured(f"{item.benchmark}: blocks of {sorted(lengths)} samples: they must be equally long")
    times = np.array(blocks, np.float64)
    if not (np.isfinite(times) & (times > 0)).all():
        raise NotMeasured(f"{item.benchmark}: it holds times that are not positive numbers")
    return times


def _interval(estimate: float, draws: NDArray[np.float64], level: float) -> RatioInterval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return RatioInterval(low=float(low), estimate=estimate, high=float(high))
