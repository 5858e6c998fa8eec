"""The `fit` command: one category in this process; each of several in a process of its own, in turn or side by side.

A process per category keeps what breaks in one, a runtime that aborts or memory that runs out, from the others.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness import datasets, machine, registry
from harness.detector import settings as settings_module
from harness.detector.artifact import Artifact
from harness.detector.settings import Settings
from harness.errors import UsageError
from harness.types import Category, FitRequest

FEW_HELD_OUT = 20
"""Fewer good images than this cannot place a 95 % quantile: the threshold is their largest score."""
_VISIBLE = {"ascend": "ASCEND_RT_VISIBLE_DEVICES", "gpu": "CUDA_VISIBLE_DEVICES"}
_FLAGS = ("resize", "crop", "epochs", "batch_size", "micro_batch", "workers", "early_stop")


def fit(options: argparse.Namespace, names: Sequence[str]) -> int:
    """Fit the categories `names`, or `options.only` where this process is one of several; gives the exit code."""
    template = _template(options)
    if "index" in options and len(names) != 1:
        raise UsageError("a faiss index is the memory bank of one category: name it with --category")
    if options.only is not None:
        machine.die_with_parent(signal.SIGTERM)
        _fit_here(template, options.only, options.data)
        return 0
    if template.backbone != "none" and template.weights is None:
        print("backbone: untrained, drawn from the seed: for trying things out, never for a claim")
    code = 0
    if len(names) == 1:
        _fit_here(template, names[0], options.data)
    else:
        _require_known(names, options.data)
        registry.resolve("stage", "check_fit", registry.STAGES)(template)
        code = _fit_all(options, names)
    if code == 0:
        print(
            f"next: python -m harness export {shlex.quote(str(template.out))} --format onnx --format mindir"
        )
    return code


def _template(options: argparse.Namespace) -> FitRequest:
    """The request of every category, but for the category; `out` is the folder of them all."""
    if options.detector == "ssim_ae" and (options.weights or options.backbone) is not None:
        raise UsageError("ssim_ae has no backbone: leave out --weights and --backbone")
    backbone = "none" if options.detector == "ssim_ae" else options.backbone or "resnet18"
    if options.weights is None and backbone != "none":
        raise UsageError("fit needs --weights W: a backbone's file, or `random` for an untrained one")
    return FitRequest(
        detector=options.detector,
        backbone=backbone,
        weights=None if str(options.weights) == "random" else options.weights,
        dataset=options.data.resolve().name,
        category=Category(name="", root=options.data, train=(), test=()),
        out=options.out / (options.detector if backbone == "none" else f"{options.detector}-{backbone}"),
        settings=_settings(options),
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        init_from=options.init_from,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
        force=options.force,
    )


def _settings(options: argparse.Namespace) -> Settings:
    from harness import storage

    given: dict[str, Any] = {
        name: getattr(options, name) for name in _FLAGS if getattr(options, name) is not None
    }
    if "index" in options:  # `import faiss` is a fit whose memory bank is there
        given["bank"] = str(options.index)
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item}: expected NAME=VALUE")
        storage.local_path(value)  # one of them may be a path
        name = name.strip().replace("-", "_")
        if name in given:
            raise UsageError(f"--set {item}: {name} is set twice")
        given[name] = value.strip()
    return settings_module.settings(options.detector, given)


def _fit_here(template: FitRequest, name: str, data: Path) -> None:
    category = datasets.load_category(data, name)
    request = dataclasses.replace(template, category=category, out=template.out / category.name)
    made, fresh = registry.resolve("stage", "fit", registry.STAGES)(request)
    print(f"{made.path}: {_account(made, fresh=fresh)}")
    held_out = made.manifest.thresholds.held_out_images
    if held_out < FEW_HELD_OUT:
        print(f"  the thresholds rest on {held_out} held-out images alone: take them as rough")


def _account(made: Artifact, *, fresh: bool) -> str:
    manifest = made.manifest
    report = manifest.fit_report
    words = [
        f"fitted on {manifest.training.images} images in {report['seconds']} s" if fresh else "fitted before"
    ]
    if "training" in report:
        done = report["training"]
        words.append(f"{done['epochs']} epochs, loss {done['first_loss']:.4g} → {done['last_loss']:.4g}")
    words.append(f"{manifest.thresholds.held_out_images} held out, threshold {manifest.thresholds.image:.3f}")
    if "state_bytes" in report:
        words.append(f"state {report['state_bytes'] / 1e6:.0f} MB")
    return ", ".join(words)


def _require_known(names: Sequence[str], data: Path) -> None:
    known = datasets.list_categories(data)
    for name in names:
        if name not in known:
            raise UsageError(registry.unknown("category", name, known))


def _fit_all(options: argparse.Namespace, names: Sequence[str]) -> int:
    slots = [_slot(options, index) for index in range(options.jobs)]
    children = _Children(options.arguments, slots)
    try:
        ends = children.run(names)
    except KeyboardInterrupt:
        done = sum(end.code == 0 for end in children.ends.values())
        kept = f"interrupted: {done} of {len(names)} categories are fitted and kept"
        print(f"{kept}; the same command with --resume continues", file=sys.stderr)
        return 130
    failed = {name: end for name, end in ends.items() if end.code != 0}
    print(f"{len(names) - len(failed)} of {len(names)} categories fitted", flush=True)
    for name, end in failed.items():
        print(f"failed: {name}: {end.words}", file=sys.stderr)
    codes = {end.code for end in ends.values()}
    code = codes.pop() if len(codes) == 1 else 3  # all were fitted, or all failed in the same way
    return code if code >= 0 else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """Where one of the processes side by side runs."""

    cores: frozenset[int]
    environment: Mapping[str, str]


def _slot(options: argparse.Namespace, index: int) -> _Slot:
    """On a CPU the cores are shared out; else every process sees one device, its number 0."""
    cores = sorted(os.sched_getaffinity(0))
    if options.jobs == 1:
        return _Slot(cores=frozenset(cores), environment={})
    if (options.workers or 1) > 1:
        raise UsageError("--jobs and --workers both want the devices: give one of them")
    if options.device == "cpu":
        if options.jobs > len(cores):
            raise UsageError(f"--jobs {options.jobs}: {len(cores)} cores are usable here")
        return _Slot(cores=frozenset(cores[index :: options.jobs]), environment={})
    variable = _VISIBLE[options.device]
    visible = os.environ.get(variable, "").split(",") if os.environ.get(variable) else None
    if visible is not None and options.jobs > len(visible):
        raise UsageError(f"--jobs {options.jobs}: {variable} shows {len(visible)} devices")
    device = str(index) if visible is None else visible[index]
    return _Slot(cores=frozenset(cores), environment={variable: device, "DEVICE_ID": "0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How a category's process ended."""

    code: int
    """Negative: killed by that signal."""
    words: str


class _Children:
    """Processes that fit a category each, as many at once as there are slots."""

    def __init__(self, arguments: Sequence[str], slots: Sequence[_Slot]) -> None:
        self.ends: dict[str, _End] = {}
        self._arguments = arguments
        self._slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self._count = len(slots)
        self._own = threading.local()
        self._alive: set[subprocess.Popen[str]] = set()
        self._stopping = False
        self._lock = threading.Lock()

    def run(self, names: Sequence[str]) -> dict[str, _End]:
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

    def _fit(self, name: str) -> _End:
        process = self._start(name)
        if process is None:
            return _End(code=130, words="not begun")
        last: list[str] = []
        with process:
            errors = threading.Thread(target=_repeat, args=(name, process.stderr, sys.stderr, last))
            errors.start()
            _repeat(name, process.stdout, sys.stdout, [])
            errors.join()
        with self._lock:
            self._alive.discard(process)
        self.ends[name] = _End(code=process.returncode, words=_last_words(process.returncode, last))
        return self.ends[name]

    def _start(self, name: str) -> subprocess.Popen[str] | None:
        root = str(Path(__file__).resolve().parents[1])
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
