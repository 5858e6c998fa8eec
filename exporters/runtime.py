"""MindSpore, imported once and the right way: with the variables its backend declares set before the import."""

from __future__ import annotations

import os

from harness import registry
from harness.errors import MissingExtra, Unavailable
from harness.types import Device

for _name, _value in registry.backend("mindspore-cpu").environment.items():
    os.environ.setdefault(_name, _value)

try:
    import mindspore
    from mindspore import nn, ops
except ImportError as error:
    raise MissingExtra("MindSpore", "mindspore", needed_for="Fitting and exporting") from error

mindspore.set_context(mode=mindspore.GRAPH_MODE)

_TARGETS = {"cpu": "CPU", "ascend": "Ascend", "gpu": "GPU"}


def use(device: Device) -> None:
    """Have MindSpore run on `device` from now on; before anything has run.

    Raises:
        Unavailable: MindSpore finds no such device on this machine.
    """
    if not getattr(mindspore.device_context, device).is_available():
        raise Unavailable(
            f"--device {device}: MindSpore {mindspore.__version__} finds none on this machine: train on a host that has one, "
            "with the MindSpore built for it (https://www.mindspore.cn/install/en), or with --device cpu"
        )
    if mindspore.get_context("device_target") != _TARGETS[device]:
        mindspore.set_device(_TARGETS[device])


__all__ = ["mindspore", "nn", "ops", "use"]
