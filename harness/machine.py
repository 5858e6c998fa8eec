"""The machine: what it is, which of its cores a worker may use, how much memory it took."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import platform
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

import harness
from harness.errors import UsageError

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


def python_path() -> str:
    """`PYTHONPATH` of a child process that runs our packages: the folder that holds them, then the current value."""
    root = str(Path(harness.__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))


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


CANN_SET_ENV = "source /usr/local/Ascend/ascend-toolkit/set_env.sh"
"""From CANN 8.5 on the folder is `/usr/local/Ascend/cann`."""
_VERSION_FILES = (
    "compiler/version.info",
    "runtime/version.info",
    "version.info",
    "compiler/version.cfg",
    "version.cfg",
)
VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
"""Which devices a process may see; it counts those from 0."""


def cann_home(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Folder of the CANN toolkit; `None` if no toolkit's `set_env.sh` was sourced."""
    return next(_cann_homes(environment), None)


def _cann_homes(environment: Mapping[str, str]) -> Iterator[Path]:
    """Folders that the variables of `set_env.sh` name, in the order in which they are searched."""
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        if environment.get(name):
            yield Path(environment[name])


def cann_version(environment: Mapping[str, str] = os.environ) -> str | None:
    """Version of the CANN toolkit, `8.0.0`; `None` without a toolkit, or if none of its files names a version.

    MindSpore reads `compiler/version.info`; that the file lies beside other parts too is an assumption.
    """
    for home, name in itertools.product(_cann_homes(environment), _VERSION_FILES):
        with contextlib.suppress(OSError):
            text = (home / name).read_text("utf-8", errors="replace")
            match = re.search(r"^\s*version\s*=\s*\W*(\d[\w.]*)", text, re.IGNORECASE | re.MULTILINE)
            if match is not None:
                return match[1]
    return None


def cann_report() -> dict[str, str]:
    """What a report says of the toolkit, for `DeviceReport.runtime`."""
    return {"cann": cann_version() or "unknown (no version.info where set_env.sh points)"}


def visible_devices() -> dict[str, str]:
    """What a report says of the devices that were hidden, for `DeviceReport.options`."""
    return {VISIBLE_DEVICES: os.environ.get(VISIBLE_DEVICES, "all")}


def require_cann_version(environment: Mapping[str, str] = os.environ) -> str:
    """Version of the CANN toolkit that `environment` points to.

    Raises:
        UsageError: no toolkit, or none of its files names a version.
    """
    version = cann_version(environment)
    if version is None:
        raise UsageError(
            "the toolkit's version is not known (no version.info below ASCEND_TOOLKIT_HOME): give --cann, 7.0 for example"
        )
    return version
