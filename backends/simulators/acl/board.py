"""What is simulated: a board, its faults and its slowness; and what no return code can say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cann = Literal["5.0", "7.0", "8.0"]
HOST_MODE = 1
"""`acl.rt.get_run_mode` of a program on a host with a card; 0 on the SoC itself."""


class HardwareWouldCrash(Exception):  # noqa: N818 - reads as what it says
    """A call whose effect on hardware is undefined: a stray pointer, a stale handle, a buffer read past its end."""


class Refused(Exception):  # noqa: N818 - reads as what it says
    """A call fails with a code; the caller of pyACL sees the code, never this."""

    def __init__(self, code: int, message: str, *, error: str = "E19999", title: str = "Inner_Error") -> None:
        super().__init__(message)
        self.code = code
        self.error = error
        self.title = title


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The `nth` call (from 1) of `call` does nothing and gives `code`; a bare getter gives its null value."""

    call: str
    """Without `acl.`, as `rt.malloc`."""
    nth: int = 1
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long the board sleeps, in milliseconds."""

    execute_ms: float = 0.0
    copy_ms_per_mb: float = 0.0
    """Per 10⁶ bytes copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One host with its devices and its CANN."""

    soc: str = "Ascend310"
    devices: int = 1
    cann: Cann = "7.0"
    run_mode: Literal[0, 1] = 1
    """0: the program runs on the SoC, where all memory is the device's; 1: on a host."""
    memory_bytes: int = 8 << 30
    """Of each device."""
    faults: tuple[Fault, ...] = ()
    latency: Latency | None = None
