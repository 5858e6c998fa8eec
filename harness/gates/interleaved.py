"""A subject and its control timed in turns, block by block, in one process or in several; what they rest on is kept."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness import machine, storage
from harness.errors import NotMeasured, RecordError
from harness.machine import Host

SCHEMA = 2
FILE = "benchmarks/interleaved.json"
"""Below a results folder."""
_TRIES = 5
"""The quickest tells how long a call takes. With one try, stalls on a busy machine gave sides whose calls take equally
long 1 and 16, 2 and 16, or 16 and 4 calls per sample, which further stalls hit differently."""
_REMEDY = "run the benchmarks again"


class Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one process timed: B blocks, in each of which subject and control have the same number of samples."""

    calls: tuple[int, int]
    """Calls per sample, of subject and control."""
    subject_ms: tuple[tuple[float, ...], ...]
    """(B, samples), ms per call."""
    control_ms: tuple[tuple[float, ...], ...]
    """(B, samples), ms per call."""


class Interleaved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One benchmark."""

    benchmark: str
    """The test's id."""
    subject: str
    control: str
    status: Literal["measured", "failed"]
    """Failed: its test did, whatever it had timed; or not all processes measured the same."""
    simulated: bool
    """A session of it ran on a simulated device."""
    processes: tuple[Process, ...]
    """In the order they ran."""


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All interleaved benchmarks of one call of pytest: what it did not measure is not in its file."""

    schema: int
    host: Host
    started: str
    """UTC, ISO 8601."""
    finished: str
    benchmarks: tuple[Interleaved, ...]
    run_sha256: str
    """Of all else in the file."""


def measure(
    subject: Callable[[], Any], control: Callable[[], Any], *, blocks: int, samples: int, shortest_ms: float
) -> Process:
    """Time both in turns; which goes first changes from block to block, so that a drift hits both alike.

    Args:
        subject: What is judged; called without arguments.
        control: What it is compared with.
        blocks: How many times both have their turn.
        samples: Timed samples of either per block.
        shortest_ms: A sample repeats its call until it takes at least as long.
    """
    sides = (subject, control)
    calls = (_calls(subject, shortest_ms), _calls(control, shortest_ms))
    taken: tuple[list[tuple[float, ...]], list[tuple[float, ...]]] = ([], [])
    for block in range(blocks):
        for side in (0, 1) if block % 2 == 0 else (1, 0):
            taken[side].append(tuple(_sample(sides[side], calls[side]) for _ in range(samples)))
    return Process(calls=calls, subject_ms=tuple(taken[0]), control_ms=tuple(taken[1]))


def _sample(call: Callable[[], Any], calls: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - begin) / 1e6 / calls


def _calls(call: Callable[[], Any], shortest_ms: float) -> int:
    """Calls that make a sample long enough; the calls made to find out are the warm-up."""
    calls = 1
    call()
    while min(_sample(call, calls) for _ in range(_TRIES)) * calls < shortest_ms:
        calls *= 2
    return calls


def merged(runs: Sequence[Run]) -> tuple[Interleaved, ...]:
    """The benchmarks of several processes: measured are those that every process measured, under the same names."""
    names = dict.fromkeys(item.benchmark for run in runs for item in run.benchmarks)
    return tuple(_merged(name, runs) for name in names)


def _merged(name: str, runs: Sequence[Run]) -> Interleaved:
    found = [item for run in runs for item in run.benchmarks if item.benchmark == name]
    alike = {(item.subject, item.control, item.simulated, item.status) for item in found}
    return msgspec.structs.replace(
        found[0],
        status=found[0].status if len(found) == len(runs) and len(alike) == 1 else "failed",
        processes=tuple(process for item in found for process in item.processes),
    )


def now() -> str:
    """The time: UTC, ISO 8601."""
    return dt.datetime.now(dt.timezone.utc).isoformat()


def write(path: Path, benchmarks: Sequence[Interleaved], *, started: str) -> None:
    """Write the benchmarks of one call of pytest, in place of those of the call before."""
    document = {
        "schema": SCHEMA,
        "host": msgspec.to_builtins(machine.describe()),
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
        raise NotMeasured(
            f"{path}: no interleaved benchmarks here; make some with: pytest --benchmark-only benchmarks/test_ratios.py --interleaved-processes 5"
        )
    run = storage.read_json(path, Run, schema=SCHEMA, error=RecordError, remedy=_REMEDY)
    document = msgspec.to_builtins(run)
    if (
        storage.sha256_of_json({key: document[key] for key in document if key != "run_sha256"})
        != run.run_sha256
    ):
        raise RecordError(f"{path}: edited since it was written; {_REMEDY}")
    return run
