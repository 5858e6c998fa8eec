"""PaDiM's head per image against the plain form: dense inverse covariances through `numpy.einsum`."""

from __future__ import annotations

import os

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from exporters.fit.gaussian import GaussianAccumulator, factorise
from harness.heads.padim import BLOCK_ROWS, OUTPUT, PadimHead
from harness.types import AnyArray, Float32

EPSILON = 0.01
SIDE = int(os.environ.get("PADIM_SIDE", "28"))
"""Grid side: 28 is a quarter of the 3136 positions of a 224-pixel crop (56); the dense control of 550 channels takes
0.95 GB then, 3.8 GB in full."""
SHAPES = pytest.mark.parametrize(
    ("dimension", "images"), [(100, 188), (550, 188)], ids=["resnet18", "wide50"]
)


def _features(dimension: int, images: int) -> Float32:
    """Embeddings (images, d, P) with the fast falling spectrum of real features."""
    rng = np.random.default_rng(0)
    scales = np.exp(-np.arange(dimension) / 20).astype(np.float32)
    mixing = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)
    noise = rng.standard_normal((images, SIDE * SIDE, dimension)).astype(np.float32) * scales
    return np.ascontiguousarray((noise @ mixing).transpose(0, 2, 1))


def _state(features: Float32) -> tuple[dict[str, object], dict[str, AnyArray]]:
    gaussians = GaussianAccumulator(features.shape[2], features.shape[1])
    for embedding in features:
        gaussians.add(embedding)
    factors = factorise(
        gaussians, features[:4], epsilon=EPSILON, tolerance=1e-5, block_rows=BLOCK_ROWS, threads=2
    )
    state: dict[str, AnyArray] = {"order": factors.order, "mean": gaussians.mean.astype(np.float32)}
    state |= {f"factor.{index:04}": block for index, block in enumerate(factors.blocks)}
    parameters = {"epsilon": EPSILON, "form": factors.form, "grid": [SIDE, SIDE], "sigma": 4.0}
    return parameters | {"map_size": [4 * SIDE, 4 * SIDE]}, state


def _dense(features: Float32) -> tuple[Float32, Float32]:
    mean = features.mean(0)
    inverse = np.empty((features.shape[2], features.shape[1], features.shape[1]), np.float32)
    for position in range(features.shape[2]):
        covariance = np.cov(features[:, :, position], rowvar=False) + EPSILON * np.eye(features.shape[1])
        inverse[position] = np.linalg.inv(covariance)
    return mean, inverse


@SHAPES
def test_factored_head(benchmark: BenchmarkFixture, dimension: int, images: int) -> None:
    benchmark.group = f"PaDiM distances, {dimension} channels"
    features = _features(dimension, images)
    head = PadimHead(*_state(features[1:]), threads=1)
    embedding = features[:1].reshape(1, dimension, SIDE, SIDE)
    benchmark.extra_info["output"] = OUTPUT
    distances = benchmark(head.distances, embedding)
    assert np.isfinite(distances).all()


@SHAPES
def test_dense_einsum(benchmark: BenchmarkFixture, dimension: int, images: int) -> None:
    benchmark.group = f"PaDiM distances, {dimension} channels"
    features = _features(dimension, images)
    mean, inverse = _dense(features[1:])

    def plain() -> Float32:
        delta = features[0] - mean
        squared: Float32 = np.einsum("dp,pde,ep->p", delta, inverse, delta, optimize=True)
        return np.sqrt(squared)

    assert np.isfinite(benchmark(plain)).all()
