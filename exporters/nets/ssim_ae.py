"""SSIM-AE's network: a convolutional autoencoder, as it is trained and as it is exported (Bergmann et al. 2019, table 1).

Transposed convolutions export an invalid ONNX graph and a MINDIR bound to its batch, but train in 2.2 s a step where
their rewriting takes 3.2 (batch 128 of 1 × 128 × 128, two cores). So the network is trained with them, and exported
with equal convolutions made from the same parameters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from exporters.runtime import mindspore as ms
from exporters.runtime import nn, ops
from harness.detector.artifact import Artifact
from harness.heads.graph import MAP, SCORE
from harness.heads.resampling import resampling_matrix
from harness.heads.ssim_ae import C1, C2, OUTPUT, TRUNCATE, SsimAeParameters, border_weights
from harness.types import AnyArray, Float32

SLOPE = 0.2
"""Of the leaky ReLU below zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One convolution, transposed where `transposed`."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    """8: between the map of 8 × 8 and the latent vector. 4: stride 2. 3: stride 1."""
    transposed: bool

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """MindSpore's: outputs before inputs, the other way round where transposed."""
        ends = (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)
        return (*ends, self.kernel, self.kernel)

    @property
    def fan_in(self) -> int:
        """How many products add up to one output; a transposed convolution shares its kernel out to several."""
        products = {3: 9, 4: 4, 8: 1}[self.kernel] if self.transposed else self.kernel**2
        return self.inputs * products


def layers(channels: int, window: int, latent: int) -> tuple[Layer, ...]:
    """From image to reconstruction; a window of 256 has one layer more on either side than one of 128."""
    extra = ((32, 4),) if window == 256 else ()
    down = ((32, 4), (32, 4), *extra, (32, 3), (64, 4), (64, 3), (128, 4), (64, 3), (32, 3), (latent, 8))
    up = ((32, 8), (64, 3), (128, 3), (64, 4), (64, 3), (32, 4), (32, 3), (32, 4), *extra, (channels, 4))
    named = [(f"encoder{index}", *shape) for index, shape in enumerate(down, start=1)]
    named += [(f"decoder{index}", *shape) for index, shape in enumerate(up, start=1)]
    inputs = (channels, *(outputs for _, outputs, _ in named))
    return tuple(
        Layer(
            name=name,
            inputs=before,
            outputs=outputs,
            kernel=kernel,
            transposed=name.startswith("decoder") and kernel != 3,
        )
        for before, (name, outputs, kernel) in zip(inputs, named, strict=False)
    )


def initial(channels: int, window: int, latent: int, *, seed: int) -> dict[str, Float32]:
    """Untrained parameters: normal weights for leaky ReLUs (He et al. 2015, equation 15), no bias.

    With MindSpore's default, or Xavier's uniform weights as in the model zoo, the loss stays at 0.77 for 80 steps.
    """
    random = np.random.default_rng(seed)
    arrays = {}
    for layer in layers(channels, window, latent):
        deviation = np.sqrt(2 / ((1 + SLOPE**2) * layer.fan_in))
        arrays[f"{layer.name}.weight"] = random.normal(0, deviation, layer.weight_shape).astype(np.float32)
        arrays[f"{layer.name}.bias"] = np.zeros(layer.outputs, np.float32)
    return arrays


class SsimAeNet(nn.Cell):
    """(N, C, w, w) with values in [0, 1] → its reconstruction.

    Args:
        arrays: Parameters as `initial` names them.
        window: w.
        exportable: Without transposed convolutions; its parameters are made from `arrays`, and are not to be trained.
    """

    def __init__(self, arrays: Mapping[str, AnyArray], window: int, *, exportable: bool) -> None:
        super().__init__(auto_prefix=False)
        channels, latent = arrays["encoder1.weight"].shape[1], arrays["decoder1.weight"].shape[0]
        chain: OrderedDict[str, nn.Cell] = OrderedDict()
        *_, last = stack = layers(channels, window, latent)
        for layer in stack:
            weight, bias = (arrays[f"{layer.name}.{part}"] for part in ("weight", "bias"))
            replace = exportable and layer.transposed
            chain[layer.name] = (_replacement if replace else _convolution)(layer, weight, bias)
            if layer is last:
                chain["sigmoid"] = nn.Sigmoid()
            elif layer.kernel != 8 or layer.transposed:  # the latent vector stays linear
                chain[f"{layer.name}_leaky"] = nn.LeakyReLU(SLOPE)
        self.chain = nn.SequentialCell(chain)

    def construct(self, image: ms.Tensor) -> ms.Tensor:
        """Reconstructions of a batch."""
        return self.chain(image)


def _convolution(layer: Layer, weight: AnyArray, bias: AnyArray) -> nn.Cell:
    kind = nn.Conv2dTranspose if layer.transposed else nn.Conv2d
    return kind(
        layer.inputs,
        layer.outputs,
        layer.kernel,
        stride=2 if layer.kernel == 4 else 1,
        pad_mode="valid" if layer.kernel == 8 else "pad",
        padding=0 if layer.kernel == 8 else 1,
        has_bias=True,
        weight_init=ms.Tensor(weight),
        bias_init=ms.Tensor(bias),
    )


def _replacement(layer: Layer, weight: AnyArray, bias: AnyArray) -> nn.Cell:
    return (_Expansion if layer.kernel == 8 else _Doubling)(weight, bias)


class _Expansion(nn.Cell):
    """A transposed 8 × 8 convolution of a single pixel: every output is one product per input."""

    def __init__(self, weight: AnyArray, bias: AnyArray) -> None:
        super().__init__()
        self.inputs, self.outputs = weight.shape[:2]
        self.dense = nn.Dense(
            self.inputs,
            self.outputs * 64,
            weight_init=ms.Tensor(np.ascontiguousarray(weight.reshape(self.inputs, -1).T)),
            bias_init=ms.Tensor(np.repeat(bias, 64)),
        )

    def construct(self, latent: ms.Tensor) -> ms.Tensor:
        """(N, z, 1, 1) → (N, outputs, 8, 8)."""
        return self.dense(latent.reshape((-1, self.inputs))).reshape((-1, self.outputs, 8, 8))


class _Doubling(nn.Cell):
    """A transposed 4 × 4 convolution of stride 2: four 3 × 3 convolutions, one per pixel of a 2 × 2 block."""

    def __init__(self, weight: AnyArray, bias: AnyArray) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            weight.shape[0],
            4 * weight.shape[1],
            3,
            pad_mode="pad",
            padding=1,
            has_bias=True,
            weight_init=ms.Tensor(doubling_kernels(weight)),
            bias_init=ms.Tensor(np.tile(bias, 4)),
        )
        self.interleave = ops.DepthToSpace(2)

    def construct(self, image: ms.Tensor) -> ms.Tensor:
        """(N, inputs, h, w) → (N, outputs, 2h, 2w)."""
        return self.interleave(self.convolution(image))


def doubling_kernels(weight: AnyArray) -> Float32:
    """Kernels (4 · outputs, inputs, 3, 3) for `DepthToSpace(2)`, from those of the transposed convolution.

    Output 2m + a of a transposed convolution of 4 taps, stride 2 and padding 1 is the sum over inputs m − 1, m, m + 1
    (u = 0, 1, 2) of tap 3 + a − 2u, where there is such a tap.
    """
    inputs, outputs = weight.shape[:2]
    kernels = np.zeros((2, 2, outputs, inputs, 3, 3), np.float32)
    taps = [(a, u, 3 + a - 2 * u) for a in (0, 1) for u in (0, 1, 2) if 0 <= 3 + a - 2 * u < 4]
    for a, u, row in taps:
        for b, v, column in taps:
            kernels[a, b, :, :, u, v] = weight[:, :, row, column].T
    return kernels.reshape(4 * outputs, inputs, 3, 3)


def from_artifact(artifact: Artifact) -> tuple[nn.Cell, tuple[int, int, int], tuple[str, ...]]:
    """The fitted network, its input shape (C, w, w) and the name of its output."""
    arrays = artifact.net()
    window = artifact.manifest.head.parameters["window"]
    net = SsimAeNet(arrays, window, exportable=True)
    net.set_train(mode=False)
    return net, (arrays["encoder1.weight"].shape[1], window, window), (OUTPUT,)


class SsimAeWithHead(nn.Cell):
    """(N, C, H, W) → map (N, H, W) and score (N,): windows, network and `harness.heads.ssim_ae` in one graph.

    Cutting windows, averaging them and blurring treat rows and columns apart: each is a choice of indices, or a matrix,
    for the rows and one for the columns.
    """

    def __init__(self, net: SsimAeNet, spec: SsimAeParameters, channels: int) -> None:
        super().__init__()
        self.net = net
        self.channels, self.side, self.quantise = channels, spec.window, spec.quantise
        (rows, down), (columns, across) = (_windows(size, spec) for size in spec.map_size)
        self.rows, self.columns = ms.Tensor(rows), ms.Tensor(columns)
        self.grid = (len(rows) // spec.window, len(columns) // spec.window)
        self.average_rows, self.average_columns = ms.Tensor(down), _transposed(across)
        blurs = [resampling_matrix(size, size, spec.sigma, truncate=TRUNCATE) for size in spec.map_size]
        self.blur_rows, self.blur_columns = ms.Tensor(blurs[0]), _transposed(blurs[1])
        self.factor = spec.covariance_factor
        self.weights = ms.Tensor(border_weights(spec), ms.float32)
        self.gather = ops.Gather()

    def construct(self, image: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Map and image score of a batch."""
        copy = self._whole(self.net(self._windows_of(image)))
        if self.quantise:
            copy = ops.floor(copy * 255.0) / 255.0
        score_map = (1.0 - self._ssim(image, copy).mean(axis=1)) * 0.5 * self.weights
        return score_map, score_map.max(axis=2).max(axis=1)

    def _windows_of(self, image: ms.Tensor) -> ms.Tensor:
        """(N, C, H, W) → (N · windows, C, w, w), the windows of one image row by row."""
        spread = self.gather(self.gather(image, self.rows, 2), self.columns, 3)
        parts = spread.reshape((-1, self.channels, self.grid[0], self.side, self.grid[1], self.side))
        return ops.transpose(parts, (0, 2, 4, 1, 3, 5)).reshape((-1, self.channels, self.side, self.side))

    def _whole(self, windows: ms.Tensor) -> ms.Tensor:
        """The way back: the mean where several windows cover a pixel."""
        parts = windows.reshape((-1, self.grid[0], self.grid[1], self.channels, self.side, self.side))
        height, width = self.grid[0] * self.side, self.grid[1] * self.side
        spread = ops.transpose(parts, (0, 3, 1, 4, 2, 5)).reshape((-1, self.channels, height, width))
        return ops.matmul(ops.matmul(self.average_rows, spread), self.average_columns)

    def _ssim(self, image: ms.Tensor, copy: ms.Tensor) -> ms.Tensor:
        """Per channel; about the grey of 0.5, where squares are small and float32 keeps their differences."""
        x, y = image - 0.5, copy - 0.5
        mean_x, mean_y = self._blurred(x), self._blurred(y)
        covariance = self.factor * (self._blurred(x * y) - mean_x * mean_y)
        variances = self.factor * (self._blurred(x * x + y * y) - mean_x * mean_x - mean_y * mean_y)
        mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
        similar = (2.0 * mean_x * mean_y + C1) * (2.0 * covariance + C2)
        return similar / ((mean_x * mean_x + mean_y * mean_y + C1) * (variances + C2))

    def _blurred(self, planes: ms.Tensor) -> ms.Tensor:
        return ops.matmul(ops.matmul(self.blur_rows, planes), self.blur_columns)


def _transposed(matrix: Float32) -> ms.Tensor:
    return ms.Tensor(np.ascontiguousarray(matrix.T))


def _windows(size: int, spec: SsimAeParameters) -> tuple[AnyArray, Float32]:
    """The pixels of all windows along one axis, (n · w,), and the matrix that averages them back, (size, n · w)."""
    starts = np.arange(0, size - spec.window + 1, spec.stride)
    pixels = (starts[:, None] + np.arange(spec.window)).ravel()
    covers = np.arange(size)[:, None] == pixels
    return pixels.astype(np.int32), (covers / covers.sum(axis=1, keepdims=True)).astype(np.float32)


def with_head(artifact: Artifact) -> tuple[nn.Cell, tuple[int, int, int], tuple[str, ...]]:
    """The network with its head: image in, map and score out."""
    net, (channels, _, _), _ = from_artifact(artifact)
    spec = msgspec.convert(artifact.manifest.head.parameters, SsimAeParameters)
    return SsimAeWithHead(net, spec, channels), (channels, *spec.map_size), (MAP, SCORE)
