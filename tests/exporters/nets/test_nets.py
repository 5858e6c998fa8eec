from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from exporters.errors import WeightsError
from exporters.weights import backbones, convert
from harness.errors import UsageError
from harness.types import AnyArray

pytestmark = pytest.mark.mindspore

Arrays = Mapping[str, AnyArray]


def windows_of(image: AnyArray, size: int) -> AnyArray:
    """(N, C, H, W) → (N, C, H − size + 1, W − size + 1, size, size)."""
    return np.lib.stride_tricks.sliding_window_view(image, (1, 1, size, size))[:, :, :, :, 0, 0]


def conv(image: AnyArray, kernels: AnyArray, *, stride: int = 1) -> AnyArray:
    """Cross-correlation of (N, C, H, W) with (D, C, k, k), padded by k // 2 zeros, in float64."""
    size = kernels.shape[2]
    padded = np.pad(image, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    windows = windows_of(padded, size)
    return np.asarray(
        np.einsum("nchwkl,dckl->ndhw", windows[:, :, ::stride, ::stride], kernels, optimize=True)
    )


def norm(image: AnyArray, name: str, arrays: Arrays) -> AnyArray:
    """Batch norm with its running statistics."""
    weight, bias, mean, var = (
        arrays[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return np.asarray((image - mean) / np.sqrt(var + 1e-5) * weight + bias)


def relu(image: AnyArray) -> AnyArray:
    return np.maximum(image, 0)


def block(image: AnyArray, prefix: str, arrays: Arrays, *, stride: int) -> AnyArray:
    """A basic block, or a bottleneck where there is a third convolution; the stride is on the first 3 x 3."""
    last = 3 if f"{prefix}conv3.weight" in arrays else 2
    strided = {2: 1, 3: 2}[last]
    out = image
    for number in range(1, last + 1):
        kernels = arrays[f"{prefix}conv{number}.weight"]
        out = norm(
            conv(out, kernels, stride=stride if number == strided else 1), f"{prefix}bn{number}", arrays
        )
        out = relu(out) if number < last else out
    shortcut = image
    if f"{prefix}downsample.0.weight" in arrays:
        shortcut = conv(image, arrays[f"{prefix}downsample.0.weight"], stride=stride)
        shortcut = norm(shortcut, f"{prefix}downsample.1", arrays)
    return relu(out + shortcut)


def stem(image: AnyArray, arrays: Arrays) -> AnyArray:
    image = relu(norm(conv(image, arrays["conv1.weight"], stride=2), "bn1", arrays))
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    return np.asarray(windows_of(padded, 3)[:, :, ::2, ::2].max(axis=(4, 5)))


def layers(image: AnyArray, arrays: Arrays) -> list[AnyArray]:
    """Outputs of layers 1 to 3, the slow way."""
    out, found = stem(image, arrays), []
    for layer in (1, 2, 3):
        names = {name.split(".")[1] for name in arrays if name.startswith(f"layer{layer}.")}
        for number in range(len(names)):
            stride = 2 if layer > 1 and number == 0 else 1
            out = block(out, f"layer{layer}.{number}.", arrays, stride=stride)
        found.append(out)
    return found


def lively(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, AnyArray]:
    """Parameters under which no batch norm is the identity and no activation explodes."""
    rng = np.random.default_rng(seed)
    ranges = {
        "running_var": (0.5, 2.0),
        "running_mean": (-0.3, 0.3),
        "bias": (-0.3, 0.3),
        "weight": (0.5, 1.2),
    }
    made: dict[str, AnyArray] = {}
    for name, shape in shapes.items():
        if len(shape) == 4:
            made[name] = rng.normal(0, np.sqrt(1 / np.prod(shape[1:])), shape).astype(np.float32)
        else:
            made[name] = rng.uniform(*ranges[name.rpartition(".")[2]], shape).astype(np.float32)
    return made


def assert_near(got: AnyArray, expected: AnyArray) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


def shapes_of(cell: Any) -> dict[str, tuple[int, ...]]:
    """torchvision's names and shapes of a cell's parameters."""
    from exporters.nets.resnet import _PARAMETER_SUFFIX

    renamed = {}
    for parameter in cell.get_parameters():
        stem_, _, last = parameter.name.rpartition(".")
        renamed[f"{stem_}.{_PARAMETER_SUFFIX.get(last, last)}"] = tuple(parameter.shape)
    return renamed


@pytest.mark.parametrize(
    ("kind", "inputs", "planes", "stride", "width"),
    [
        ("BasicBlock", 4, 4, 1, 4),
        ("BasicBlock", 4, 8, 2, 8),
        ("Bottleneck", 8, 2, 1, 4),
        ("Bottleneck", 4, 2, 2, 4),
    ],
)
def test_a_block_computes_what_the_slow_reference_does(
    kind: str, inputs: int, planes: int, stride: int, width: int
) -> None:
    from exporters.nets import resnet
    from exporters.runtime import mindspore as ms

    cell = getattr(resnet, kind)(inputs, planes, stride, width)
    cell.set_train(mode=False)
    arrays = lively(shapes_of(cell))
    resnet.load(cell, arrays)
    image = np.random.default_rng(1).normal(size=(2, inputs, 8, 8)).astype(np.float32)
    expected = block(image.astype(np.float64), "", arrays, stride=stride)
    assert_near(cell(ms.Tensor(image)).asnumpy(), expected)
    assert ("downsample.0.weight" in arrays) == (stride == 2)


@pytest.mark.parametrize("backbone", ["resnet18", "wide_resnet50_2"])
def test_the_whole_network_computes_what_the_slow_reference_does(backbone: str) -> None:
    from exporters.nets.resnet import ResNetFeatures, load
    from exporters.runtime import mindspore as ms

    net = ResNetFeatures(backbone)
    arrays = lively(backbones.expected_parameters(backbone))
    load(net, arrays)
    image = np.random.default_rng(1).normal(size=(1, 3, 32, 32)).astype(np.float32)
    for got, expected in zip(net(ms.Tensor(image)), layers(image.astype(np.float64), arrays), strict=True):
        assert_near(got.asnumpy(), expected)


@pytest.mark.parametrize("backbone", backbones.BACKBONES)
def test_parameters_are_those_of_the_backbone_by_name_and_shape(backbone: str) -> None:
    from exporters.nets.resnet import ResNetFeatures

    assert shapes_of(ResNetFeatures(backbone)) == backbones.expected_parameters(backbone)


def test_padim_gives_the_chosen_channels_at_the_grid_of_layer_1() -> None:
    from exporters.nets.padim import PadimNet
    from exporters.nets.resnet import load
    from exporters.runtime import mindspore as ms

    chosen = [0, 63, 64, 191, 192, 447]
    net = PadimNet("resnet18", chosen, (32, 32))
    arrays = lively(backbones.expected_parameters("resnet18"))
    load(net, arrays)
    image = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    found = layers(image.astype(np.float64), arrays)
    whole = [np.repeat(np.repeat(out, 2**n, axis=2), 2**n, axis=3) for n, out in enumerate(found)]
    assert_near(net(ms.Tensor(image)).asnumpy(), np.concatenate(whole, axis=1)[:, chosen])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop("layer2.0.bn1.running_var"), "layer2.0.bn1.running_var .* is missing"),
        (lambda arrays: arrays.update({"fc.weight": np.zeros(3, np.float32)}), "takes fc.weight"),
        (
            lambda arrays: arrays.update({"conv1.weight": np.zeros((64, 3, 3, 3), np.float32)}),
            r"conv1.weight of shape \(64, 3, 7, 7\) is of shape \(64, 3, 3, 3\)",
        ),
    ],
    ids=["missing", "extra", "misshapen"],
)
def test_weights_that_do_not_fit_are_refused_by_name(change: Any, words: str) -> None:
    from exporters.nets.resnet import ResNetFeatures, load

    arrays: dict[str, AnyArray] = dict(convert.random_backbone("resnet18", 0))
    change(arrays)
    with pytest.raises(WeightsError, match=words):
        load(ResNetFeatures("resnet18"), arrays)


def test_the_model_zoos_draw_is_reproduced() -> None:
    from exporters.fit.padim import choose_channels

    drawn = random.Random(1024).sample(range(1792), 550)  # noqa: S311 - the published draw
    digest = hashlib.sha256(",".join(map(str, drawn)).encode()).hexdigest()
    assert digest.startswith("7527f4b11eca6eb7")
    assert (drawn[:4], drawn[-3:]) == ([1632, 39, 990, 1740], [1319, 153, 1284])
    chosen = choose_channels("wide_resnet50_2", 550, seed=5, draw="modelzoo")
    assert chosen == sorted(drawn)
    assert sum(chosen) == 496188
    assert np.histogram(chosen, [0, 256, 768, 1792])[0].tolist() == [82, 154, 314]


def test_our_draw_is_seeded_sorted_and_without_repetition() -> None:
    from exporters.fit.padim import choose_channels

    first, again, other = (choose_channels("resnet18", 100, seed=seed, draw="numpy") for seed in (3, 3, 4))
    assert first == again == sorted(set(first))
    assert first != other
    assert len(first) == 100
    assert set(first) <= set(range(448))


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "has 448 channels"), (449, "has 448 channels"), (2, "left layer[123] without a channel")],
)
def test_a_choice_that_cannot_be_made_is_wrong_use(count: int, words: str) -> None:
    from exporters.fit.padim import choose_channels

    with pytest.raises(UsageError, match=rf"--channels {count}: .*{words}"):
        choose_channels("resnet18", count, seed=0, draw="numpy")


def test_all_channels_can_be_chosen() -> None:
    from exporters.fit.padim import choose_channels

    assert choose_channels("resnet18", 448, seed=0, draw="numpy") == list(range(448))
