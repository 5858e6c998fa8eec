"""FastFlow's network: a normalising flow over each layer of a frozen backbone (Yu et al. 2021, section 3).

The flow of a layer normalises its features over channels, height and width, then applies affine couplings (Dinh et al.
2017) of the kind `AllInOneBlock` of FrEIA, on which the original rests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from exporters.nets.resnet import Norms, ResNetFeatures, load
from exporters.runtime import mindspore as ms
from exporters.runtime import nn, ops
from harness.detector.artifact import Artifact
from harness.detector.preprocess import Crop
from harness.heads.fastflow import OUTPUTS, STRIDES
from harness.heads.graph import MAP, SCORE
from harness.heads.resampling import resampling_matrix
from harness.types import AnyArray

EPSILON = 1e-5
"""Added to the variance of the layer normalisation."""
CLAMP = 2.0
"""A coupling scales by a factor between e^−CLAMP and e^CLAMP."""
SUBNET_SCALE = 0.1
"""Multiplies what a coupling's convolutions give."""
BACKBONE = "backbone"
"""In an artifact, the backbone's parameters are `backbone.…`; the flows' are `flow1.…` to `flow3.…`."""


def initial(
    channels: tuple[int, ...], size: int, *, steps: int, hidden_ratio: float, only_3x3: bool, seed: int
) -> dict[str, AnyArray]:
    """Untrained flows over layers of `channels`, for images of `size` pixels a side.

    Convolutions are uniform within ± 1 / √fan-in (He et al. 2015 with a slope of √5, PyTorch's default), without bias;
    normalisation and global affine change nothing; each coupling has its own random permutation of the channels.
    """
    random = np.random.default_rng(seed)
    arrays: dict[str, AnyArray] = {}
    for layer, (count, stride) in enumerate(zip(channels, STRIDES, strict=True), start=1):
        side, half = size // stride, count // 2
        hidden = int(half * hidden_ratio)
        arrays[f"flow{layer}.weight"] = np.ones((count, side, side), np.float32)
        arrays[f"flow{layer}.bias"] = np.zeros((count, side, side), np.float32)
        for step in range(steps):
            kernel = 3 if only_3x3 or step % 2 == 0 else 1
            name = f"flow{layer}.couplings.{step}"
            for part, (inputs, outputs) in {"conv1": (half, hidden), "conv2": (hidden, count)}.items():
                bound = 1 / math.sqrt(inputs * kernel**2)
                shape = (outputs, inputs, kernel, kernel)
                arrays[f"{name}.{part}.weight"] = random.uniform(-bound, bound, shape).astype(np.float32)
                arrays[f"{name}.{part}.bias"] = np.zeros(outputs, np.float32)
            arrays[f"{name}.gain"] = np.full(count, 2 * math.log(math.exp(5) - 1), np.float32)
            arrays[f"{name}.offset"] = np.zeros(count, np.float32)
            arrays[f"{name}.permutation"] = random.permutation(count).astype(np.int32)
    return arrays


def _part(arrays: Mapping[str, AnyArray], name: str) -> dict[str, AnyArray]:
    """The arrays under `name.`, without it."""
    return {key[len(name) + 1 :]: array for key, array in arrays.items() if key.startswith(f"{name}.")}


class Coupling(nn.Cell):
    """x = (x1, x2) → y = permuted (g·(x1, x2·e^s + t) + b), and log |det dy/dx|.

    s = CLAMP · tanh(a1) and t = a2 with (a1, a2) = SUBNET_SCALE · conv(ReLU(conv(x1))); g = 0.1 · softplus(gain)
    with β = 0.5, which is 0.2 · ln(1 + e^(gain / 2)); b is `offset`.
    """

    def __init__(self, arrays: Mapping[str, AnyArray]) -> None:
        super().__init__()
        channels = len(arrays["gain"])
        self.conv1, self.conv2 = (_convolution(_part(arrays, name)) for name in ("conv1", "conv2"))
        self.relu = nn.ReLU()
        self.sigmoid = nn.Sigmoid()
        self.gain, self.offset = (_parameter(arrays, name) for name in ("gain", "offset"))
        self.permutation = _parameter(arrays, "permutation", trained=False)
        self.split, self.concat, self.gather = ops.Split(1, 2), ops.Concat(1), ops.Gather()
        # A convolution per channel: with a broadcast product, layer 1's flow takes 1.2 times as long to train.
        self.scale, self.shift = ops.Conv2D(channels, (1, 1), group=channels), ops.BiasAdd()

    def construct(self, x: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """(N, C, h, w) → (N, C, h, w) and (N,)."""
        kept, moved = self.split(x)
        log_factor, shift = self.split(self.conv2(self.relu(self.conv1(kept))))
        # MindSpore's tanh is off by 1e-4 on the CPU, and its ONNX by 1e-5: tanh(a) = 2·sigmoid(2a) − 1.
        log_factor = self.sigmoid(log_factor * (2 * SUBNET_SCALE)) * (2 * CLAMP) - CLAMP
        moved = moved * ops.exp(log_factor) + shift * SUBNET_SCALE
        gain = 0.2 * ops.log(1.0 + ops.exp(0.5 * self.gain))
        y = self.scale(self.concat((kept, moved)), gain.reshape((-1, 1, 1, 1)))
        logdet = log_factor.sum(axis=(1, 2, 3)) + x.shape[2] * x.shape[3] * ops.log(gain).sum()
        return self.gather(self.shift(y, self.offset), self.permutation, 1), logdet


def _convolution(arrays: Mapping[str, AnyArray]) -> nn.Cell:
    outputs, inputs, kernel, _ = arrays["weight"].shape
    return nn.Conv2d(
        inputs,
        outputs,
        kernel,
        pad_mode="pad",
        padding=kernel // 2,
        has_bias=True,
        weight_init=ms.Tensor(arrays["weight"]),
        bias_init=ms.Tensor(arrays["bias"]),
    )


def _parameter(arrays: Mapping[str, AnyArray], name: str, *, trained: bool = True) -> ms.Parameter:
    return ms.Parameter(ms.Tensor(arrays[name]), name=name, requires_grad=trained)


class Flow(nn.Cell):
    """One layer's features → z of the same shape, and the log-determinant of the couplings."""

    def __init__(self, arrays: Mapping[str, AnyArray]) -> None:
        super().__init__()
        self.weight, self.bias = (_parameter(arrays, name) for name in ("weight", "bias"))
        couplings = _part(arrays, "couplings")
        count = len({name.partition(".")[0] for name in couplings})
        self.couplings = nn.CellList([Coupling(_part(couplings, str(step))) for step in range(count)])

    def construct(self, x: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """(N, C, h, w) → (N, C, h, w) and (N,)."""
        # MindSpore's layer normalisation over three axes does not export.
        centred = x - _mean(x)
        z = centred / ops.sqrt(_mean(centred * centred) + EPSILON) * self.weight + self.bias
        logdet = 0.0
        for coupling in self.couplings:
            z, more = coupling(z)
            logdet = logdet + more
        return z, logdet


def _mean(x: ms.Tensor) -> ms.Tensor:
    """Mean of each row, (N, C, h, w) → (N, 1, 1, 1).

    Axis by axis: onnxruntime adds the numbers of a mean up one after another, which puts a variance off by 4e-5.
    """
    return x.mean(axis=3, keep_dims=True).mean(axis=2, keep_dims=True).mean(axis=1, keep_dims=True)


class Flows(nn.Cell):
    """What is trained: a flow per layer; parameters as `initial` names them."""

    def __init__(self, arrays: Mapping[str, AnyArray]) -> None:
        super().__init__()
        self.flow1, self.flow2, self.flow3 = (
            Flow(_part(arrays, name)) for name in ("flow1", "flow2", "flow3")
        )

    def construct(
        self, first: ms.Tensor, second: ms.Tensor, third: ms.Tensor
    ) -> tuple[tuple[ms.Tensor, ms.Tensor, ms.Tensor], ms.Tensor]:
        """Features → (z1, z2, z3), and the sum of the log-determinants (N,)."""
        z1, logdet1 = self.flow1(first)
        z2, logdet2 = self.flow2(second)
        z3, logdet3 = self.flow3(third)
        return (z1, z2, z3), logdet1 + logdet2 + logdet3


def frozen(backbone: str, weights: Mapping[str, AnyArray]) -> ResNetFeatures:
    """The backbone with torchvision-named `weights`, in inference mode whatever `set_train` says."""
    net = ResNetFeatures(backbone, Norms(frozen=True))
    load(net, weights)
    return net


class FastflowNet(nn.Cell):
    """(N, 3, H, W) → z1, z2, z3 at H/4, H/8, H/16."""

    def __init__(self, backbone: ResNetFeatures, flows: Flows) -> None:
        super().__init__(auto_prefix=False)  # it would rename the flows' parameters
        self.backbone = backbone
        self.flows = flows

    def construct(self, image: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """The latent variables of a batch."""
        first, second, third = self.backbone(image)
        latent, _ = self.flows(first, second, third)
        z1, z2, z3 = latent
        return z1, z2, z3


def from_artifact(artifact: Artifact) -> tuple[nn.Cell, tuple[int, int, int], tuple[str, ...]]:
    """The trained network, its input shape (C, H, W) and the names of its outputs."""
    arrays = artifact.net()
    backbone = frozen(artifact.manifest.backbone, _part(arrays, BACKBONE))
    crop = next(step for step in artifact.manifest.preprocessing if isinstance(step, Crop))
    return FastflowNet(backbone, Flows(arrays)), (3, crop.height, crop.width), OUTPUTS


class FastflowWithHead(nn.Cell):
    """(N, 3, H, W) → map (N, H, W) and score (N,): `harness.heads.fastflow` in the graph."""

    def __init__(self, net: FastflowNet, size: tuple[int, int]) -> None:
        super().__init__(auto_prefix=False)
        self.net = net
        self.rows1, self.rows2, self.rows3 = _upsampling(size[0])
        self.columns1, self.columns2, self.columns3 = _upsampling(size[1], transposed=True)

    def construct(self, image: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Map and image score of a batch."""
        z1, z2, z3 = self.net(image)
        score_map = (
            self._map(z1, self.rows1, self.columns1)
            + self._map(z2, self.rows2, self.columns2)
            + self._map(z3, self.rows3, self.columns3)
        ) / len(STRIDES)
        return score_map, score_map.max(axis=2).max(axis=1)

    def _map(self, z: ms.Tensor, rows: ms.Tensor, columns: ms.Tensor) -> ms.Tensor:
        likelihood = ops.exp((z * z).mean(axis=1) * -0.5)
        return ops.matmul(ops.matmul(rows, -likelihood), columns)


def _upsampling(size: int, *, transposed: bool = False) -> list[ms.Tensor]:
    """Per layer the matrix from its grid to `size` pixels."""
    matrices = [resampling_matrix(size // stride, size, 0.0) for stride in STRIDES]
    return [ms.Tensor(np.ascontiguousarray(matrix.T) if transposed else matrix) for matrix in matrices]


def with_head(artifact: Artifact) -> tuple[nn.Cell, tuple[int, int, int], tuple[str, ...]]:
    """The network with its head: image in, map and score out."""
    net, shape, _ = from_artifact(artifact)
    return FastflowWithHead(net, shape[1:]), shape, (MAP, SCORE)
