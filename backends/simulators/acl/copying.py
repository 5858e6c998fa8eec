"""`acl.rt`'s memory functions: allocation and copies."""

from __future__ import annotations

import time

from backends.simulators.acl.board import HOST_MODE, HardwareWouldCrash, Refused
from backends.simulators.acl.calls import api, with_code
from backends.simulators.acl.memory import View
from backends.simulators.acl.objects import Task
from backends.simulators.acl.state import Simulator
from backends.simulators.acl.streams import Streams

_POLICIES = (*range(8), *(base | policy for base in (0x100, 0x1000) for policy in range(8)))
_HOST, _DEVICE = "host", "device"
_DIRECTIONS = {  # kind: from, to
    0: (_HOST, _HOST),
    1: (_HOST, _DEVICE),
    2: (_DEVICE, _HOST),
    3: (_DEVICE, _DEVICE),
    4: None,
    5: (_HOST, _DEVICE),
}
"""4 goes by the addresses."""


class Copying:
    """Memory as programs ask for it."""

    def __init__(self, state: Simulator, streams: Streams) -> None:
        self._state = state
        self._streams = streams

    @api("rt.malloc", with_code(0))
    def malloc(self, size: int, policy: int) -> tuple[int, int]:
        return self._malloc(size, policy, padding=32)

    @api("rt.malloc_cached", with_code(0))
    def malloc_cached(self, size: int, policy: int) -> tuple[int, int]:
        return self._malloc(size, policy, padding=32)

    @api("rt.malloc_align32", with_code(0))
    def malloc_align32(self, size: int, policy: int) -> tuple[int, int]:
        return self._malloc(size, policy, padding=0)

    @api("rt.free")
    def free(self, pointer: int) -> int:
        return self._free(pointer, host=False)

    @api("rt.malloc_host", with_code(0))
    def malloc_host(self, size: int) -> tuple[int, int]:
        if size <= 0:
            raise Refused(100000, f"{size} bytes of host memory")
        self._state.current()
        if self._state.board.run_mode != HOST_MODE:
            raise Refused(207000, "a program on the SoC has device memory only")
        return self._state.memory.allocate(size, device=None), 0

    @api("rt.free_host")
    def free_host(self, pointer: int) -> int:
        return self._free(pointer, host=True)

    @api("rt.memset")
    def memset(self, pointer: int, capacity: int, value: int, count: int) -> int:
        if not pointer:
            raise Refused(100000, "the pointer is null")
        self._state.current()
        if count > capacity:
            raise Refused(107000, f"{count} bytes into {capacity}")
        self._state.memory.view(pointer, count).bytes[:] = value & 0xFF
        return 0

    @api("rt.memcpy", locked=False)
    def memcpy(self, target: int, capacity: int, source: int, count: int, kind: int) -> int:
        """Done on return, and in no order with the work that waits in streams."""
        with self._state.lock:
            needed = self._check(target, capacity, source, count, kind)
        if needed:
            self._copy(target, source, count, kind)
        return 0

    @api("rt.memcpy_async")
    def memcpy_async(
        self, target: int, capacity: int, source: int, count: int, kind: int, stream: int
    ) -> int:
        """Reads its source when the stream is waited for."""
        needed = self._check(target, capacity, source, count, kind)
        queue = self._streams.find(stream)
        if needed:
            views = self._views(target, source, count, kind)
            if self._state.board.run_mode == HOST_MODE and all(view.device is None for view in views):
                raise Refused(207000, "no stream copies from host to host")
            queue.tasks.append(Task(lambda: self._copy(target, source, count, kind)))
        return 0

    def _malloc(self, size: int, policy: int, *, padding: int) -> tuple[int, int]:
        if size <= 0:
            raise Refused(100000, f"{size} bytes of device memory")
        if policy not in _POLICIES:
            raise Refused(100000, f"{policy} is no policy of allocation")
        device = self._state.current().device
        return self._state.memory.allocate(size, device=device, padding=padding), 0

    def _free(self, pointer: int, *, host: bool) -> int:
        if not pointer:
            raise Refused(100000, "the pointer is null")
        self._state.current()
        self._state.memory.release(pointer, host=host)
        return 0

    def _check(self, target: int, capacity: int, source: int, count: int, kind: int) -> bool:
        """Whether anything is to be copied."""
        if not target or not source:
            raise Refused(100000, "the source or the target of a copy is null")
        if kind not in _DIRECTIONS:
            raise Refused(100000, f"{kind} is no kind of copy")
        self._state.current()
        if not count or target == source:
            return False
        if count > capacity:
            raise Refused(107000, f"a copy of {count} bytes into {capacity}")
        return True

    def _copy(self, target: int, source: int, count: int, kind: int) -> None:
        with self._state.lock:
            to, what = self._views(target, source, count, kind)
            to.bytes[:] = what.bytes
        if self._state.board.latency:
            time.sleep(self._state.board.latency.copy_ms_per_mb * count / 1e9)

    def _views(self, target: int, source: int, count: int, kind: int) -> tuple[View, View]:
        what, to = (self._state.memory.view(pointer, count) for pointer in (source, target))
        if self._state.board.run_mode != HOST_MODE:
            if kind not in (3, 4):
                raise HardwareWouldCrash(f"copy of kind {kind} on the SoC, where all memory is the device's")
            return to, what
        direction = _DIRECTIONS[kind]
        places = tuple(_HOST if view.device is None else _DEVICE for view in (what, to))
        if direction not in (None, places):
            raise HardwareWouldCrash(f"copy of kind {kind} from {places[0]} to {places[1]} memory")
        return to, what
