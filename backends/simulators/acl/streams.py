"""Streams and events: work put into a stream is done when somebody waits for it, and not before.

On a card it is done some time in between; done at the latest moment, a missing wait shows every time.
"""

from __future__ import annotations

import threading
import time

from backends.simulators.acl.board import Refused
from backends.simulators.acl.calls import api, with_code
from backends.simulators.acl.objects import Event, Stream, Task
from backends.simulators.acl.state import Simulator

_EVENT_FLAGS = range(1, 16)


class Streams:
    """Queues of a board."""

    def __init__(self, state: Simulator) -> None:
        self._state = state
        self._waiting = threading.RLock()  # One thread at a time carries out waiting work.

    def find(self, handle: int) -> Stream:
        """A stream of the calling thread's context; 0 is the default one.

        Raises:
            Refused: 107002, 107003.
        """
        context = self._state.current()
        stream = self._state.streams.get(handle) if handle else context.default_stream
        if stream.context is not context:
            raise Refused(107003, "the stream belongs to another context")
        return stream

    @api("rt.create_stream", with_code(0))
    def create_stream(self) -> tuple[int, int]:
        return self._state.streams.add(Stream(self._state.current())), 0

    @api("rt.destroy_stream")
    def destroy_stream(self, stream: int) -> int:
        """Work that still waits in it is never done."""
        if not stream:
            raise Refused(100000, "the stream is null")
        self.find(stream).tasks.clear()
        self._state.streams.remove(stream)
        return 0

    @api("rt.synchronize_stream", locked=False)
    def synchronize_stream(self, stream: int) -> int:
        with self._state.lock:
            target = self.find(stream)
        self._finish(target)
        return 0

    @api("rt.synchronize_stream_with_timeout", locked=False)
    def synchronize_stream_with_timeout(self, stream: int, milliseconds: int) -> int:
        """No work lasts too long here."""
        if milliseconds < -1:
            raise Refused(107000, f"a time-out of {milliseconds} ms")
        return self.synchronize_stream(stream)

    @api("rt.synchronize_device", locked=False)
    def synchronize_device(self) -> int:
        with self._state.lock:
            device = self._state.current().device
            streams = [each for each in self._state.all_streams() if each.context.device == device]
        for stream in streams:
            self._finish(stream)
        return 0

    @api("rt.create_event", with_code(0))
    def create_event(self) -> tuple[int, int]:
        self._state.current()
        return self._state.events.add(Event()), 0

    @api("rt.create_event_with_flag", with_code(0))
    def create_event_with_flag(self, flag: int) -> tuple[int, int]:
        if flag not in _EVENT_FLAGS:
            raise Refused(107000, f"{flag} is no flag of an event")
        return self.create_event()

    @api("rt.destroy_event")
    def destroy_event(self, event: int) -> int:
        self._state.current()
        self._state.events.remove(event)
        return 0

    @api("rt.record_event")
    def record_event(self, event: int, stream: int) -> int:
        mark, target = self._state.events.get(event), self.find(stream)
        mark.stream, mark.seconds = target, None
        mark.waiting += 1

        def reach() -> None:
            mark.waiting -= 1
            mark.seconds = time.perf_counter()

        target.tasks.append(Task(reach))
        return 0

    @api("rt.synchronize_event", locked=False)
    def synchronize_event(self, event: int) -> int:
        with self._state.lock:
            self._state.current()
            mark = self._state.events.get(event)
        self._reach(mark)
        return 0

    @api("rt.stream_wait_event")
    def stream_wait_event(self, stream: int, event: int) -> int:
        mark, target = self._state.events.get(event), self.find(stream)
        target.tasks.append(Task(lambda: self._reach(mark)))
        return 0

    @api("rt.event_elapsed_time", with_code(0.0))
    def event_elapsed_time(self, start: int, end: int) -> tuple[float, int]:
        """Milliseconds."""
        first, last = (self._state.events.get(event).seconds for event in (start, end))
        if first is None or last is None:
            raise Refused(107006, "an event is not reached yet: record it, then synchronise")
        if last < first:
            raise Refused(107007, "the events are in reversed order")
        return (last - first) * 1000, 0

    def _finish(self, stream: Stream) -> None:
        with self._waiting:
            while stream.tasks:
                stream.tasks.popleft().run()

    def _reach(self, mark: Event) -> None:
        with self._waiting:
            while mark.waiting and mark.stream is not None and mark.stream.tasks:
                mark.stream.tasks.popleft().run()
