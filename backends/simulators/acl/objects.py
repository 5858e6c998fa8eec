"""What handles of the simulated runtime point to: contexts, streams, events, models, descriptions, buffers, datasets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from backends.simulators import om
from backends.simulators.acl import aipp
from backends.simulators.acl.board import HardwareWouldCrash, Refused
from backends.simulators.half import Graph
from harness.types import AnyArray

_T = TypeVar("_T")


_KINDS = ("context", "stream", "event", "data buffer", "dataset", "model description")


@dataclass(eq=False, slots=True)
class Task:
    """Work that waits in a stream."""

    run: Callable[[], None]
    model: Model | None = None


@dataclass(eq=False, slots=True)
class Stream:
    """Work in order; nothing of it is done before somebody waits for it."""

    context: Context
    tasks: deque[Task] = field(default_factory=deque)


@dataclass(eq=False, slots=True)
class Context:
    """What streams and models belong to."""

    device: int
    is_default: bool
    is_lost: bool = False
    """Its device was reset before it was destroyed."""
    default_stream: Stream = field(init=False)

    def __post_init__(self) -> None:
        self.default_stream = Stream(self)


@dataclass(eq=False, slots=True)
class Event:
    """A mark in a stream."""

    stream: Stream | None = None
    waiting: int = 0
    """Records of it that are still in the stream."""
    seconds: float | None = None
    """When it was last reached."""


class Handles(Generic[_T]):
    """The living objects of one kind, by integers that no other kind uses."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.live: dict[int, _T] = {}
        self._next = (_KINDS.index(kind) + 1) << 40

    def add(self, value: _T) -> int:
        """The handle of a new object."""
        self._next += 16
        self.live[self._next] = value
        return self._next

    def get(self, handle: int) -> _T:
        """What a handle stands for.

        Raises:
            Refused: 100000, it is null.
            HardwareWouldCrash: it is destroyed, or of another kind.
        """
        if not handle:
            raise Refused(100000, f"the {self.kind} is null")
        if handle in self.live:
            return self.live[handle]
        kind = dict(enumerate(_KINDS, start=1)).get(handle >> 40)
        if kind == self.kind:
            raise HardwareWouldCrash(f"{self.kind} {handle:#x} is destroyed or never was")
        raise HardwareWouldCrash(f"{handle:#x} is the handle of no {self.kind}, but of {kind or 'nothing'}")

    def remove(self, handle: int) -> _T:
        """Destroy; raises as `get` does."""
        self.get(handle)
        return self.live.pop(handle)


@dataclass(eq=False, slots=True)
class Buffer:
    """An address and a size, which own nothing."""

    address: int
    size: int


@dataclass(eq=False, slots=True)
class Dataset:
    """Handles of data buffers in the model's order."""

    buffers: list[int] = field(default_factory=list)
    gear: int | None = None


@dataclass(eq=False, slots=True, kw_only=True)
class Model:
    """One loaded model."""

    header: om.Header
    graph: Graph
    context: Context
    inputs: tuple[om.Tensor, ...]
    """With the hidden one of gears, which is the last."""
    gear: int | None = None
    """As last set, in whichever dataset."""
    running: bool = False
    hidden: int | None = field(init=False)
    """Index of the hidden input."""

    def __post_init__(self) -> None:
        self.hidden = len(self.inputs) - 1 if self.header.gears else None

    def shape(self, tensor: om.Tensor, gear: int | None) -> tuple[int, ...]:
        """A tensor's shape at a gear, by default the largest."""
        largest = max(self.header.gears, default=-1)
        return tuple((gear or largest) if size == -1 else size for size in tensor.shape)

    def size(self, tensor: om.Tensor, gear: int | None) -> int:
        """In bytes."""
        return int(np.prod(self.shape(tensor, gear), dtype=np.int64)) * np.dtype(tensor.dtype).itemsize

    def compute(self, arrays: list[AnyArray], gear: int | None) -> list[AnyArray]:
        """Outputs in the dtypes of the file."""
        if self.header.aipp is not None:
            arrays = [aipp.apply(self.header.aipp, arrays[0])]
        names = (tensor.name for tensor in self.inputs)
        with np.errstate(over="ignore"):
            outputs = [
                array.astype(tensor.dtype)
                for array, tensor in zip(
                    self.graph.run(dict(zip(names, arrays, strict=False))), self.header.outputs, strict=True
                )
            ]
        for array, tensor in zip(outputs, self.header.outputs, strict=True):
            if array.shape != self.shape(tensor, gear):
                raise ValueError(
                    f"{tensor.name}: the graph gives {array.shape}, the file says {tensor.shape}"
                )
        return outputs


@dataclass(eq=False, slots=True)
class Description:
    """What `get_desc` fills."""

    model_id: int = 0
    model: Model | None = None
