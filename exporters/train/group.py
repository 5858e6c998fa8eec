"""Training on several workers: processes that MindSpore's `msrun` starts, each with its share of every batch.

The process that was asked to fit launches them and waits. Each worker (a rank) runs this file as its program: it calls
the same learner with the same request, so that all build the same task; `train` sees that it is in a group. Rank 0
writes the checkpoints, and from the last one the launcher goes on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from mindspore import communication

from exporters.errors import CONTINUES, Interrupted, TrainingError
from exporters.runtime import mindspore as ms
from exporters.runtime import nn, ops, use
from exporters.train import checkpoint
from harness import machine, storage
from harness.detector import settings
from harness.errors import HarnessError
from harness.types import AnyArray, Category, FitRequest

LOG_LINES_SHOWN = 5
_CALL_STACKS = "- The Function Call Stack: (For framework developers)"
_WORKER_FAILED = "exit with exception"
"""How `msrun` reports it."""
_SECONDS_BETWEEN_LOOKS = 0.5
_PARENT = "HARNESS_MSRUN_PID"
_MSRUN = f"""
import os, signal
from harness import host
host.die_with_parent(signal.SIGKILL)  # and its workers with it; told to stop, msrun can wait for its scheduler for ever
os.environ["{_PARENT}"] = str(os.getpid())
from mindspore.parallel.cluster.run import main
main()
"""


class _Sum(nn.Cell):
    """The sum over all ranks, tensor by tensor.

    All travel as one vector: several collective operations in a graph run in any order, and each rank in its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enable_tuple_broaden = True
        self.map = ops.HyperMap()
        self.join = ops.Concat()
        self.reduce = ops.AllReduce(ops.ReduceOp.SUM)

    def construct(self, tensors: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, ...]:
        """The sums."""
        vector = self.reduce(self.join(self.map(_as_vector, tensors)))
        sums: tuple[ms.Tensor, ...] = ()
        start = 0
        for tensor in tensors:
            sums += (vector[start : start + tensor.size].reshape(tensor.shape),)
            start += tensor.size
        return sums


def _as_vector(tensor: ms.Tensor) -> ms.Tensor:
    return tensor.reshape((-1,))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The processes that train together, and which of them this is."""

    rank: int = 0
    size: int = 1
    reduce: nn.Cell | None = None

    def sum(self, tensors: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, ...]:
        """The sum over all ranks, tensor by tensor."""
        if self.reduce is None:
            return tensors
        summed: tuple[ms.Tensor, ...] = self.reduce(tensors)
        return summed

    def from_first(self, value: float) -> float:
        """Rank 0's value, as a float32."""
        own = value if self.rank == 0 else 0.0
        return float(self.sum((ms.Tensor(np.array([own], np.float32)),))[0].asnumpy()[0])

    def require_equal(self, arrays: Mapping[str, AnyArray]) -> None:
        """Stop unless every rank calls this with the same bits.

        The digest travels as 16 numbers below 65536, whose sums are exact: when every rank's own are the mean, all are
        the same.

        Raises:
            TrainingError: some rank has others.
        """
        digest = np.frombuffer(bytes.fromhex(storage.sha256_of_arrays(arrays)), np.uint16).astype(np.float32)
        (total,) = self.sum((ms.Tensor(digest),))
        if not np.array_equal(total.asnumpy(), digest * self.size):
            raise TrainingError(
                f"the {self.size} workers' weights differ from each other: nothing was kept of them"
            )


def group() -> Group:
    """The group this process is in; of one, unless it was launched as a rank."""
    if not communication.GlobalComm.INITED:
        return Group()
    return Group(rank=communication.get_rank(), size=communication.get_group_size(), reduce=_Sum())


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
    program = ("python", "-m", "exporters.train.group", str(logs / "request.json"))
    return [sys.executable, "-c", _MSRUN, *counts, *more, *program]


def _environment() -> dict[str, str]:
    """This process's, with our packages on Python's path, and this Python the first `python` that `msrun` finds."""
    root = str(Path(__file__).resolve().parents[2])
    first = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": root}
    joined = {
        name: os.pathsep.join(filter(None, [path, os.environ.get(name)])) for name, path in first.items()
    }
    # How long a worker waits for another in a collective operation: while that one compiles, say. 30 s when not set.
    return {"MS_NODE_TIMEOUT": "3600", **os.environ, **joined, "GLOG_v": "3"}


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


def decode(text: bytes) -> FitRequest:
    """The request that `encode` wrote."""
    fields: dict[str, Any] = json.loads(text)
    for name in ("weights", "out", "init_from"):
        fields[name] = None if fields[name] is None else Path(fields[name])
    category = msgspec.convert(fields.pop("category"), Category, dec_hook=lambda kind, value: kind(value))
    wanted = settings.settings(fields["detector"], fields.pop("settings"))
    return FitRequest(**fields, category=category, settings=wanted)


def main(arguments: list[str]) -> int:
    """What a rank runs."""
    machine.die_with_parent(signal.SIGKILL)
    if os.environ.get(_PARENT) != str(os.getppid()):
        return 1  # msrun died while this process was starting
    from exporters.fit import job

    request = decode(Path(arguments[0]).read_bytes())
    try:
        use(request.device)
        communication.init()
        job.learn(request)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the log is where the launcher reads it
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
