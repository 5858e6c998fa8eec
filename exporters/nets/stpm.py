"""STPM's networks: a teacher that is left as it is, and a student of the same shape that learns its features."""

from __future__ import annotations

import math

import numpy as np

from exporters.nets.resnet import Norms, ResNetFeatures, load
from exporters.runtime import mindspore as ms
from exporters.runtime import nn, ops
from exporters.weights.backbones import expected_parameters
from harness.detector.artifact import Artifact
from harness.detector.preprocess import Crop
from harness.heads.graph import MAP, SCORE
from harness.heads.stpm import SMALLEST_SQUARE, STUDENT, TEACHER, resampling
from harness.types import Float32

Features = tuple[ms.Tensor, ms.Tensor, ms.Tensor, ms.Tensor, ms.Tensor, ms.Tensor]

_NORMS = {"standard": Norms(), "seed": Norms(block_epsilon=1e-4, outer_momentum=0.1)}


class StpmNet(nn.Cell):
    """(N, 3, H, W) → features of layers 1-3 of the student, then of the teacher, at H/4, H/8, H/16.

    The teacher's batch normalisations use their moving statistics in training too, and no gradient reaches it.
    """

    def __init__(self, backbone: str, protocol: str) -> None:
        super().__init__()
        norms = _NORMS[protocol]
        self.student = ResNetFeatures(backbone, norms)
        self.teacher = ResNetFeatures(
            backbone,
            Norms(block_epsilon=norms.block_epsilon, outer_momentum=norms.outer_momentum, frozen=True),
        )
        for parameter in self.teacher.get_parameters():
            parameter.requires_grad = False
        # A new cell says it is not training, but compiles under the phase of training: `set_train` would change nothing.
        self.set_train(mode=False)

    def construct(self, image: ms.Tensor) -> Features:
        """The six features of a batch."""
        first, second, third = self.teacher(image)
        return (
            *self.student(image),
            ops.stop_gradient(first),
            ops.stop_gradient(second),
            ops.stop_gradient(third),
        )


def initial_student(backbone: str, seed: int) -> dict[str, Float32]:
    """Untrained parameters: Kaiming-normal by fan-out for ReLU (He et al. 2015, equation 14), norms that change nothing.

    The numbers come from a stream of their own: an untrained teacher is drawn from `seed` itself.
    """
    generator = np.random.default_rng(seed).spawn(1)[0]
    arrays: dict[str, Float32] = {}
    for name, shape in expected_parameters(backbone).items():
        if len(shape) == 4:
            deviation = math.sqrt(2 / (shape[0] * shape[2] * shape[3]))
            arrays[name] = generator.normal(0, deviation, shape).astype(np.float32)
        else:
            ones = name.endswith(("weight", "running_var"))
            arrays[name] = np.full(shape, 1 if ones else 0, np.float32)
    return arrays


class HalfSquaredDistance(nn.Cell):
    """Features (N, C, h, w) twice → ½‖ŝ − t̂‖² of every position, (N, h, w); see `harness.heads.stpm`."""

    def __init__(self, protocol: str) -> None:
        super().__init__()
        self.smallest = SMALLEST_SQUARE[protocol]
        self.sum = ops.ReduceSum(keep_dims=True)

    def construct(self, student: ms.Tensor, teacher: ms.Tensor) -> ms.Tensor:
        """Distances of a batch."""
        difference = self.of_length_one(student) - self.of_length_one(teacher)
        return 0.5 * (difference * difference).sum(axis=1)

    def of_length_one(self, features: ms.Tensor) -> ms.Tensor:
        """Each position's vector divided by its length."""
        return features / ops.sqrt(ops.maximum(self.sum(features * features, 1), self.smallest))


class StpmLoss(nn.Cell):
    """(N, 3, H, W) → scalar: the mean over images and positions of the distance, summed over layers."""

    def __init__(self, net: StpmNet, protocol: str) -> None:
        super().__init__(auto_prefix=False)  # or it would rename the network's parameters
        self.net = net
        self.distance = HalfSquaredDistance(protocol)
        self.set_train(mode=False)

    def construct(self, image: ms.Tensor) -> ms.Tensor:
        """Wang et al. 2021, equations 1 and 2, with every layer's weight 1."""
        student1, student2, student3, teacher1, teacher2, teacher3 = self.net(image)
        return (
            self.distance(student1, teacher1).mean()
            + self.distance(student2, teacher2).mean()
            + self.distance(student3, teacher3).mean()
        )


class StpmWithHead(nn.Cell):
    """(N, 3, H, W) → map (N, H, W) and score (N,): `harness.heads.stpm` in the graph."""

    def __init__(self, net: StpmNet, artifact: Artifact) -> None:
        super().__init__()
        self.net = net
        parameters = artifact.manifest.head.parameters
        self.distance = HalfSquaredDistance(parameters["protocol"])
        rows, columns = zip(*resampling(parameters), strict=True)
        self.rows1, self.rows2, self.rows3 = (ms.Tensor(matrix) for matrix in rows)
        self.columns1, self.columns2, self.columns3 = (
            ms.Tensor(np.ascontiguousarray(matrix.T)) for matrix in columns
        )

    def construct(self, image: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Map and image score of a batch."""
        student1, student2, student3, teacher1, teacher2, teacher3 = self.net(image)
        score_map = (
            ops.matmul(ops.matmul(self.rows1, self.distance(student1, teacher1)), self.columns1)
            * ops.matmul(ops.matmul(self.rows2, self.distance(student2, teacher2)), self.columns2)
            * ops.matmul(ops.matmul(self.rows3, self.distance(student3, teacher3)), self.columns3)
        )
        return score_map, score_map.max(axis=2).max(axis=1)


def from_artifact(artifact: Artifact) -> tuple[nn.Cell, tuple[int, int, int], tuple[str, ...]]:
    """The fitted networks, their input shape (C, H, W) and the names of their outputs."""
    net, shape = _net(artifact)
    return net, shape, (*STUDENT, *TEACHER)


def with_head(artifact: Artifact) -> tuple[nn.Cell, tuple[int, int, int], tuple[str, ...]]:
    """The networks with their head: image in, map and score out."""
    net, shape = _net(artifact)
    return StpmWithHead(net, artifact), shape, (MAP, SCORE)


def _net(artifact: Artifact) -> tuple[StpmNet, tuple[int, int, int]]:
    crop = next(step for step in artifact.manifest.preprocessing if isinstance(step, Crop))
    net = StpmNet(artifact.manifest.backbone, artifact.manifest.head.parameters["protocol"])
    load(net, artifact.net(), prefix="")
    return net, (3, crop.height, crop.width)
