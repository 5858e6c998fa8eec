"""`acl.init` to `acl.finalize`, devices and contexts."""

from __future__ import annotations

import json
from pathlib import Path

from backends.simulators.acl.board import Refused
from backends.simulators.acl.calls import api, bare, with_code
from backends.simulators.acl.objects import Context
from backends.simulators.acl.state import Simulator

_DDR = (0, 2, 3)
_HBM = (1, 4, 5)
_ATTRIBUTES = range(10)


class Device:
    """One process's use of pyACL."""

    def __init__(self, state: Simulator) -> None:
        self._state = state
        self._first_config: object = None
        self._finalized = False

    @api("init")
    def init(self, config: str | None = None) -> int:
        """Config files may only differ in layout."""
        if self._state.initialised:
            raise Refused(100002, "init is called again")
        content = {} if config is None else _read(config)
        if self._first_config not in (None, content):
            raise Refused(100000, "the configuration differs from the first one's")
        self._first_config = content
        self._state.initialised = True
        return 0

    @api("finalize")
    def finalize(self) -> int:
        """Takes the leak report."""
        if self._finalized and not self._state.initialised:
            raise Refused(100037, "finalize is called again")
        self._finalized = self._state.initialised
        self._state.initialised = False
        self._state.leak_report = self._state.leaks()
        return 0

    @api("get_recent_err_msg", bare(None))
    def get_recent_err_msg(self) -> str | None:
        return self._state.take_messages()

    @api("get_soc_name", bare(None))
    def get_soc_name(self) -> str:
        return self._state.board.soc

    @api("rt.get_run_mode", with_code(0))
    def get_run_mode(self) -> tuple[int, int]:
        return self._state.board.run_mode, 0

    @api("rt.get_device_count", with_code(0))
    def get_device_count(self) -> tuple[int, int]:
        return self._state.board.devices, 0

    @api("rt.set_device")
    def set_device(self, device: int) -> int:
        self._check(device)
        self._state.times_set[device] += 1
        self._state.enter(self._state.default_context(device))
        return 0

    @api("rt.reset_device")
    def reset_device(self, device: int) -> int:
        """Counts over all threads of the process; explicit contexts that are still there are lost for good."""
        self._check(device)
        if not self._state.times_set[device]:
            raise Refused(507007, f"device {device} is not set")
        self._state.times_set[device] -= 1
        if not self._state.times_set[device]:
            self._end_contexts(device)
        return 0

    @api("rt.reset_device_force", cann=("8.0",))
    def reset_device_force(self, device: int) -> int:
        self._check(device)
        self._state.times_set[device] = min(1, self._state.times_set[device])
        return self.reset_device(device)

    @api("rt.get_device", with_code(0))
    def get_device(self) -> tuple[int, int]:
        return self._state.current().device, 0

    @api("rt.get_mem_info", with_code(0, 0))
    def get_mem_info(self, attribute: int) -> tuple[int, int, int]:
        """A 310 has DDR, others have HBM; of what a board has not, there are 0 bytes."""
        if attribute not in _ATTRIBUTES:
            raise Refused(100000, f"{attribute} is no kind of memory")
        device = self._state.current().device
        if attribute not in (_DDR if self._state.board.soc.startswith("Ascend310") else _HBM):
            return 0, 0, 0
        total = self._state.board.memory_bytes
        return total - self._state.memory.used(device), total, 0

    @api("rt.create_context", with_code(0))
    def create_context(self, device: int) -> tuple[int, int]:
        self._check(device)
        context = Context(device, is_default=False)
        self._state.enter(context)
        return self._state.contexts.add(context), 0

    @api("rt.set_context")
    def set_context(self, context: int) -> int:
        self._state.enter(self._living(context))
        return 0

    @api("rt.get_context", with_code(0))
    def get_context(self) -> tuple[int, int]:
        current = self._state.current()
        (handle,) = (key for key, value in self._state.contexts.live.items() if value is current)
        return handle, 0

    @api("rt.destroy_context")
    def destroy_context(self, context: int) -> int:
        """What belongs to it stays behind as a leak; threads that are in it have none from now on."""
        if self._living(context).is_default:
            raise Refused(107000, "the default context goes with its device, not by destroy_context")
        self._state.contexts.remove(context)
        return 0

    def _check(self, device: int) -> None:
        if not self._state.initialised:
            raise Refused(100001, "init is not called")
        if not 0 <= device < self._state.board.devices:
            raise Refused(107001, f"there is no device {device}")

    def _end_contexts(self, device: int) -> None:
        for handle, context in list(self._state.contexts.live.items()):
            if context.device == device:
                context.is_lost = True
                if context.is_default:
                    self._state.contexts.remove(handle)

    def _living(self, handle: int) -> Context:
        context = self._state.contexts.get(handle)
        if context.is_lost:
            raise Refused(107002, "the context's device was reset before it: destroy contexts first")
        return context


def _read(path: str) -> object:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(100003, f"cannot read {path}: {error}") from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise Refused(100006, f"{path} is no JSON: {error}") from error
