"""What the parts of the simulator share: handles, contexts of threads, messages, faults, leaks."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from backends.simulators.acl.board import Board, Refused
from backends.simulators.acl.memory import Memory
from backends.simulators.acl.objects import Context, Event, Handles, Stream

if TYPE_CHECKING:
    from backends.simulators.acl.calls import Call
    from backends.simulators.acl.objects import Buffer, Dataset, Description, Model


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.context: Context | None = None
        self.defaults: dict[int, Context] = {}
        self.messages: list[str] = []


class Simulator:
    """The board's state; tests read what was called, what is alive and what leaked."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.lock = threading.RLock()
        self.memory = Memory(board)
        self.contexts: Handles[Context] = Handles("context")
        self.streams: Handles[Stream] = Handles("stream")
        self.events: Handles[Event] = Handles("event")
        self.buffers: Handles[Buffer] = Handles("data buffer")
        self.datasets: Handles[Dataset] = Handles("dataset")
        self.descriptions: Handles[Description] = Handles("model description")
        self.models: dict[int, Model] = {}
        self.times_set: Counter[int] = Counter()
        self.initialised = False
        self.calls: list[str] = []
        """Names of the functions called, as `rt.malloc`, in order."""
        self.leak_report: list[str] | None = None
        """What was alive at the last `finalize`; `None` before."""
        self._faults = {(fault.call, fault.nth): fault.code for fault in board.faults}
        self._counts: Counter[str] = Counter()
        self._thread = _OfThread()

    @property
    def used_bytes(self) -> int:
        """Device memory taken, with its padding, on all devices."""
        return sum(self.memory.used(device) for device in range(self.board.devices))

    @property
    def handles(self) -> int:
        """How many objects and allocations are alive, default contexts aside."""
        return len(self.leaks()) - len(+self.times_set)

    def leaks(self) -> list[str]:
        """Everything that is alive now, in words."""
        tables: tuple[Handles[Any], ...] = (
            self.streams,
            self.events,
            self.buffers,
            self.datasets,
            self.descriptions,
        )
        with self.lock:
            return [
                *(f"model {model_id}" for model_id in self.models),
                *(f"{table.kind} {handle:#x}" for table in tables for handle in table.live),
                *(
                    f"context {handle:#x}"
                    for handle, each in self.contexts.live.items()
                    if not each.is_default
                ),
                *(block.name for block in self.memory.blocks.values()),
                *(f"device {device}, set {times} times" for device, times in (+self.times_set).items()),
            ]

    def function(self, call: Call, method: Callable[..., Any]) -> Callable[..., Any]:
        """The function of pyACL that a method stands behind: counted, failing when told to, giving codes."""

        def function(*args: Any) -> Any:
            try:
                self._count(call.name)
                with self.lock if call.locked else contextlib.nullcontext():
                    return method(*args)
            except Refused as refused:
                self._tell(call.name, refused)
                return call.failed(refused.code)

        function.__name__ = function.__qualname__ = call.name.rpartition(".")[2]
        return function

    def current(self) -> Context:
        """The calling thread's context.

        Raises:
            Refused: 107002, it has none.
        """
        context = self._thread.context
        if context is None or context.is_lost or context not in self.contexts.live.values():
            raise Refused(107002, "this thread has no context, or that of a device reset since")
        return context

    def enter(self, context: Context | None) -> None:
        """Make a context the calling thread's."""
        self._thread.context = context

    def default_context(self, device: int) -> Context:
        """The calling thread's default context of a device."""
        context = self._thread.defaults.get(device)
        if context is None or context not in self.contexts.live.values():
            context = self._thread.defaults[device] = Context(device, is_default=True)
            self.contexts.add(context)
        return context

    def all_streams(self) -> Iterator[Stream]:
        """Default streams too."""
        yield from self.streams.live.values()
        for context in self.contexts.live.values():
            yield context.default_stream

    def take_messages(self) -> str | None:
        """What went wrong in the calling thread since the last time."""
        messages, self._thread.messages = self._thread.messages, []
        return "\n".join(messages) or None

    def _count(self, name: str) -> None:
        with self.lock:
            self.calls.append(name)
            self._counts[name] += 1
            code = self._faults.get((name, self._counts[name]))
        if code is not None:
            raise Refused(code, "a simulated fault")

    def _tell(self, name: str, refused: Refused) -> None:
        message = f"{refused} [acl.{name}, code {refused.code}]"
        if self.board.cann == "8.0":
            now = time.strftime("%Y-%m-%d-%H:%M:%S.000.000")
            line = f"[PID: {os.getpid()}] {now} {refused.title}({refused.error}): {message}"
        else:
            line = f"{refused.error}: {message}"
        self._thread.messages.append(line)
