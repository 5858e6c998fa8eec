"""PatchCore's coreset and head against the plain form in numpy, and against anomalib's where that is installed.

All take the same features: seeded ones, or a .npy of float32 (patches, dimensions) named by PATCHCORE_FEATURES, whose
last 1024 patches are the image that is scored.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from exporters.fit import coreset
from harness.heads.patchcore import OUTPUT, PatchcoreHead
from harness.types import AnyArray, Float32

SHARE = float(os.environ.get("PATCHCORE_SHARE", "0.1"))
"""Of the patches kept in the bank."""
SIDE = 32
"""Patches of the scored image, along each side."""
THREADS = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def features() -> Float32:
    if "PATCHCORE_FEATURES" in os.environ:
        stored: Float32 = np.load(os.environ["PATCHCORE_FEATURES"])
        return stored
    rng = np.random.default_rng(0)
    scales = np.exp(-np.arange(512) / 30).astype(np.float32)
    mixing = np.linalg.qr(rng.standard_normal((512, 512)))[0].astype(np.float32)
    return np.asarray((rng.standard_normal((20_000, 512)).astype(np.float32) * scales) @ mixing)


@pytest.fixture(scope="module")
def train(features: Float32) -> Float32:
    return features[: -SIDE * SIDE]


@pytest.fixture(scope="module")
def image(features: Float32) -> Float32:
    """The embedding (1, D, 32, 32) of the scored image."""
    rows = features[-SIDE * SIDE :]
    return np.ascontiguousarray(rows.T).reshape(1, -1, SIDE, SIDE)


@pytest.fixture(scope="module")
def bank(train: Float32) -> Float32:
    return train[coreset.select(train, int(SHARE * len(train)), dimensions=128, seed=0)]


def timed(benchmark: BenchmarkFixture, group: str, call: Callable[[], Any], rounds: int) -> Any:
    benchmark.group = group
    return benchmark.pedantic(call, rounds=rounds, warmup_rounds=min(1, rounds - 1))  # type: ignore[no-untyped-call]


# --- the coreset ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [128, 300])
def test_coreset(benchmark: BenchmarkFixture, train: Float32, dimensions: int) -> None:
    """300 is what anomalib projects 192512 patches to."""
    count = int(SHARE * len(train))
    chosen = timed(
        benchmark,
        f"coreset of {count} of {len(train)} patches",
        lambda: coreset.select(train, count, dimensions=dimensions, seed=0),
        3,
    )
    assert len(set(chosen.tolist())) == count


def test_coreset_by_a_pass_over_all_points_per_step(benchmark: BenchmarkFixture, train: Float32) -> None:
    count = int(SHARE * len(train))

    def plain() -> int:
        directions = np.random.default_rng(0).standard_normal((train.shape[1], 128), np.float32)
        points = train @ directions
        norms = np.einsum("nd,nd->n", points, points)
        nearest = np.full(len(points), np.inf, np.float32)
        index = 0
        for _ in range(count):
            np.minimum(nearest, norms - 2 * (points @ points[index]) + norms[index], out=nearest)
            index = int(nearest.argmax())
        return index

    timed(benchmark, f"coreset of {count} of {len(train)} patches", plain, 1)


def test_coreset_of_anomalib(benchmark: BenchmarkFixture, train: Float32) -> None:
    sampling = pytest.importorskip("anomalib.models.components.sampling", reason="anomalib is not installed")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(THREADS)
    count = int(SHARE * len(train))
    embedding = torch.from_numpy(train)
    chosen = timed(
        benchmark,
        f"coreset of {count} of {len(train)} patches",
        lambda: sampling.KCenterGreedy(embedding=embedding, sampling_ratio=SHARE).select_coreset_idxs(),
        1,
    )
    assert len(chosen) == count


# --- the head ---------------------------------------------------------------------------------------------------------


def test_head(benchmark: BenchmarkFixture, bank: Float32, image: Float32) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    parameters = {
        "grid": [SIDE, SIDE],
        "map_size": [256, 256],
        "sigma": 4.0,
        "score": "reweighted",
        "squared": False,
    }
    supports = np.tile(np.arange(9), (len(bank), 1))  # which rows they are changes no time
    state: dict[str, AnyArray] = {"bank": bank, "neighbours": supports}
    head = PatchcoreHead(parameters, state, threads=THREADS)
    scores = timed(
        benchmark,
        f"score of an image, {len(bank)} patches in the bank",
        lambda: head(image, {OUTPUT: image}),
        20,
    )
    assert np.isfinite(scores.maps).all()


def test_head_by_a_product_in_numpy(benchmark: BenchmarkFixture, bank: Float32, image: Float32) -> None:
    norms = np.einsum("md,md->m", bank, bank)
    patches = np.ascontiguousarray(image.reshape(len(bank[0]), -1).T)

    def plain() -> AnyArray:
        squared = np.einsum("nd,nd->n", patches, patches)[:, None] + norms - 2 * (patches @ bank.T)
        return np.asarray(np.sqrt(np.maximum(squared, 0).min(axis=1)))

    distances = timed(benchmark, f"score of an image, {len(bank)} patches in the bank", plain, 20)
    assert np.isfinite(distances).all()


def test_head_of_anomalib(benchmark: BenchmarkFixture, bank: Float32, image: Float32) -> None:
    """Search, image score and map, as `PatchcoreModel.forward` does them after its network."""
    patchcore = pytest.importorskip(
        "anomalib.models.image.patchcore.torch_model", reason="anomalib is not installed"
    )
    torch = pytest.importorskip("torch")
    torch.set_num_threads(THREADS)
    model = patchcore.PatchcoreModel(
        layers=["layer2", "layer3"], backbone="resnet18", pre_trained=False
    ).eval()
    model.memory_bank = torch.from_numpy(bank)
    embedding = torch.from_numpy(image)

    def anomalib() -> Any:
        with torch.no_grad():
            patches = model.reshape_embedding(embedding)
            distances, locations = model.nearest_neighbors(patches, n_neighbors=1)
            score = model.compute_anomaly_score(distances.reshape(1, -1), locations.reshape(1, -1), patches)
            return score, model.anomaly_map_generator(distances.reshape(1, 1, SIDE, SIDE), (256, 256))

    score, _ = timed(benchmark, f"score of an image, {len(bank)} patches in the bank", anomalib, 20)
    assert torch.isfinite(score).all()
