"""What the harness costs: a bench case over a bare loop of the same decode, preprocess, `session.run` and head.

Both take turns in one process, so that a busy machine slows both. Printed is the ratio from the first image to the
finished record, and that of the whole case with masks, head and warm-up. Run with `pytest benchmarks/test_overhead.py -s`.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import machine, registry
from harness.detector.preprocess import Preprocessor
from harness.run import pipeline, plan
from harness.run.job import Job
from harness.run.options import RunOptions
from harness.run.plan import BenchRequest
from tests.conftest import SHARED, make_tiny

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def bare_loop(job: Job) -> Callable[[], list[float]]:
    """Scores of all test images by the plainest code there is; what is loaded once is loaded now."""
    manifest = job.artifact.manifest
    ready = Preprocessor(manifest.preprocessing)
    head = registry.head(manifest.head.name)(
        manifest.head.parameters, job.artifact.state(), threads=job.case.threads
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.case.threads, 1
    model = str(job.artifact.model_file(job.variant))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run() -> list[float]:
        scores = []
        for sample in job.category.test:
            batch = ready.tensor(ready.frame(ready.decode(sample.path)))[None]
            (embedding,) = session.run(None, {name: batch})
            scores.extend(head(batch, {"embedding": embedding}).images.tolist())
        return scores

    return run


def compare(job: Job, *, repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Print the ratios; the scores of both sides must be the same."""
    bare, warm_up, marks = bare_loop(job), pipeline.warm_up, dict[str, float]()

    def marked(*arguments: Any) -> float:
        taken = warm_up(*arguments)
        marks["first image"] = time.perf_counter()
        return taken

    monkeypatch.setattr(pipeline, "warm_up", marked)
    expected = bare()
    loops, cases, wholes = list[float](), list[float](), list[float]()
    for _ in range(repeats):
        session = registry.backend("onnxruntime-cpu").open(
            job.artifact, job.variant, threads=job.case.threads
        )
        start = time.perf_counter()
        made = pipeline.run(job, session, load_ms=0, advance=list[int]().append)
        end = time.perf_counter()
        assert np.allclose([image.score for image in made.images], expected, rtol=1e-5)
        assert bare() == expected
        loops.append(time.perf_counter() - end)
        cases.append(end - marks["first image"])
        wholes.append(end - start)
    report(job, loops, cases, wholes)


def report(job: Job, loops: list[float], cases: list[float], wholes: list[float]) -> None:
    images = len(job.category.test)
    bare_ms = statistics.median(loops) / images * 1e3
    print(f"\n{job.category.name}: {images} images, {len(loops)} turns, bare loop {bare_ms:.2f} ms per image")
    for what, times in (("first image to record", cases), ("whole case", wholes)):
        ratios = sorted(mine / theirs for mine, theirs in zip(times, loops, strict=True))
        spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
        print(f"  {what}: {statistics.median(ratios):.3f} times the bare loop (median; {spread})")


def test_overhead_on_tiny_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed costs alone: 8 images of 40 x 40 pixels through one convolution."""
    (job,) = plan.plan(make_tiny(tmp_path).request(tmp_path / "results")).jobs
    compare(job, repeats=15, monkeypatch=monkeypatch)


@pytest.mark.real
@pytest.mark.mindspore
def test_overhead_on_real_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PaDiM with ResNet-18 on MVTec AD's bottle."""
    weights, data = SHARED / "weights" / "resnet18_layers123.safetensors", SHARED / "data" / "mvtec"
    if not weights.is_file() or importlib.util.find_spec("mindspore") is None:
        pytest.skip("needs the real images and weights beside the checkout, and MindSpore to fit on them")
    harness = [sys.executable, "-m", "harness"]
    where = ["--data", str(data), "--category", "bottle", "--out", str(tmp_path)]
    subprocess.run([*harness, "fit", "--weights", str(weights), *where], check=True)
    subprocess.run([*harness, "export", str(tmp_path / "padim-resnet18"), "--format", "onnx"], check=True)
    request = BenchRequest(
        artifacts=(tmp_path / "padim-resnet18",),
        data=data,
        categories=("bottle",),
        backends=("onnxruntime-cpu",),
        out=tmp_path / "results",
        options=RunOptions(threads=machine.usable_cores()),
    )
    (job,) = plan.plan(request).jobs
    compare(job, repeats=5, monkeypatch=monkeypatch)
    shutil.rmtree(tmp_path / "results")
