"""Every case runs completely in its own process, so a runtime that crashes, leaks or hangs affects only this case.

The parent starts `python -m harness.run.worker`, sends the job to standard input as JSON and reads events from standard
output, one JSON document per line: `{"done": n}` for images scored, then `{"record": path}` or `{"error": …}`. Environment
and core affinity are set before the runtime is imported; the runtime's own output goes to a log, used only if the case fails.
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
from harness.errors import HarnessError, PluginError, Unavailable, UsageError

if TYPE_CHECKING:
    from harness.doctor.steps import Check
    from harness.run.job import Job

LOG_LINES_SHOWN = 5


class Failure(HarnessError):  # noqa: N818 - records call it so
    """A case that was not measured; `skipped` if the backend is not on this machine."""

    def __init__(self, reason: str, *, skipped: bool = False) -> None:
        # A runtime quotes names from the model, which may contain any character.
        shown = (sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in reason)
        super().__init__("".join(shown))
        self.skipped = skipped


def start(job: Job, *, advance: Callable[[int], None], timeout: float) -> Path:
    """Run a worker to its end and return the path of the record it wrote.

    Args:
        job: The case.
        advance: Called with the number of images just scored.
        timeout: Seconds without any event after which the worker is killed.

    Raises:
        Failure: it died, hung, or reports why it could not measure.
    """
    events = _Events(advance)
    runs_network = job.outputs is None  # else no runtime is imported
    environment = registry.backend(job.case.backend).environment if runs_network else {}
    with (
        tempfile.TemporaryFile() as log,
        _spawn(["--case", str(job.case.threads)], environment, log) as process,
    ):
        try:
            _send(process, job)
            hung = _listen(process, events, timeout)
        finally:
            if process.poll() is None:
                _end(process)
        if events.error is not None:
            raise events.error
        if events.record is not None and process.returncode == 0:
            return events.record
        raise Failure(_death(process.returncode, hung=hung, timeout=timeout) + _last_words(log))


def probe(backend: str) -> str | None:
    """Why `backend` cannot run on this machine, or `None` if it can; a process of its own finds out."""
    try:
        environment = registry.backend(backend).environment
    except PluginError as error:  # one unusable plug-in must not hide the other backends
        return str(error)
    with tempfile.TemporaryFile() as log:
        process = _spawn(["--probe", backend], environment, log)
        output, _ = process.communicate()
        if process.returncode != 0:
            return _death(process.returncode, hung=False, timeout=0) + _last_words(log)
    reason: str | None = json.loads(output.splitlines()[-1])["unavailable"]
    return reason


def examine(backend: str) -> Iterator[Check]:
    """Each step of `harness.doctor.steps` for `backend` as soon as it is done, in a process of its own.

    If that process dies, a last, failed check says so.
    """
    from harness.doctor.steps import Check

    with tempfile.TemporaryFile() as log:
        with _spawn(["--examine", backend], registry.backend(backend).environment, log) as process:
            assert process.stdin is not None  # noqa: S101 - PIPE was requested
            assert process.stdout is not None  # noqa: S101 - PIPE was requested
            process.stdin.close()
            for line in process.stdout:
                yield msgspec.json.decode(line, type=Check)
        if process.returncode != 0:
            died = _death(process.returncode, hung=False, timeout=0)
            yield Check(name="the check itself", passed=False, found=died + _last_words(log))


def probe_all() -> dict[str, str | None]:
    """Backend → why it cannot run on this machine, or `None` if it can."""
    names = registry.backend_names()
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(probe, names), strict=True))


def _spawn(arguments: list[str], environment: Any, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness.run.worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **environment, "PYTHONPATH": machine.python_path()},
        start_new_session=True,  # Ctrl-C reaches only the parent, which ends the worker
    )


def _send(process: subprocess.Popen[bytes], job: Job) -> None:
    assert process.stdin is not None  # noqa: S101 - PIPE was requested
    with contextlib.suppress(BrokenPipeError), process.stdin:  # it has died already; the exit status says how
        process.stdin.write(job.encoded())


class _Events:
    """The events of a worker so far."""

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
    """Read events until the worker closes its output; `True` if it was silent for too long and was killed."""
    assert process.stdout is not None  # noqa: S101 - PIPE was requested
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
    """Kill the worker and the processes it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _death(code: int | None, *, hung: bool, timeout: float) -> str:
    if hung:
        return f"the worker gave no sign of life for {timeout:g} s and was killed (--timeout sets the limit)"
    if code is not None and code < 0:
        return f"the worker was killed by {signal.Signals(-code).name}"
    return f"the worker ended with exit status {code} before its record was written"


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    shown = [line for line in lines if line.strip("^~ ")][-LOG_LINES_SHOWN:]  # without a traceback's markers
    return "; its last words: " + " | ".join(shown) if shown else ""


# The functions below run in the worker.


def main(arguments: list[str]) -> int:
    """Entry point of the worker process."""
    machine.die_with_parent(signal.SIGKILL)
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a runtime's output must not be mistaken for an event
    if arguments[:1] == ["--probe"]:
        _say(events, unavailable=registry.backend(arguments[1]).unavailable())
        return 0
    if arguments[:1] == ["--examine"]:
        from harness.doctor import steps

        for check in steps.examine(arguments[1]):
            _say(events, **msgspec.to_builtins(check))
        return 0
    try:
        _say(events, record=str(_measure(int(arguments[1]), events)))
    except HarnessError as error:
        _say(events, error=str(error), skipped=isinstance(error, Unavailable))
    return 0


def _measure(threads: int, events: IO[str]) -> Path:
    """Measure the job on standard input and return the path of its record."""
    try:
        machine.pin(threads)  # before numpy or a runtime starts its threads
    except (OSError, ValueError) as error:
        raise UsageError(f"--threads {threads}: {error}") from error
    os.environ["OMP_NUM_THREADS"] = str(threads)

    from harness.records import record
    from harness.run import pipeline
    from harness.run.inputs import in_its_batches
    from harness.run.job import decoded

    job = decoded(sys.stdin.buffer.read())

    def advance(count: int) -> None:
        _say(events, done=count)

    if job.outputs is not None:
        pipeline.score_saved(job, advance=advance)
    else:
        machine.describe()  # runs git: a process that holds a device should not fork
        begin = time.perf_counter_ns()
        session = registry.backend(job.case.backend).open(job.artifact, job.variant, threads=threads)
        load_ms = (time.perf_counter_ns() - begin) / 1e6
        session = in_its_batches(session, job.variant)
        pipeline.run(job, session, load_ms=load_ms, advance=advance)
    return job.out / record.file_name(job.case, job.inputs_sha256)


def _say(events: IO[str], **event: Any) -> None:
    events.write(json.dumps(event) + "\n")
    events.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
