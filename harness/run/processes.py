"""Child processes that fit one category each, one after another or several at a time."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Protocol

from harness import machine
from harness.errors import UsageError
from harness.run.interrupted import Interrupted
from harness.types import Device

_VISIBLE = {"ascend": machine.VISIBLE_DEVICES, "gpu": "CUDA_VISIBLE_DEVICES"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one of several simultaneous processes runs."""

    cores: frozenset[int]
    environment: Mapping[str, str]


def slot(index: int, *, jobs: int, workers: int, device: Device) -> Slot:
    """The slot `index` of `jobs`: a share of the cores on a CPU; else one device, which the process sees as number 0.

    Raises:
        UsageError: fewer cores or devices than jobs, or ranks of one training besides.
    """
    cores = sorted(os.sched_getaffinity(0))
    if jobs == 1:
        return Slot(cores=frozenset(cores), environment={})
    if workers > 1:
        raise UsageError("--jobs and --workers both use several devices: use one of them")
    if device == "cpu":
        if jobs > len(cores):
            raise UsageError(f"--jobs {jobs}: {len(cores)} cores are usable here")
        return Slot(cores=frozenset(cores[index::jobs]), environment={})
    variable = _VISIBLE[device]
    visible = os.environ.get(variable, "").split(",") if os.environ.get(variable) else None
    if visible is not None and jobs > len(visible):
        raise UsageError(f"--jobs {jobs}: {variable} shows {len(visible)} devices")
    shown = str(index) if visible is None else visible[index]
    return Slot(cores=frozenset(cores), environment={variable: shown, "DEVICE_ID": "0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a category's process ended."""

    code: int
    """Negative: killed by that signal."""
    reason: str
    """The process's last error, or its signal."""


class Say(Protocol):
    """Called with each line of a child process."""

    def __call__(self, name: str, line: str, *, error: bool) -> None:
        """Take one line of the category `name`; `error` if it came from standard error."""


class Children:
    """Processes that fit one category each, as many at once as there are slots."""

    def __init__(self, arguments: Sequence[str], slots: Sequence[Slot], *, say: Say) -> None:
        self._arguments = arguments
        self._say = say
        self._ends: dict[str, End] = {}
        self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self._count = len(slots)
        self._own = threading.local()
        self._alive: set[subprocess.Popen[str]] = set()
        self._stopping = False
        self._lock = threading.Lock()

    def run(self, names: Sequence[str]) -> dict[str, End]:
        """Fit all categories.

        Raises:
            Interrupted: on Ctrl-C; running processes have written their checkpoints, and no other was started.
        """
        with ThreadPoolExecutor(self._count, initializer=self._take_slot) as pool:
            try:
                futures = {name: pool.submit(self._fit, name) for name in names}
                return {name: future.result() for name, future in futures.items()}
            except KeyboardInterrupt:
                self._stop()
        done = sum(end.code == 0 for end in self._ends.values())
        raise Interrupted(
            done,
            len(names),
            "categories are fitted and kept",
            continues="the same command with --resume continues",
        )

    def _take_slot(self) -> None:
        self._own.slot = self._slots.get()
        os.sched_setaffinity(0, self._own.slot.cores)  # this thread's, which its child processes inherit

    def _fit(self, name: str) -> End:
        process = self._start(name)
        if process is None:
            return End(code=130, reason="not begun")
        errors: list[str] = []
        with process:
            reader = threading.Thread(target=self._read_errors, args=(name, process.stderr, errors))
            reader.start()
            for line in _lines(process.stdout):
                self._say(name, line, error=False)
            reader.join()
        with self._lock:
            self._alive.discard(process)
        self._ends[name] = End(code=process.returncode, reason=_reason(process.returncode, errors))
        return self._ends[name]

    def _read_errors(self, name: str, source: IO[str] | None, errors: list[str]) -> None:
        for line in _lines(source):
            errors.append(line)
            self._say(name, line, error=True)

    def _start(self, name: str) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._stopping:
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "harness", *self._arguments, "--only", name],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, **self._own.slot.environment, "PYTHONPATH": machine.python_path()},
                start_new_session=True,  # Ctrl-C reaches only this process, which passes it on once
            )
            self._alive.add(process)
        return process

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            for process in self._alive:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()


def _lines(source: IO[str] | None) -> Iterator[str]:
    assert source is not None  # noqa: S101 - PIPE was requested
    return (line.rstrip() for line in source)


def _reason(code: int, errors: Sequence[str]) -> str:
    """The last error that a process printed, or the signal that killed it."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    printed = [line.removeprefix("error: ") for line in errors if line.startswith("error: ")]
    return printed[-1] if printed else f"exit status {code}"
