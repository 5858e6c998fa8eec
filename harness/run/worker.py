"""Every case runs whole in a process of its own: what a runtime breaks, leaks or hangs is this case's alone.

The parent starts `python -m harness.run.worker`, gives the job on standard input as JSON and reads events from standard
output, one JSON document a line: `{"done": n}` for images scored, then `{"record": path}` or `{"error": …}`. Environment
and core affinity are set before the runtime is imported; its own chatter goes to a log kept only when the case fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from harness import machine, registry
from harness.errors import HarnessError, Unavailable, UsageError

if TYPE_CHECKING:
    from harness.doctor.steps import Check
    from harness.run.job import Job

LOG_LINES_SHOWN = 5


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker is told: a case, and where its things are."""

    artifact: str
    variant: dict[str, Any]
    data: str | None
    """`None` for a replay, whose record says what the data were."""
    case: dict[str, Any]
    fingerprint: str
    out: str
    save_outputs: bool = False
    inputs: str | None = None
    outputs: str | None = None
    played: dict[str, Any] | None = None
    replayed: str | None = None
    source: dict[str, Any] | None = None
    """These as in `harness.run.job.Job`."""


class Failure(HarnessError):  # noqa: N818 - what a worker's end is called in its record
    """A case that did not come to its end; `skipped` when the backend is not on this machine."""

    def __init__(self, reason: str, *, skipped: bool = False) -> None:
        shown = (sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in reason)
        super().__init__("".join(shown))  # a runtime quotes the names of a model, which may hold anything
        self.skipped = skipped


def start(order: Order, *, advance: Callable[[int], None], timeout: float) -> Path:
    """Run a worker to its end and give the path of the record it wrote.

    Args:
        order: The case.
        advance: Called with the number of images just scored.
        timeout: Seconds without any sign of life after which the worker is killed.

    Raises:
        Failure: it died, hung, or says why it could not measure.
    """
    events = _Events(advance)
    played = order.outputs is not None  # no runtime is imported
    environment = {} if played else registry.backend(order.case["backend"]).environment
    with tempfile.TemporaryFile() as log, _spawn(["--case"], environment, log) as process:
        try:
            _send(process, order)
            hung = _listen(process, events, timeout)
        finally:
            if process.poll() is None:
                _end(process)
        if events.error is not None:
            raise events.error
        if events.record is not None and process.returncode == 0:
            return events.record
        raise Failure(_obituary(process.returncode, hung=hung, timeout=timeout) + _tail(log))


def probe(backend: str) -> str | None:
    """Why `backend` cannot run on this machine, asked in a process of its own; `None` when it can."""
    with tempfile.TemporaryFile() as log:
        process = _spawn(["--probe", backend], registry.backend(backend).environment, log)
        output, _ = process.communicate()
        if process.returncode != 0:
            return _obituary(process.returncode, hung=False, timeout=0) + _tail(log)
    reason: str | None = json.loads(output.splitlines()[-1])["unavailable"]
    return reason


def examine(backend: str) -> Iterator[Check]:
    """Every step of `harness.doctor.steps` for `backend` as it is made, in a process of its own.

    A last, failed one says so where that process died.
    """
    from harness.doctor.steps import Check

    with tempfile.TemporaryFile() as log:
        with _spawn(["--examine", backend], registry.backend(backend).environment, log) as process:
            assert process.stdin is not None  # noqa: S101 - PIPE was asked for
            assert process.stdout is not None  # noqa: S101 - PIPE was asked for
            process.stdin.close()
            for line in process.stdout:
                yield msgspec.json.decode(line, type=Check)
        if process.returncode != 0:
            died = _obituary(process.returncode, hung=False, timeout=0)
            yield Check(name="the check itself", passed=False, found=died + _tail(log))


def probe_all() -> dict[str, str | None]:
    """Every backend's name and why it cannot run on this machine; `None` for one that can."""
    names = registry.backend_names()
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(probe, names), strict=True))


def _spawn(arguments: list[str], environment: Any, log: IO[bytes]) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "harness.run.worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **environment, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the worker in order
    )


def _send(process: subprocess.Popen[bytes], order: Order) -> None:
    assert process.stdin is not None  # noqa: S101 - PIPE was asked for
    with contextlib.suppress(BrokenPipeError), process.stdin:  # it died already; the exit status says how
        process.stdin.write(msgspec.json.encode(order))


class _Events:
    """What a worker has said so far."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self.record: Path | None = None
        self.error: Failure | None = None

    def take(self, line: bytes) -> None:
        event = json.loads(line)
        if "done" in event:
            self._advance(event["done"])
        elif "record" in event:
            self.record = Path(event["record"])
        elif "error" in event:
            self.error = Failure(event["error"], skipped=event["skipped"])


def _listen(process: subprocess.Popen[bytes], events: _Events, timeout: float) -> bool:
    """Take events until the worker closes its output; whether it had to be killed for its silence."""
    assert process.stdout is not None  # noqa: S101 - PIPE was asked for
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        pending, alive = b"", time.monotonic()
        while True:
            if selector.select(1.0):
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    process.wait()
                    return False
                alive = time.monotonic()
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    events.take(line)
            elif time.monotonic() - alive > timeout:
                _end(process)
                return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the worker and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _obituary(code: int | None, *, hung: bool, timeout: float) -> str:
    if hung:
        return f"the worker gave no sign of life for {timeout:g} s and was killed (--timeout sets the limit)"
    if code is not None and code < 0:
        return f"the worker was killed by {signal.Signals(-code).name}"
    return f"the worker ended with exit status {code} before its record was written"


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    said = [line for line in lines if line.strip("^~ ")][-LOG_LINES_SHOWN:]  # without a traceback's markers
    return "; its last words: " + " | ".join(said) if said else ""


# What follows runs in the worker.


def main(arguments: list[str]) -> int:
    """Entry point of the worker process."""
    machine.die_with_parent(signal.SIGKILL)
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a runtime that prints must not be taken for an event
    if arguments[:1] == ["--probe"]:
        _say(events, unavailable=registry.backend(arguments[1]).unavailable())
        return 0
    if arguments[:1] == ["--examine"]:
        from harness.doctor import steps

        for check in steps.examine(arguments[1]):
            _say(events, **msgspec.to_builtins(check))
        return 0
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    try:
        _say(events, record=str(_measure(order, events)))
    except HarnessError as error:
        _say(events, error=str(error), skipped=isinstance(error, Unavailable))
    return 0


def _measure(order: Order, events: IO[str]) -> Path:
    threads = order.case["threads"]
    try:
        machine.pin(threads)  # before any runtime starts its threads
    except (OSError, ValueError) as error:
        raise UsageError(f"--threads {threads}: {error}") from error
    os.environ["OMP_NUM_THREADS"] = str(threads)

    from harness.records import record
    from harness.run import pipeline
    from harness.run.inputs import in_its_batches

    job = _job(order)

    def advance(count: int) -> None:
        _say(events, done=count)

    if job.outputs is not None:
        pipeline.play(job, advance=advance)
    else:
        machine.describe()  # asks git: a process that holds a device had better not fork
        begin = time.perf_counter_ns()
        session = registry.backend(job.case.backend).open(job.artifact, job.variant, threads=threads)
        load_ms = (time.perf_counter_ns() - begin) / 1e6
        session = in_its_batches(session, job.variant)
        pipeline.run(job, session, load_ms=load_ms, advance=advance)
    return job.out / record.file_name(job.case, job.inputs_sha256)


def _job(order: Order) -> Job:
    from harness import datasets
    from harness.detector import artifact
    from harness.detector.artifact import Variant
    from harness.records import record
    from harness.records.record import Device, Source
    from harness.run import replay
    from harness.run.job import Job
    from harness.types import Case

    case = msgspec.convert(order.case, Case)
    replayed = _path(order.replayed)
    return Job(
        case=case,
        artifact=artifact.read(Path(order.artifact)),
        variant=msgspec.convert(order.variant, Variant),
        category=datasets.load_category(Path(order.data), case.category)
        if order.data is not None
        else replay.category_of(record.read(Path(str(replayed)))),
        fingerprint=order.fingerprint,
        out=Path(order.out),
        save_outputs=order.save_outputs,
        inputs=_path(order.inputs),
        outputs=_path(order.outputs),
        played=msgspec.convert(order.played, Device | None),
        replayed=replayed,
        source=msgspec.convert(order.source, Source | None),
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _say(events: IO[str], **event: Any) -> None:
    events.write(json.dumps(event) + "\n")
    events.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
