"""PaDiM's network: chosen channels of layers 1-3 at the resolution of layer 1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from exporters.nets.resnet import ResNetFeatures, load
from exporters.runtime import mindspore as ms
from exporters.runtime import nn, ops
from harness.artifact import Artifact
from harness.heads.padim import OUTPUT
from harness.preprocess import Crop


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
