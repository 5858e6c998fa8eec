from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import onnx_models, registry
from harness.records.record import Record
from harness.run import pipeline, plan
from harness.run.inputs import in_its_batches
from harness.run.options import RunOptions
from harness.run.plan import BenchRequest
from tests.conftest import Tiny

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

Measure = Callable[..., Record]


@pytest.fixture
def measure(tiny: Tiny, tmp_path: Path) -> Measure:
    """Score a model on the tiny data set in this process, with declarations."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

    def measured(path: Path, *declared: str, batch_size: int = 1) -> Record:
        graph = onnx_models.read_graph(path)
        described = onnx_models.declare(onnx_models.recognise(graph), declared)
        artifact = onnx_models.adopt(graph, described, "widget", tmp_path / "adopted")
        request = BenchRequest(
            artifacts=(artifact,),
            data=tiny.data,
            categories=(),
            backends=("onnxruntime-cpu",),
            out=tmp_path / "results",
            options=RunOptions(batch_size=batch_size, force=True),
        )
        (job,) = plan.plan(request).jobs
        session = registry.backend("onnxruntime-cpu").open(job.artifact, job.variant, threads=1)
        return pipeline.run(
            job, in_its_batches(session, job.variant), load_ms=None, advance=list[int]().append
        )

    return measured
