"""What can go wrong, as one small tree.

HarnessError            something the user can act on; carries the exit code of the command line
├── UsageError          the call itself is wrong (2)
├── DatasetError        images, masks or lists on disk are wrong (2)
├── ArtifactError       an artifact is incomplete, altered or not of this schema (2)
├── RecordError         a record or its evidence is incomplete, altered or not of this schema (2)
├── VerdictError        a comparison was made and failed (1)
├── NotMeasured         what a gate asks for is not there, or is not to be trusted (3)
└── Unavailable         something needed is not on this machine (3)
    └── MissingExtra    an optional package is not installed; says the install command

`backends.errors` and `exporters.errors` hang their own leaves here.
"""

import difflib
from collections.abc import Iterable

DISTRIBUTION = "anomaly-parity-harness"


class HarnessError(Exception):
    """A message that says what is wrong, where, and what to do next."""

    exit_code = 3


class UsageError(HarnessError):
    """The call itself is wrong."""

    exit_code = 2


class DatasetError(HarnessError):
    """Images, masks or lists on disk are wrong; the message names the file."""

    exit_code = 2


class ArtifactError(HarnessError):
    """An artifact is incomplete, altered, or not of this schema."""

    exit_code = 2


class RecordError(HarnessError):
    """A record or its evidence is incomplete, altered, or not of this schema."""

    exit_code = 2


class VerdictError(HarnessError):
    """A comparison was made and failed."""

    exit_code = 1


class NotMeasured(HarnessError):  # noqa: N818 - reads as what it says
    """What a gate asks for is not there, or is not to be trusted; the message says which and why."""


class Unavailable(HarnessError):  # noqa: N818 - reads as what it says: "ascend910 is unavailable"
    """Something needed is not on this machine; the message says the next step."""


class MissingExtra(Unavailable):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, *, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs {package}, which is not installed: pip install '{DISTRIBUTION}[{extra}]'"
        )


def unknown(family: str, name: str, known: Iterable[str]) -> str:
    """A message for a name nobody knows."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {family} {name!r}{hint} (known: {', '.join(names)})"
