"""ResNet stem and layers 1-3 (He et al. 2016; Zagoruyko & Komodakis 2016), attribute names as in torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from exporters.errors import WeightsError
from exporters.runtime import mindspore as ms
from exporters.runtime import nn
from harness.types import AnyArray, Float32

_PARAMETER_SUFFIX = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Norms:
    """What is particular about a network's batch normalisations."""

    block_epsilon: float = 1e-5
    """Of those after a residual block's convolutions; stem and down-sampling have 1e-5."""
    outer_momentum: float = 0.9
    """Of stem and down-sampling, as MindSpore counts it: the share of the old statistics kept. The blocks' is 0.9."""
    frozen: bool = False
    """Use the moving statistics, and leave them as they are, in training too."""

    def block(self, channels: int) -> nn.Cell:
        """After a convolution of a residual block."""
        return nn.BatchNorm2d(channels, eps=self.block_epsilon, use_batch_statistics=self._statistics)

    def outer(self, channels: int) -> nn.Cell:
        """After the convolution of the stem, or of a shortcut."""
        return nn.BatchNorm2d(channels, momentum=self.outer_momentum, use_batch_statistics=self._statistics)

    @property
    def _statistics(self) -> bool | None:
        return False if self.frozen else None


_STANDARD = Norms()


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Cell:
    return nn.Conv2d(inputs, outputs, kernel, stride, pad_mode="pad", padding=kernel // 2, has_bias=False)


class BasicBlock(nn.Cell):
    """Two 3×3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, width: int, norms: Norms = _STANDARD) -> None:
        super().__init__()
        del width  # only bottlenecks are widened
        self.conv1 = _conv(inputs, planes, 3, stride)
        self.bn1 = norms.block(planes)
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = norms.block(planes)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, planes, stride, norms)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """(N, inputs, H, W) → (N, planes, H/stride, W/stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.downsample(x))


class Bottleneck(nn.Cell):
    """1×1, 3×3 (with the stride), 1×1; `width` is the channel count of the 3×3."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, width: int, norms: Norms = _STANDARD) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = _conv(inputs, width, 1)
        self.bn1 = norms.block(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = norms.block(width)
        self.conv3 = _conv(width, outputs, 1)
        self.bn3 = norms.block(outputs)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, outputs, stride, norms)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """(N, inputs, H, W) → (N, 4·planes, H/stride, W/stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.downsample(x))


def _downsample(inputs: int, outputs: int, stride: int, norms: Norms) -> nn.Cell:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.SequentialCell(_conv(inputs, outputs, 1, stride), norms.outer(outputs))


_SHAPES: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int], int]] = {
    "resnet18": (BasicBlock, (2, 2, 2), 1),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6), 2),
    "wide_resnet101_2": (Bottleneck, (3, 4, 23), 2),
}
"""Block, blocks per layer, and how much wider the 3×3 is than `planes`."""


class ResNetFeatures(nn.Cell):
    """(N, 3, H, W) → layer1 at H/4, layer2 at H/8, layer3 at H/16; in inference mode until `set_train`."""

    def __init__(self, backbone: str, norms: Norms = _STANDARD) -> None:
        super().__init__()
        block, counts, widen = _SHAPES[backbone]
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = norms.outer(64)
        self.relu = nn.ReLU()
        # Padding with zeros equals padding with minus infinity after a ReLU, and exports.
        self.pad = nn.Pad(((0, 0), (0, 0), (1, 1), (1, 1)))
        self.maxpool = nn.MaxPool2d(3, 2, pad_mode="valid")
        inputs = 64
        self.channels: tuple[int, ...] = ()
        layers = []
        for index, count in enumerate(counts):
            planes = 64 * 2**index
            cells = []
            for position in range(count):
                stride = 2 if index > 0 and position == 0 else 1
                cells.append(block(inputs, planes, stride, planes * widen, norms))
                inputs = planes * block.expansion
            layers.append(nn.SequentialCell(*cells))
            self.channels = (*self.channels, inputs)
        self.layer1, self.layer2, self.layer3 = layers
        self.set_train(mode=False)

    def construct(self, x: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """Features of the three layers, after their last ReLU."""
        x = self.maxpool(self.pad(self.relu(self.bn1(self.conv1(x)))))
        first = self.layer1(x)
        second = self.layer2(first)
        return first, second, self.layer3(second)


def load(net: nn.Cell, weights: Mapping[str, AnyArray], *, prefix: str = "backbone.") -> None:
    """Load torchvision-named arrays into `net`, all of them and nothing else.

    Args:
        net: A cell whose parameters are `prefix` and MindSpore's name for a torchvision parameter.
        weights: Arrays under torchvision's names.
        prefix: Attribute path of the backbone within `net`.

    Raises:
        WeightsError: a parameter without an array, or an array without a parameter.
    """
    unused = dict(weights)
    for parameter in net.get_parameters():
        stem, _, last = parameter.name.removeprefix(prefix).rpartition(".")
        name = f"{stem}.{_PARAMETER_SUFFIX.get(last, last)}"
        array = unused.pop(name, None)
        if array is None or tuple(parameter.shape) != array.shape:
            problem = "missing" if array is None else f"of shape {array.shape}"
            raise WeightsError(f"parameter {name} of shape {tuple(parameter.shape)} is {problem}")
        parameter.set_data(ms.Tensor(np.ascontiguousarray(array, np.float32)))
    if unused:
        raise WeightsError(f"no parameter of the network takes {', '.join(sorted(unused)[:10])}")


def arrays_of(net: nn.Cell) -> dict[str, Float32]:
    """All parameters of `net` under torchvision's names: what `load` with an empty prefix takes."""
    return {
        torchvision_name(parameter.name): parameter.asnumpy().copy() for parameter in net.get_parameters()
    }


def torchvision_name(name: str) -> str:
    """MindSpore's name of a parameter as torchvision has it."""
    stem, _, last = name.rpartition(".")
    return f"{stem}.{_PARAMETER_SUFFIX.get(last, last)}"
