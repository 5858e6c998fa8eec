"""One rank of a distributed training: the process that `msrun` starts."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
from mindspore import communication

from exporters.runtime import use
from exporters.train.launch import PARENT
from harness import machine
from harness.build import FitRequest
from harness.detector import settings
from harness.errors import HarnessError
from harness.types import Category


def decode(text: bytes) -> FitRequest:
    """The request that `encode` wrote."""
    fields: dict[str, Any] = json.loads(text)
    for name in ("weights", "out", "init_from"):
        fields[name] = None if fields[name] is None else Path(fields[name])
    category = msgspec.convert(fields.pop("category"), Category, dec_hook=lambda kind, value: kind(value))
    wanted = settings.settings(fields["detector"], fields.pop("settings"))
    return FitRequest(**fields, category=category, settings=wanted)


def main(arguments: list[str]) -> int:
    """What a rank runs."""
    machine.die_with_parent(signal.SIGKILL)
    if os.environ.get(PARENT) != str(os.getppid()):
        return 1  # msrun died while this process was starting
    from exporters.fit import job

    request = decode(Path(arguments[0]).read_bytes())
    try:
        use(request.device)
        communication.init()
        job.learn(request)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the log is where the launcher reads it
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
