"""The machine: what it is, which of its cores a worker may use, how much memory it took."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import signal
import subprocess
from pathlib import Path

import msgspec

import harness

_PR_SET_PDEATHSIG = 1


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a record says of the machine and the code that made it."""

    name: str
    machine: str
    """Processor architecture, `x86_64`."""
    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    harness: str
    """Version of this harness."""
    git_commit: str | None
    """Commit of the checkout the harness runs from; absent for an installed wheel."""
    git_dirty: bool | None


_MACHINE = ("name", "machine", "processor", "cores", "memory_bytes")


def apart(one: Host, two: Host) -> tuple[str, ...]:
    """Fields by which two hosts are different machines: system, Python and harness may have been updated."""
    return tuple(name for name in _MACHINE if getattr(one, name) != getattr(two, name))


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin(threads: int) -> None:
    """Keep this process and its future threads on `threads` cores: the only limit every runtime obeys.

    Raises:
        OSError: the system refuses.
        ValueError: fewer cores are usable than asked for.
    """
    usable = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(usable):
        raise ValueError(f"{threads} threads asked for, {len(usable)} cores are usable here")
    os.sched_setaffinity(0, usable[:threads])


def die_with_parent(how: signal.Signals) -> None:
    """Have the system send this process `how` when its parent ends: a killed parent leaves nothing behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far.

    Read from `VmHWM`: `ru_maxrss` would start at the parent's size, which a child inherits over `exec`.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM line")


@functools.cache
def describe() -> Host:
    """This machine and this code."""
    commit = _git("rev-parse", "HEAD")
    return Host(
        name=platform.node(),
        machine=platform.machine(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=platform.platform(),
        python=platform.python_version(),
        harness=harness.__version__,
        git_commit=commit,
        git_dirty=None if commit is None else bool(_git("status", "--porcelain", "--untracked-files=no")),
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _git(*arguments: str) -> str | None:
    """Output of git on the checkout this file lies in; `None` without git or outside a checkout of this project."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
