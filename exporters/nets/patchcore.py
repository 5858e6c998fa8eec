"""PatchCore's network: locally aware patch features as one linear map of the backbone's layers (Roth et al. 2022, 3.1).

The original cuts 3 × 3 patches of each layer, pools every flattened patch (9·C numbers, channel by channel) to 1024,
brings the deeper layer to the shallower one's grid by bilinear interpolation, and pools the 2 · 1024 numbers of both to
1024. All of it is linear, and the pools' bins end where channels end: each layer needs one grouped 3 × 3 convolution
with constant kernels. The seed's form of one layer is the mean over 3 × 3 positions of each channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exporters.nets.resnet import ResNetFeatures, load
from exporters.runtime import mindspore as ms
from exporters.runtime import nn, ops
from harness.detector.artifact import Artifact
from harness.detector.preprocess import Crop
from harness.errors import UsageError
from harness.heads.graph import MAP, SCORE
from harness.heads.patchcore import LARGEST, OUTPUT
from harness.heads.resampling import resampling_matrix
from harness.types import Float32

DIMENSIONS = 1024
"""Of a pooled patch, and of the two layers' patches pooled together."""
PATCH = 3
LARGEST_GRAPH = 1_800_000_000
"""Bytes of bank and network that a graph may hold; protobuf itself ends at 2 GiB."""


class PatchcoreNet(nn.Cell):
    """(N, 3, H, W) → embedding (N, D, h, w) on the grid of the shallower layer.

    Raises:
        UsageError: `layers` are not one layer, or two in their order.
    """

    def __init__(self, backbone: str, layers: Sequence[str], size: tuple[int, int]) -> None:
        super().__init__()
        if len(layers) not in {1, 2} or list(layers) != sorted(set(layers)):
            raise UsageError(
                f"layers {','.join(layers)}: PatchCore takes one layer, or two of them, the shallower first"
            )
        self.backbone = ResNetFeatures(backbone)
        self.picks = tuple(int(layer.removeprefix("layer")) - 1 for layer in layers)
        channels = [self.backbone.channels[pick] for pick in self.picks]
        grids = [tuple(-(-side // 2 ** (pick + 2)) for side in size) for pick in self.picks]
        self.grid: tuple[int, ...] = grids[0]
        self.single = len(layers) == 1
        self.dimensions: int = channels[0] if self.single else DIMENSIONS
        self.first = PatchPooling(
            channels[0], mean_kernel(channels[0]) if self.single else patch_kernel(channels[0])
        )
        if not self.single:
            self.second = PatchPooling(channels[1], patch_kernel(channels[1]))
            rows, columns = (
                resampling_matrix(source, target, 0.0)
                for source, target in zip(grids[1], grids[0], strict=True)
            )
            self.rows, self.columns = ms.Tensor(rows), ms.Tensor(np.ascontiguousarray(columns.T))
            self.concat = ops.Concat(1)

    def construct(self, image: ms.Tensor) -> ms.Tensor:
        """Embeddings of a batch."""
        features = self.backbone(image)
        near = self.first(features[self.picks[0]])
        if self.single:
            return near
        far = self.second(features[self.picks[1]])
        return self.concat((near, ops.matmul(ops.matmul(self.rows, far), self.columns)))


class PatchPooling(nn.Cell):
    """A grouped convolution with constant kernels (outputs, channels / groups, 3, 3) over a border of zeros."""

    def __init__(self, channels: int, kernel: Float32) -> None:
        super().__init__()
        self.kernel = ms.Tensor(kernel)
        self.convolve = ops.Conv2D(  # the exporter reads these as tuples only
            len(kernel),
            (PATCH, PATCH),
            pad_mode="pad",
            pad=(PATCH // 2,) * 4,
            stride=(1, 1),
            dilation=(1, 1),
            group=channels // kernel.shape[1],
        )

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """(N, channels, h, w) → (N, outputs, h, w)."""
        return self.convolve(x, self.kernel)


def mean_kernel(channels: int) -> Float32:
    """Mean over 3 × 3 positions, channel by channel; the border's zeros count."""
    return np.full((channels, 1, PATCH, PATCH), 1 / PATCH**2, np.float32)


def patch_kernel(channels: int) -> Float32:
    """Both pools of a layer's 3 × 3 patches, (512, channels / groups, 3, 3).

    With as many groups as divide channels and outputs, bin edges and channel edges meet wherever a group ends, so no
    bin reaches into another group's channels.
    """
    outputs = DIMENSIONS // 2
    groups = math.gcd(channels, outputs)
    matrix = pooling_matrix(DIMENSIONS, outputs) @ pooling_matrix(PATCH**2 * channels, DIMENSIONS)
    blocks = matrix.reshape(groups, outputs // groups, groups, -1)[np.arange(groups), :, np.arange(groups)]
    return blocks.reshape(outputs, channels // groups, PATCH, PATCH).astype(np.float32)


def pooling_matrix(source: int, target: int) -> NDArray[np.float64]:
    """Adaptive average pooling (target, source): bin i is the mean of ⌊i·s/t⌋ to ⌈(i + 1)·s/t⌉, as PyTorch defines it."""
    matrix = np.zeros((target, source))
    for index in range(target):
        start, stop = index * source // target, -(-(index + 1) * source // target)
        matrix[index, start:stop] = 1 / (stop - start)
    return matrix


def from_artifact(artifact: Artifact) -> tuple[nn.Cell, tuple[int, int, int], tuple[str, ...]]:
    """The fitted network, its input shape (C, H, W) and the names of its outputs."""
    net, size = _net(artifact)
    return net, (3, *size), (OUTPUT,)


def _net(artifact: Artifact) -> tuple[PatchcoreNet, tuple[int, int]]:
    crop = next(step for step in artifact.manifest.preprocessing if isinstance(step, Crop))
    size = (crop.height, crop.width)
    net = PatchcoreNet(artifact.manifest.backbone, artifact.manifest.head.parameters["layers"], size)
    load(net, artifact.net())
    return net, size


class PatchcoreWithHead(nn.Cell):
    """(N, 3, H, W) → map (N, H, W) and score (N,): `harness.heads.patchcore` in the graph.

    The product with the bank, both moved by the bank's mean, only says which row is nearest; the distance is computed
    from the difference to that row, so that nothing cancels.
    """

    def __init__(self, net: PatchcoreNet, artifact: Artifact) -> None:
        super().__init__()
        self.net = net
        state, parameters = artifact.state(), artifact.manifest.head.parameters
        mean = state["bank"].mean(axis=0, dtype=np.float64).astype(np.float32)
        bank = state["bank"] - mean
        self.mean = ms.Tensor(mean)
        self.bank = ms.Parameter(ms.Tensor(bank), name="bank", requires_grad=False)
        self.norms = ms.Tensor(np.einsum("md,md->m", bank, bank))
        self.squared, self.score = parameters["squared"], parameters["score"]
        self.dimensions, self.grid = net.dimensions, net.grid
        self.patches = int(np.prod(net.grid))
        self.multiply = ops.MatMul(transpose_b=True)
        self.least = ops.ArgMinWithValue(axis=1)
        self.gather, self.largest = ops.Gather(), ops.TopK(sorted=True)
        self.order = ms.Tensor(np.arange(self.patches, dtype=np.int32))
        if self.score == "reweighted":
            self.neighbours = ms.Tensor(state["neighbours"])
        rows, columns = (
            resampling_matrix(
                source, target, parameters["sigma"], half_pixel=parameters.get("half_pixel", True)
            )
            for source, target in zip(net.grid, parameters["map_size"], strict=True)
        )
        self.rows, self.columns = ms.Tensor(rows), ms.Tensor(np.ascontiguousarray(columns.T))

    def construct(self, image: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Map and image score of a batch."""
        embedding = self.net(image).reshape((-1, self.dimensions, self.patches))
        patches = ops.transpose(embedding, (0, 2, 1)) - self.mean
        flat = patches.reshape((-1, self.dimensions))
        nearest, _ = self.least(self.norms - 2 * self.multiply(flat, self.bank))
        apart = flat - self.gather(self.bank, nearest, 0)
        distances = (apart * apart).sum(axis=1).reshape((-1, self.patches))
        if not self.squared:
            distances = ops.sqrt(distances)
        score_map = ops.matmul(ops.matmul(self.rows, distances.reshape((-1, *self.grid))), self.columns)
        if self.score == "top10":
            return score_map, self.largest(distances, LARGEST)[0].mean(axis=1)
        if self.score == "max":
            return score_map, distances.max(axis=1)
        return score_map, self.reweighted(distances, patches, nearest.reshape((-1, self.patches)))

    def reweighted(self, distances: ms.Tensor, patches: ms.Tensor, nearest: ms.Tensor) -> ms.Tensor:
        """Equation 7; the farthest patch is picked by a product with ones and zeros, since an index by row would hold
        the batch.
        """
        largest, farthest = self.largest(distances, 1)
        picked = ops.cast(ops.equal(self.order, farthest), ms.float32)
        patch = ops.matmul(picked.reshape((-1, 1, self.patches)), patches)
        row = ops.cast((picked * ops.cast(nearest, ms.float32)).sum(axis=1), ms.int32)
        apart = patch - self.gather(self.bank, self.gather(self.neighbours, row, 0), 0)
        supports = ops.sqrt((apart * apart).sum(axis=2))
        top = supports.max(axis=1)
        largest = largest.reshape((-1,))
        total = ops.exp(supports - top.reshape((-1, 1))).sum(axis=1)
        return (1 - ops.exp(largest - top) / total) * largest


def with_head(artifact: Artifact) -> tuple[nn.Cell, tuple[int, int, int], tuple[str, ...]]:
    """The network with its head: image in, map and score out.

    Raises:
        UsageError: bank and network would take more than `LARGEST_GRAPH` bytes.
    """
    needed = sum(array.nbytes for array in (*artifact.state().values(), *artifact.net().values()))
    if needed > LARGEST_GRAPH:
        raise UsageError(
            f"{artifact.path}: PatchCore's head does not fit into a graph: bank and network take {needed / 1e9:.1f} GB "
            f"(at most {LARGEST_GRAPH / 1e9:.1f}); export without --head-in-graph, or fit with a smaller coreset"
        )
    net, size = _net(artifact)
    return PatchcoreWithHead(net, artifact), (3, *size), (MAP, SCORE)
