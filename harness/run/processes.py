"""Child processes that fit one category each, in turn or side by side."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import UsageError
from harness.types import Device

_VISIBLE = {"ascend": "ASCEND_RT_VISIBLE_DEVICES", "gpu": "CUDA_VISIBLE_DEVICES"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one of the processes side by side runs."""

    cores: frozenset[int]
    environment: Mapping[str, str]


def slot(index: int, *, jobs: int, workers: int, device: Device) -> Slot:
    """On a CPU the cores are shared out; else every process sees one device, its number 0."""
    cores = sorted(os.sched_getaffinity(0))
    if jobs == 1:
        return Slot(cores=frozenset(cores), environment={})
    if workers > 1:
        raise UsageError("--jobs and --workers both want the devices: give one of them")
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
    words: str


class Children:
    """Processes that fit a category each, as many at once as there are slots."""

    def __init__(self, arguments: Sequence[str], slots: Sequence[Slot]) -> None:
        self.ends: dict[str, End] = {}
        self._arguments = arguments
        self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self._count = len(slots)
        self._own = threading.local()
        self._alive: set[subprocess.Popen[str]] = set()
        self._stopping = False
        self._lock = threading.Lock()

    def run(self, names: Sequence[str]) -> dict[str, End]:
        """Fit them all; on Ctrl-C have those under way write their checkpoints, and start no more."""
        with ThreadPoolExecutor(self._count, initializer=self._take_slot) as pool:
            try:
                futures = {name: pool.submit(self._fit, name) for name in names}
                return {name: future.result() for name, future in futures.items()}
            except KeyboardInterrupt:
                self._stop()
                raise

    def _take_slot(self) -> None:
        self._own.slot = self._slots.get()
        os.sched_setaffinity(0, self._own.slot.cores)  # of this thread, and of the processes it starts

    def _fit(self, name: str) -> End:
        process = self._start(name)
        if process is None:
            return End(code=130, words="not begun")
        last: list[str] = []
        with process:
            errors = threading.Thread(target=_repeat, args=(name, process.stderr, sys.stderr, last))
            errors.start()
            _repeat(name, process.stdout, sys.stdout, [])
            errors.join()
        with self._lock:
            self._alive.discard(process)
        self.ends[name] = End(code=process.returncode, words=_last_words(process.returncode, last))
        return self.ends[name]

    def _start(self, name: str) -> subprocess.Popen[str] | None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with self._lock:
            if self._stopping:
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "harness", *self._arguments, "--only", name],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, **self._own.slot.environment, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
            )
            self._alive.add(process)
        return process

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            for process in self._alive:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()


def _repeat(name: str, source: IO[str] | None, target: IO[str], seen: list[str]) -> None:
    """Print a process's lines under the category's name; `seen` keeps them."""
    assert source is not None  # noqa: S101 - PIPE was asked for
    for line in source:
        seen.append(line.rstrip())
        print(f"{name}: {line.rstrip()}\n", end="", file=target, flush=True)  # in one piece


def _last_words(code: int, lines: Sequence[str]) -> str:
    """What a process that failed said, or what killed it."""
    if code < 0:
        killer = signal.Signals(-code).name
        return f"killed by {killer}" + (" (out of memory?)" if killer == "SIGKILL" else "")
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else f"exit status {code}"
