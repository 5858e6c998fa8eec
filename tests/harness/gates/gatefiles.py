"""Results folders, rules and interleaved benchmarks for the tests of gates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness import storage
from harness.gates import GateReport, gate, interleaved
from harness.gates.interleaved import Interleaved, Process
from harness.machine import Host
from harness.records.record import Record
from tests.harness.record_factory import HOST, Outputs, Results, outputs

FIND = """
[find]
detector = "padim"
backbone = "resnet18"
dataset = "mvtec"
categories = ["bottle"]
backend = "onnxruntime-cpu"
variant = "onnx-fp32"
"""
BOUND = 'kind = "bound"\nvalue = "image_auroc"\nof = "each"\nat_least = 0.9\n'
NONINFERIOR = 'kind = "noninferior"\nmetric = "image_auroc"\nmargin = 0.2\n'
MEMORY = 'kind = "growth"\nvalue = "peak_memory_bytes"\nat_most = 1.1\n'
PARITY = 'kind = "parity"\nreference = {backend = "mindspore-cpu", variant = "mindir-fp32"}\n'
LATENCY = (
    'kind = "latency"\nbenchmark = "b.py::test"\nsubject = "ours"\ncontrol = "theirs"\nat_most = 1.0\n'
    "minimum_effect = 0.1\n"
)
RELATIVE = LATENCY + 'of = "baseline"\n'
HOST_AWAY = msgspec.structs.replace(HOST, name="another")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A folder with results, a baseline and a file of rules."""

    folder: Path

    @property
    def results(self) -> Results:
        return Results(folder=self.folder / "results")

    @property
    def baseline(self) -> Results:
        return Results(folder=self.folder / "baseline")

    def rules(self, *rules: str, find: str = FIND) -> Path:
        """Write a file of rules; `rules` are their texts without a name."""
        path = self.folder / "rules.toml"
        named = [f'[[rule]]\nname = "rule {index}"\n{rule}' for index, rule in enumerate(rules)]
        path.write_text("\n".join(['baseline = "baseline"', find, *named]))
        return path

    def judge(self, *rules: str, find: str = FIND) -> GateReport:
        return gate(self.rules(*rules, find=find), self.results.folder)

    def message(self, *rules: str, find: str = FIND) -> str:
        """Return verdict and message of the first check of the first rule."""
        check = self.judge(*rules, find=find).outcomes[0].checks[0]
        return f"{check.verdict}: {check.message}"


def add(results: Results, scores: Outputs | None = None, **changes: Any) -> Record:
    """Add a valid record of onnxruntime-cpu, with times, memory and model size; `changes` replace its fields."""
    scores = outputs(good=40, defective=40) if scores is None else scores
    times = {stage: [10.0] * len(scores.labels) for stage in ("infer_head", "total")}
    sound = {"latency_samples_ms": times, "peak_memory_bytes": 100_000_000, "model_bytes": 1_000_000}
    backend = changes.pop("backend", "onnxruntime-cpu")
    return results.add(backend, scores, **{**sound, **changes})


def timed(
    ratio: float,
    *,
    processes: int | tuple[Process, ...] = 5,
    between: float = 0.0,
    blocks: int = 30,
    spread: float = 0.02,
    seed: int = 0,
    **changes: Any,
) -> Interleaved:
    """Return a benchmark with lognormal times; the ratio of the medians is about `ratio`.

    The ratio varies by `between` from process to process, the samples by `spread`. Of `changes`, `calls`, `subject_ms`
    and `control_ms` are those of the last process.
    """
    if isinstance(processes, int):
        random = np.random.default_rng(seed)
        ratios = ratio * random.lognormal(0, between, processes)
        processes = tuple(process(value, random, blocks=blocks, spread=spread) for value in ratios)
    last = {name: changes.pop(name) for name in Process.__struct_fields__ if name in changes}
    sound: dict[str, Any] = {
        "benchmark": "b.py::test",
        "subject": "ours",
        "control": "theirs",
        "status": "measured",
        "simulated": False,
        "processes": (*processes[:-1], msgspec.structs.replace(processes[-1], **last)),
    }
    return Interleaved(**{**sound, **changes})


def process(
    ratio: float, random: np.random.Generator, *, blocks: int = 30, samples: int = 5, spread: float = 0.02
) -> Process:
    drift = random.lognormal(0, 0.3, size=(blocks, 1))  # the same for subject and control of a block
    noise = random.lognormal(0, spread, size=(2, blocks, samples))
    return Process(calls=(1, 1), subject_ms=rows(ratio * drift * noise[0]), control_ms=rows(drift * noise[1]))


def rows(times: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in block) for block in times)


def write_run(
    folder: Path, benchmarks: Iterable[Interleaved], *, host: Host = HOST, finished: str = "later"
) -> Path:
    """Write a run of benchmarks as the plugin writes it, from any machine."""
    path = folder / interleaved.FILE
    document = {
        "schema": interleaved.SCHEMA,
        "host": msgspec.to_builtins(host),
        "started": "before",
        "finished": finished,
        "benchmarks": [msgspec.to_builtins(benchmark) for benchmark in benchmarks],
    }
    storage.write_json(path, document | {"run_sha256": storage.sha256_of_json(document)})
    return path
