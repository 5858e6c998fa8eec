"""The tree of errors.

HarnessError            an error that the user can act on; carries the command line's exit code
├── UsageError          the call itself is wrong (2)
├── DatasetError        images, masks or lists on disk are wrong (2)
├── ArtifactError       an artifact is incomplete, altered or not of this schema (2)
├── RecordError         a record or its evidence is incomplete, altered or not of this schema (2)
├── VerdictError        a comparison failed (1)
├── NotMeasured         the evidence that a gate needs is missing or cannot be trusted (3)
├── PluginError         another distribution's plug-in cannot be used (3)
└── Unavailable         something needed is not on this machine (3)
    └── MissingExtra    an optional package is not installed; says the install command

`backends.errors` and `exporters.errors` add their own classes.
"""

import difflib
from collections.abc import Iterable

DISTRIBUTION = "anomaly-parity-harness"
MOST_LISTED = 8
"""Names that a message lists if no command lists them."""


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
    """A comparison failed."""

    exit_code = 1


class NotMeasured(HarnessError):  # noqa: N818 - reads as what it says
    """The evidence that a gate needs is missing or cannot be trusted; the message says which and why."""


class PluginError(HarnessError):
    """Another distribution's plug-in cannot be used; the message names the distribution."""


class Unavailable(HarnessError):  # noqa: N818 - reads as what it says: "ascend910 is unavailable"
    """Something needed is not on this machine; the message says the next step."""


class MissingExtra(Unavailable):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, *, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs {package}, which is not installed: pip install '{DISTRIBUTION}[{extra}]'"
        )


def unknown(family: str, name: str, known: Iterable[str], list_command: str = "") -> str:
    """A message for an unknown name: up to three near misses, and how to see all names.

    Args:
        family: What the name should be, for example `backend`.
        name: The unknown name.
        known: All names of the family.
        list_command: Prints them, for example `python -m harness backends`. Without it, the message lists up to
            `MOST_LISTED` names.
    """
    names = sorted(known)
    near = [repr(other) for other in difflib.get_close_matches(name, names, n=3)]
    alternatives = " or ".join([*filter(None, [", ".join(near[:-1])]), *near[-1:]])
    hint = f"; did you mean {alternatives}?" if near else ""
    more = f", … ({len(names)} in all)" if len(names) > MOST_LISTED else ""
    everything = f"known: {', '.join(names[:MOST_LISTED])}{more}"
    if list_command:
        everything = f"{len(names)} are known: {list_command}"
    return f"unknown {family} {name!r}{hint} ({everything})"
