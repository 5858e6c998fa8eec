"""What a training begins with: another training's parameters, or its own where it was cut short."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exporters.errors import CheckpointError
from exporters.nets.resnet import torchvision_name
from exporters.runtime import mindspore as ms
from exporters.runtime import nn, ops
from exporters.train import checkpoint
from harness import storage
from harness.detector.training_log import Start
from harness.types import AnyArray

Parameters = Mapping[str, ms.Parameter]

_SETTINGS = ("learning_rate", "momentum")
"""What MindSpore's optimisers keep among their state and we set: never taken over from another training."""
_NAMES_SHOWN = 3


def take_over(path: Path, trained: nn.Cell, optimiser: nn.Optimizer) -> Start:
    """Start from a checkpoint, with its optimiser's state where that fits, or from an artifact's `net.safetensors`.

    An artifact also holds parts that were not trained, a backbone say, under names of their own: they are left out.

    Raises:
        CheckpointError: the file is damaged, or its parameters are not those of `trained` by name and shape.
    """
    parameters, state = checkpoint.read_start(path)
    wanted = {parameter.name: parameter for parameter in trained.get_parameters()}
    stored = {name if name in parameters else torchvision_name(name): name for name in wanted}
    parts = {name.partition(".")[0] for name in stored}
    matching = {
        stored.get(name, name): array for name, array in parameters.items() if name.partition(".")[0] in parts
    }
    assign_all(wanted, matching, f"{path}: not of this network")
    own = {
        name: parameter for name, parameter in state_of(optimiser).items() if not name.startswith(_SETTINGS)
    }
    taken = {name: array for name, array in state.items() if not name.startswith(_SETTINGS)}
    fits = bool(taken) and _misfits(own, taken) == []
    if fits:
        assign_all(own, taken)
    return Start(
        file=path.name,
        sha256=storage.sha256_of_file(path),
        optimiser=fits,
        left_out=tuple(sorted({name.partition(".")[0] for name in parameters} - parts)),
    )


def state_of(optimiser: nn.Optimizer) -> Parameters:
    """What an optimiser holds beside the parameters it changes."""
    changed = {id(parameter) for parameter in optimiser.parameters}
    return {
        parameter.name: parameter for parameter in optimiser.get_parameters() if id(parameter) not in changed
    }


def assign(cell: nn.Cell, arrays: Mapping[str, AnyArray]) -> None:
    """Give all parameters of `cell` new values."""
    assign_all({parameter.name: parameter for parameter in cell.get_parameters()}, arrays)


def assign_all(
    parameters: Parameters, arrays: Mapping[str, AnyArray], what: str = "the checkpoint does not fit"
) -> None:
    """Give parameters new values, in place.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape or type differs; says `what` first.
    """
    misfits = _misfits(parameters, arrays)
    if misfits:
        more = f" and {len(misfits) - _NAMES_SHOWN} more" if len(misfits) > _NAMES_SHOWN else ""
        raise CheckpointError(f"{what}: {', '.join(misfits[:_NAMES_SHOWN])}{more}")
    for name, parameter in parameters.items():
        # `set_data` would leave a graph that was compiled before with the old memory.
        ops.assign(parameter, ms.Tensor(arrays[name]))


def _misfits(parameters: Parameters, arrays: Mapping[str, AnyArray]) -> list[str]:
    missing = [f"{name} is missing" for name in parameters if name not in arrays]
    unknown = [f"{name} is unknown" for name in arrays if name not in parameters]
    differing = [
        f"{name} is {arrays[name].dtype}{arrays[name].shape} in place of {_type(parameter)}"
        for name, parameter in parameters.items()
        if name in arrays and _type(parameter) != f"{arrays[name].dtype}{arrays[name].shape}"
    ]
    return missing + unknown + differing


def _type(parameter: ms.Parameter) -> str:
    return f"{ms.dtype_to_nptype(parameter.dtype).__name__}{tuple(parameter.shape)}"
