"""Starts the ranks of a distributed training with `msrun` and reports how they end."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from exporters.errors import CONTINUES, Interrupted, TrainingError
from exporters.train import checkpoint
from harness import machine
from harness.build import FitRequest

LOG_LINES_SHOWN = 5


_CALL_STACKS = "- The Function Call Stack: (For framework developers)"


_WORKER_FAILED = "exit with exception"
"""How `msrun` reports it."""


_SECONDS_BETWEEN_LOOKS = 0.5


PARENT = "HARNESS_MSRUN_PID"
"""Environment variable that holds the launcher's process id."""
_MSRUN = f"""
import os, signal
from harness import machine
machine.die_with_parent(signal.SIGKILL)  # and its workers with it; told to stop, msrun can wait for its scheduler for ever
os.environ["{PARENT}"] = str(os.getpid())
from mindspore.parallel.cluster.run import main
main()
"""


def launch(request: FitRequest, workers: int) -> None:
    """Train on `workers` processes to the end.

    Raises:
        Interrupted: on Ctrl-C; what the last checkpoint holds is kept.
        TrainingError: a worker failed; the message has the last lines of its log.
    """
    logs = checkpoint.folder(request.out) / checkpoint.RANKS
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    (logs / "request.json").write_bytes(encode(request))
    with (logs / "msrun.log").open("w") as log:
        process = subprocess.Popen(
            _command(workers, logs),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # Ctrl-C reaches this process alone
        )
    try:
        failed = _follow(process, logs)
    except KeyboardInterrupt:
        raise Interrupted(f"training interrupted; its last checkpoint is kept; {CONTINUES}") from None
    finally:
        process.kill()
        process.wait()
    if failed or process.returncode != 0:
        raise TrainingError(_obituary(workers, logs))


def _command(workers: int, logs: Path) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    counts = (f"--worker_num={workers}", f"--local_worker_num={workers}", f"--master_port={port}")
    more = (
        "--join=True",
        f"--tail_worker_log={workers}",
        f"--log_dir={logs}",
    )  # no such worker: none is tailed
    program = ("python", "-m", "exporters.fit.rank", str(logs / "request.json"))
    return [sys.executable, "-c", _MSRUN, *counts, *more, *program]


def _environment() -> dict[str, str]:
    """This process's, with our packages on Python's path, and this Python the first `python` that `msrun` finds."""
    programs = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get("PATH")]))
    first = {"PATH": programs, "PYTHONPATH": machine.python_path()}
    # How long a worker waits for another in a collective operation: while that one compiles, say. 30 s when not set.
    return {"MS_NODE_TIMEOUT": "3600", **os.environ, **first, "GLOG_v": "3"}


def _follow(process: subprocess.Popen[bytes], logs: Path) -> bool:
    """Wait for the end, repeating the progress that rank 0 reports; whether a worker failed.

    `msrun` itself would then wait for its scheduler to miss the worker, for as long as workers wait for each other.
    """
    seen = 0
    while process.poll() is None:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        lines = _lines(logs / "worker_0.log")
        for line in lines[seen:]:
            if line.startswith("train "):
                print(line, file=sys.stderr, flush=True)  # noqa: T201 - it is progress
        seen = len(lines)
        if any(_WORKER_FAILED in line for line in _lines(logs / "msrun.log")):
            return True
    return False


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []


def _obituary(workers: int, logs: Path) -> str:
    """What failed: the last words of the workers that ended by an error of their own, else of all."""
    last = {rank: _last_words(logs / f"worker_{rank}.log") for rank in range(workers)}
    failed = {rank: words for rank, words in last.items() if any("rror" in word for word in words)}
    words = [f"worker {rank}: {' | '.join(said) or 'no word'}" for rank, said in (failed or last).items()]
    how = [line.rpartition("] ")[2] for line in _lines(logs / "msrun.log") if _WORKER_FAILED in line]
    return " ".join(
        [
            f"a worker ended before the training did (logs in {logs}; --resume continues):",
            *how,
            "; ".join(words),
        ]
    )


def _last_words(log: Path) -> list[str]:
    """A log's last lines, of MindSpore's long errors those before its own call stacks."""
    lines = [line.strip() for line in _lines(log)]
    if _CALL_STACKS in lines:
        lines = lines[: lines.index(_CALL_STACKS)]
    return [line for line in lines if line.strip("^~- ") and "[INFO]" not in line][-LOG_LINES_SHOWN:]


def encode(request: FitRequest) -> bytes:
    """A request as JSON."""
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    return msgspec.json.encode(fields, enc_hook=str)
