"""The CANN toolkit of this machine, as `set_env.sh` leaves it in the environment: where it is and which version."""

from __future__ import annotations

import os
from pathlib import Path

SET_ENV = "source /usr/local/Ascend/ascend-toolkit/set_env.sh"
"""From CANN 8.5 on the folder is `/usr/local/Ascend/cann`."""
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
"""Which devices a process may see; it counts those from 0."""


def home() -> Path | None:
    """Folder of the toolkit; `None` where no toolkit's `set_env.sh` was sourced."""
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        if os.environ.get(name):
            return Path(os.environ[name])
    return None


def version() -> str | None:
    """Version of the toolkit, `8.0.0`; `None` without a toolkit, or where it has no `version.info`.

    MindSpore reads `compiler/version.info`; that the file lies beside other parts too is an assumption.
    """
    root = home()
    for part in ("compiler", "runtime", ".") if root is not None else ():
        file = Path(str(root)) / part / "version.info"
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
        for line in lines:
            if line.startswith("Version="):
                return line.partition("=")[2].strip()
    return None


def described() -> dict[str, str]:
    """What a report says of the toolkit, for `DeviceReport.runtime`."""
    return {"cann": version() or "unknown (no version.info where set_env.sh points)"}


def visible_devices() -> dict[str, str]:
    """What a report says of the devices that were hidden, for `DeviceReport.options`."""
    return {VISIBLE: os.environ.get(VISIBLE, "all")}
