"""The backbones the detectors use: names and shapes of stem and layers 1-3, and the names' other spellings.

torchvision's names are the project's. timm and most converters of the MindSpore model zoo use the same module
names; MindSpore itself renames the batch norm's arrays, and the zoo's own ResNet also its modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Residual:
    blocks: tuple[int, int, int]
    """Blocks in layers 1, 2 and 3."""
    bottleneck: bool
    """1x1, 3x3, 1x1 convolutions with four times the output channels, against two of 3x3."""


# Wide residual networks double the 3x3 convolution's channels and keep the block's output (arXiv:1605.07146).
_NETWORKS = {
    "resnet18": _Residual(blocks=(2, 2, 2), bottleneck=False),
    "wide_resnet50_2": _Residual(blocks=(3, 4, 6), bottleneck=True),
    "wide_resnet101_2": _Residual(blocks=(3, 4, 23), bottleneck=True),
}
BACKBONES = tuple(_NETWORKS)

Shape = tuple[int, ...]

_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_MODULES = {
    "bn1d": "bn1",
    "bn2d": "bn2",
    "down_sample_layer": "downsample",
    "down_sample": "downsample",
    "end_point": "fc",
    "classifier": "fc",
}
_WRAPPERS = ("module.", "_orig_mod.", "backbone.", "network.", "model.")
# What MindSpore's optimizers, loss scaling and callbacks add to a checkpoint.
_TRAINING_STATE = frozenset(
    (
        *("learning_rate", "lr", "global_step", "epoch_num", "step_num", "fake_lr", "fake_param"),
        *("momentum", "moments", "moment", "moment1", "moment2", "accum", "stat", "mean_square", "mean_grad"),
        *("adam_m", "adam_v", "lamb_m", "lamb_v", "beta1_power", "beta2_power"),
        *("loss_scale", "scale_sense", "current_iterator_step", "last_overflow_iterator_step"),
    )
)


def expected_parameters(backbone: str) -> dict[str, Shape]:
    """Names (torchvision's) and shapes of stem and layers 1-3 in network order, no `num_batches_tracked`.

    Raises `UsageError` for a name outside `BACKBONES`.
    """
    if backbone not in _NETWORKS:
        raise UsageError(f"backbone {backbone!r} is not known: choose one of {', '.join(BACKBONES)}")
    return dict(_parameters(_NETWORKS[backbone]))


def _parameters(network: _Residual) -> Iterator[tuple[str, Shape]]:
    yield from _convolution_and_norm("", "conv1", "bn1", (64, 3, 7, 7))
    channels = 64
    for layer, blocks in enumerate(network.blocks, start=1):
        planes = 32 << layer
        outputs = planes * 4 if network.bottleneck else planes
        for block in range(blocks):
            prefix = f"layer{layer}.{block}."
            yield from _block(prefix, channels, planes, bottleneck=network.bottleneck)
            if channels != outputs:
                yield from _convolution_and_norm(
                    prefix, "downsample.0", "downsample.1", (outputs, channels, 1, 1)
                )
            channels = outputs


def _block(prefix: str, channels: int, planes: int, *, bottleneck: bool) -> Iterator[tuple[str, Shape]]:
    if bottleneck:
        width = planes * 2
        kernels = [(width, channels, 1, 1), (width, width, 3, 3), (planes * 4, width, 1, 1)]
    else:
        kernels = [(planes, channels, 3, 3), (planes, planes, 3, 3)]
    for number, kernel in enumerate(kernels, start=1):
        yield from _convolution_and_norm(prefix, f"conv{number}", f"bn{number}", kernel)


def _convolution_and_norm(
    prefix: str, convolution: str, norm: str, kernel: Shape
) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}{convolution}.weight", kernel
    for array in _BATCH_NORM.values():
        yield f"{prefix}{norm}.{array}", kernel[:1]


def is_training_state(name: str) -> bool:
    """Whether an entry of a MindSpore checkpoint belongs to an optimizer or a training loop."""
    return name.split(".", 1)[0] in _TRAINING_STATE


def is_unused(torchvision_name: str) -> bool:
    """Whether a parameter of the network has no part in its stem and layers 1-3 at inference."""
    return torchvision_name.startswith(("layer4.", "fc.")) or torchvision_name.endswith("num_batches_tracked")


def torchvision_names(names: Iterable[str]) -> dict[str, str]:
    """Each of one file's parameter names with the name torchvision gives it.

    A prefix common to all of them (`module.` of a data-parallel wrapper, say) is removed; what is not recognised
    stays as it is.
    """
    short = {name: name for name in names}
    while prefix := next(
        (p for p in _WRAPPERS if short and all(s.startswith(p) for s in short.values())), ""
    ):
        short = {name: text.removeprefix(prefix) for name, text in short.items()}
    return {name: _torchvision_name(text) for name, text in short.items()}


def _torchvision_name(name: str) -> str:
    *modules, array = name.split(".")
    return ".".join([*(_MODULES.get(module, module) for module in modules), _BATCH_NORM.get(array, array)])
