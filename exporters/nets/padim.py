"""PaDiM's network: chosen channels of layers 1-3 at the resolution of layer 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from exporters.nets.resnet import ResNetFeatures, load
from exporters.runtime import mindspore as ms
from exporters.runtime import nn, ops
from harness.detector.artifact import Artifact
from harness.detector.preprocess import Crop
from harness.errors import UsageError
from harness.heads.graph import MAP, SCORE
from harness.heads.padim import OUTPUT
from harness.heads.resampling import resampling_matrix
from harness.types import AnyArray, Float32

LARGEST_GRAPH = 500_000_000
"""Bytes of covariance factors that a graph may hold; protobuf itself ends at 2 GiB."""


class PadimNet(nn.Cell):
    """(N, 3, H, W) → embedding (N, d, H/4, W/4).

    Deeper layers are repeated to layer 1's grid by nearest neighbour (Defard et al. 2020, section III-A); channels are
    chosen before that, since choosing and repeating commute.
    """

    def __init__(self, backbone: str, channels: Sequence[int], size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = ResNetFeatures(backbone)
        chosen = np.asarray(channels)
        bounds = np.cumsum((0, *self.backbone.channels))
        picks = [
            ms.Tensor(chosen[(chosen >= low) & (chosen < high)] - low, ms.int32)
            for low, high in pairwise(bounds)
        ]
        self.pick1, self.pick2, self.pick3 = picks
        self.gather = ops.Gather()
        self.nearest = ops.ResizeNearestNeighbor((size[0] // 4, size[1] // 4))
        self.concat = ops.Concat(1)

    def construct(self, image: ms.Tensor) -> ms.Tensor:
        """Embeddings of a batch."""
        first, second, third = self.backbone(image)
        return self.concat(
            (
                self.gather(first, self.pick1, 1),
                self.nearest(self.gather(second, self.pick2, 1)),
                self.nearest(self.gather(third, self.pick3, 1)),
            )
        )


def from_artifact(artifact: Artifact) -> tuple[nn.Cell, tuple[int, int, int], tuple[str, ...]]:
    """The fitted network, its input shape (C, H, W) and the names of its outputs."""
    crop = next(step for step in artifact.manifest.preprocessing if isinstance(step, Crop))
    channels = artifact.state()["channels"].tolist()
    net = PadimNet(artifact.manifest.backbone, channels, (crop.height, crop.width))
    load(net, artifact.net())
    return net, (3, crop.height, crop.width), (OUTPUT,)


class PadimWithHead(nn.Cell):
    """(N, 3, H, W) → map (N, H, W) and score (N,): `harness.heads.padim` in the graph.

    Each position's covariance is one dense matrix M with Σ⁻¹ = MᵀM, so that dist = ‖M(x − μ)‖ is a sum of squares.
    """

    def __init__(self, net: PadimNet, artifact: Artifact) -> None:
        super().__init__()
        self.net = net
        state, parameters = artifact.state(), artifact.manifest.head.parameters
        grid, size, sigma = parameters["grid"], parameters["map_size"], parameters["sigma"]
        mean = state["mean"]
        self.channels, self.grid = mean.shape[1], tuple(grid)
        self.mean = ms.Tensor(mean[:, None])
        self.factors = ms.Tensor(dense_factors(parameters, state))
        rows, columns = (
            resampling_matrix(source, target, sigma, half_pixel=parameters.get("half_pixel", True))
            for source, target in zip(grid, size, strict=True)
        )
        self.rows, self.columns = ms.Tensor(rows), ms.Tensor(np.ascontiguousarray(columns.T))
        self.multiply = ops.BatchMatMul(transpose_b=True)

    def construct(self, image: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Map and image score of a batch."""
        flat = self.net(image).reshape((-1, self.channels, self.grid[0] * self.grid[1]))
        delta = ops.transpose(flat, (2, 0, 1)) - self.mean
        whitened = self.multiply(delta, self.factors)
        squared = ops.transpose((whitened * whitened).sum(axis=2), (1, 0))
        distances = ops.sqrt(squared).reshape((-1, *self.grid))
        score_map = ops.matmul(ops.matmul(self.rows, distances), self.columns)
        return score_map, score_map.max(axis=2).max(axis=1)


def dense_factors(parameters: Mapping[str, Any], state: Mapping[str, AnyArray]) -> Float32:
    """Matrices M (P, d, d) with Σ⁻¹ = MᵀM, from the trapezoidal factors of `harness.heads.padim`."""
    order, count = state["order"], state["mean"].shape[1]
    blocks = [state[name] for name in sorted(state) if name.startswith("factor.")]
    dense = np.empty((len(order), count, count), np.float32)
    for index, position in enumerate(order):
        rows = [block[index] for block in blocks if index < len(block)]
        factor = np.concatenate([np.pad(part, ((0, 0), (count - part.shape[1], 0))) for part in rows]).astype(
            np.float64
        )
        inverse = factor.T @ factor
        if parameters["form"] == "complement":
            inverse = (np.eye(count) - inverse) / parameters["epsilon"]
        values, vectors = np.linalg.eigh(inverse)
        dense[position] = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    return dense


def with_head(artifact: Artifact) -> tuple[nn.Cell, tuple[int, int, int], tuple[str, ...]]:
    """The network with its head: image in, map and score out.

    Raises:
        UsageError: the dense covariance factors would take more than `LARGEST_GRAPH` bytes.
    """
    parameters = artifact.manifest.head.parameters
    height, width = parameters["grid"]
    count = len(artifact.state()["channels"])
    needed = height * width * count * count * 4
    if needed > LARGEST_GRAPH:
        raise UsageError(
            f"{artifact.path}: PaDiM's head does not fit into a graph: {height} x {width} covariances of {count} channels "
            f"take {needed / 1e9:.1f} GB (at most {LARGEST_GRAPH / 1e9:.1f}); export without --head-in-graph, or fit with fewer channels"
        )
    net, shape, _ = from_artifact(artifact)
    return PadimWithHead(net, artifact), shape, (MAP, SCORE)
