"""Interleaved benchmarks: a subject and its control timed in turns, block by block, with all samples saved."""

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
"""The quickest of these tries counts. With one try, stalls on a busy machine led to 1 and 16, 2 and 16, or 16 and 4 calls
per sample for two functions that take equally long, which further stalls hit differently."""
_REMEDY = "run the benchmarks again"


class Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The samples of one process: B blocks, in each of which subject and control have the same number of samples."""

    calls: tuple[int, int]
    """Calls per sample, the subject's and the control's."""
    subject_ms: tuple[tuple[float, ...], ...]
    """(B, samples), ms per call."""
    control_ms: tuple[tuple[float, ...], ...]
    """(B, samples), ms per call."""


class Interleaved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One benchmark with its samples."""

    benchmark: str
    """The test's id."""
    subject: str
    control: str
    status: Literal["measured", "failed"]
    """`failed` if its test failed, even after the timing, or if not all processes measured the same."""
    simulated: bool
    """Whether a session of its test ran on a simulated device."""
    processes: tuple[Process, ...]
    """In the order in which they ran."""


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All interleaved benchmarks of one pytest run, and none of an earlier run."""

    schema: int
    host: Host
    started: str
    """UTC, ISO 8601."""
    finished: str
    benchmarks: tuple[Interleaved, ...]
    run_sha256: str
    """Digest of all other entries of the file."""


def measure(
    subject: Callable[[], Any], control: Callable[[], Any], *, blocks: int, samples: int, shortest_ms: float
) -> Process:
    """Time both in turns; the first one alternates from block to block, so that a drift affects both alike.

    Args:
        subject: The judged function, called without arguments.
        control: The function it is compared with.
        blocks: Number of blocks; in each both have one turn.
        samples: Timed samples of each in a block.
        shortest_ms: Shortest time of a sample in ms; a sample repeats its call to reach it.
    """
    functions = (subject, control)
    calls = (_calls(subject, shortest_ms), _calls(control, shortest_ms))
    times: tuple[list[tuple[float, ...]], list[tuple[float, ...]]] = ([], [])
    for block in range(blocks):
        for index in (0, 1) if block % 2 == 0 else (1, 0):
            times[index].append(tuple(_sample(functions[index], calls[index]) for _ in range(samples)))
    return Process(calls=calls, subject_ms=tuple(times[0]), control_ms=tuple(times[1]))


def _sample(call: Callable[[], Any], calls: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - begin) / 1e6 / calls


def _calls(call: Callable[[], Any], shortest_ms: float) -> int:
    """Return the number of calls that makes a sample long enough; the calls of this search are the warm-up."""
    calls = 1
    call()
    while min(_sample(call, calls) for _ in range(_TRIES)) * calls < shortest_ms:
        calls *= 2
    return calls


def merged(runs: Sequence[Run]) -> tuple[Interleaved, ...]:
    """Merge the benchmarks of several processes; those that not every process measured alike have failed."""
    names = dict.fromkeys(one.benchmark for run in runs for one in run.benchmarks)
    return tuple(_merged(name, runs) for name in names)


def _merged(name: str, runs: Sequence[Run]) -> Interleaved:
    parts = [part for run in runs for part in run.benchmarks if part.benchmark == name]
    distinct = {(part.subject, part.control, part.simulated, part.status) for part in parts}
    return msgspec.structs.replace(
        parts[0],
        status=parts[0].status if len(parts) == len(runs) and len(distinct) == 1 else "failed",
        processes=tuple(process for part in parts for process in part.processes),
    )


def now() -> str:
    """Return the present time: UTC, ISO 8601."""
    return dt.datetime.now(dt.timezone.utc).isoformat()


def write(path: Path, benchmarks: Sequence[Interleaved], *, started: str) -> None:
    """Write the benchmarks of one pytest run to `path`, in place of those of the run before."""
    document = {
        "schema": SCHEMA,
        "host": msgspec.to_builtins(machine.describe()),
        "started": started,
        "finished": now(),
        "benchmarks": [msgspec.to_builtins(benchmark) for benchmark in benchmarks],
    }
    storage.write_json(path, document | {"run_sha256": storage.sha256_of_json(document)})


def read(folder: Path) -> Run:
    """Read the interleaved benchmarks of a results folder.

    Raises:
        NotMeasured: there are none.
        RecordError: the file is not of this schema, or was edited.
    """
    path = folder / FILE
    if not path.is_file():
        raise NotMeasured(
            f"{path}: no interleaved benchmarks here; measure some with: pytest --benchmark-only benchmarks/test_ratios.py --interleaved-processes 5"
        )
    run = storage.read_json(path, Run, schema=SCHEMA, error=RecordError, remedy=_REMEDY)
    document = msgspec.to_builtins(run)
    if (
        storage.sha256_of_json({key: document[key] for key in document if key != "run_sha256"})
        != run.run_sha256
    ):
        raise RecordError(f"{path}: edited since it was written; {_REMEDY}")
    return run
