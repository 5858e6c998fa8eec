"""Kernels beside their controls: in pytest-benchmark's table, and timed in turns for `gates/ratios.toml`.

pytest --benchmark-only benchmarks/test_ratios.py --interleaved-results results --interleaved-processes 5
python -m harness gate benchmarks/gates/ratios.toml --results results
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.contracts import Session
from harness.detector import artifact
from harness.heads.neighbours import Neighbours
from harness.metrics import pixel_metrics
from harness.types import AnyArray
from tests.conftest import make_tiny

Call = Callable[[], object]
Interleaved = Callable[..., None]


@pytest.mark.benchmark(group="one run of a network")
def test_session(
    benchmark: BenchmarkFixture,
    interleaved: Interleaved,
    harness_session: Callable[..., Session],
    tmp_path: Path,
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    folder = make_tiny(tmp_path).artifact
    session = harness_session(folder, "onnxruntime-cpu", threads=1)
    found = artifact.read(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = str(found.model_file(found.manifest.variants[0]))
    bare = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(0).random((64, 3, 32, 32), np.float32)

    def control() -> AnyArray:
        (embedding,) = bare.run(None, {"image": batch})
        return np.asarray(embedding)

    assert np.array_equal(session.run(batch)["embedding"], control())
    benchmark(session.run, batch)
    interleaved(lambda: session.run(batch), control, names=("session", "onnxruntime"))


@pytest.mark.benchmark(group="nearest neighbours")
def test_nearest_neighbours(benchmark: BenchmarkFixture, interleaved: Interleaved) -> None:
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    random = np.random.default_rng(0)
    bank, queries = random.random((2000, 128), np.float32), random.random((784, 128), np.float32)
    index = faiss.IndexFlatL2(128)
    index.add(bank)
    search = Neighbours(bank, threads=1).search

    def control() -> AnyArray:
        faiss.omp_set_num_threads(1)
        return np.asarray(index.search(queries, 1)[1])

    assert np.array_equal(search(queries, 1)[1], control())
    benchmark(search, queries, 1)
    interleaved(lambda: search(queries, 1), control, names=("Neighbours", "faiss"))


@pytest.mark.benchmark(group="pixel metrics")
def test_pixel_metrics(benchmark: BenchmarkFixture, interleaved: Interleaved) -> None:
    """All pixel metrics, region overlap included, beside scikit-learn's AUROC alone."""
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    random = np.random.default_rng(0)
    maps = random.random((40, 64, 64), np.float32)
    masks = np.zeros(maps.shape, np.bool_)
    masks[20:, 20:36, 20:36] = True

    def control() -> float:
        return float(sklearn.roc_auc_score(masks.ravel(), maps.ravel()))

    assert pixel_metrics(maps, masks).values["pixel_auroc"] == pytest.approx(control(), abs=1e-12)
    benchmark(pixel_metrics, maps, masks)
    interleaved(lambda: pixel_metrics(maps, masks), control, names=("pixel_metrics", "scikit-learn"))
