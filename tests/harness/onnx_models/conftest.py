from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import bench, foreign, registry, suite
from harness.foreign.fixed import in_its_batches
from harness.record import Record
from harness.suite import BenchRequest
from tests.conftest import Tiny

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

Measure = Callable[..., Record]


@pytest.fixture
def measure(tiny: Tiny, tmp_path: Path) -> Measure:
    """Score a model on the tiny data set in this process, by what is declared of it."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

    def measured(path: Path, *declared: str, batch_size: int = 1) -> Record:
        graph = foreign.read_graph(path)
        described = foreign.declare(foreign.recognise(graph), declared)
        made = foreign.adopt(graph, described, "widget", tmp_path / "adopted")
        request = BenchRequest(
            artifacts=(made,),
            data=tiny.data,
            categories=(),
            backends=("onnxruntime-cpu",),
            out=tmp_path / "results",
            batch_size=batch_size,
            force=True,
        )
        (job,) = suite.plan(request).jobs
        session = registry.backend("onnxruntime-cpu").open(job.artifact, job.variant, threads=1)
        return bench.run(job, in_its_batches(session, job.variant), load_ms=None, advance=list[int]().append)

    return measured
