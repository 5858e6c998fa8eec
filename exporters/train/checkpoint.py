"""Checkpoints of a training: one file, written whole, from which it goes on with the same bits.

A checkpoint is a safetensors file, so that reading one runs nothing that is stored in it. Its arrays are named by group
(`parameters/student.conv1.weight`); its header says which request it belongs to, and holds a digest of the arrays.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import safetensors

from exporters.errors import CheckpointError
from harness import storage
from harness.build import FitRequest
from harness.detector.training_log import Start
from harness.types import AnyArray

SCHEMA = 1
FILE = "checkpoint.safetensors"
RANKS = "ranks"
"""Folder of the logs of a training on several workers."""
_KEY = "training"
_REMEDY = "; give another file, or start over with --force and without --resume"


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int
    request: str
    finished: bool
    seconds: float
    start: Start | None
    arrays_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All that a training needs to go on."""

    request: str
    """Digest of what was asked for."""
    finished: bool
    seconds: float
    start: Start | None
    parameters: Mapping[str, AnyArray]
    optimiser: Mapping[str, AnyArray]
    """What the optimiser holds beside the parameters: moments, step counters, learning rate."""
    best: Mapping[str, AnyArray]
    """Parameters of the best epoch so far, for early stopping; else empty."""
    losses: tuple[float, ...]
    unseen_losses: tuple[float, ...]
    step_ms: tuple[float, ...]


def folder(out: Path) -> Path:
    """Where the training for the artifact folder `out` keeps its checkpoint and logs."""
    return out.parent / f"{out.name}.training"


def make_way(request: FitRequest) -> None:
    """Let a training begin: refuse when another was left, unless it is to go on or to be thrown away.

    Raises:
        CheckpointError: neither `resume` nor `force` says what to do with it.
    """
    left = folder(request.out)
    for part in left.glob(".*.part"):  # of a checkpoint that was being written as its process was killed
        part.unlink()
    if request.resume or not (left / FILE).exists():
        return
    if not request.force:
        raise CheckpointError(
            f"{left}: an unfinished training is there; --resume continues it, --force starts over"
        )
    (left / FILE).unlink()
    shutil.rmtree(left / RANKS, ignore_errors=True)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    groups: dict[str, Mapping[str, AnyArray]] = {
        name: getattr(checkpoint, name) for name in ("parameters", "optimiser", "best")
    }
    groups["log"] = {
        name: np.array(getattr(checkpoint, name), np.float64)
        for name in ("losses", "unseen_losses", "step_ms")
    }
    arrays = {f"{group}/{name}": array for group, named in groups.items() for name, array in named.items()}
    header = _Header(
        schema=SCHEMA,
        request=checkpoint.request,
        finished=checkpoint.finished,
        seconds=checkpoint.seconds,
        start=checkpoint.start,
        arrays_sha256=storage.sha256_of_arrays(arrays),
    )
    with storage.replacing(path) as temporary:
        storage.save_arrays(arrays, temporary, {_KEY: msgspec.json.encode(header).decode()})


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: the file is damaged, of another schema, or none of ours.
    """
    metadata, arrays = _open(path)
    if _KEY not in metadata:
        raise CheckpointError(f"{path}: not a checkpoint of this harness{_REMEDY}")
    return _checkpoint(path, metadata[_KEY], arrays)


def read_start(path: Path) -> tuple[Mapping[str, AnyArray], Mapping[str, AnyArray]]:
    """Parameters, and the optimiser's state where `path` is a checkpoint of ours and not an artifact's network.

    Raises:
        CheckpointError: the file is damaged, or of another schema.
    """
    metadata, arrays = _open(path)
    if _KEY not in metadata:
        return arrays, {}
    checkpoint = _checkpoint(path, metadata[_KEY], arrays)
    return checkpoint.parameters, checkpoint.optimiser


def _open(path: Path) -> tuple[dict[str, str], dict[str, AnyArray]]:
    try:
        with safetensors.safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error}){_REMEDY}") from error


def _checkpoint(path: Path, text: str, arrays: Mapping[str, AnyArray]) -> Checkpoint:
    try:
        header = msgspec.json.decode(text, type=_Header)
        if header.schema != SCHEMA:
            raise CheckpointError(f"{path}: schema {header.schema}, this harness reads {SCHEMA}{_REMEDY}")
        if storage.sha256_of_arrays(arrays) != header.arrays_sha256:
            raise CheckpointError(f"{path}: its arrays do not match their digest{_REMEDY}")
        logs = {
            name: tuple(arrays[f"log/{name}"].tolist()) for name in ("losses", "unseen_losses", "step_ms")
        }
    except (msgspec.DecodeError, KeyError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of this harness ({error}){_REMEDY}") from error
    return Checkpoint(
        request=header.request,
        finished=header.finished,
        seconds=header.seconds,
        start=header.start,
        parameters=_group(arrays, "parameters"),
        optimiser=_group(arrays, "optimiser"),
        best=_group(arrays, "best"),
        **logs,
    )


def _group(arrays: Mapping[str, AnyArray], group: str) -> dict[str, AnyArray]:
    return {
        name.removeprefix(f"{group}/"): array
        for name, array in arrays.items()
        if name.startswith(f"{group}/")
    }
