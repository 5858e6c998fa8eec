"""Progress of long work: a bar on a terminal, plain lines in a log; always on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_SECONDS_BETWEEN_LINES = 10.0

Advance = Callable[[int], None]
"""Called with the number of steps just done."""


@contextlib.contextmanager
def progress(label: str, total: int, *, unit: str = "images") -> Iterator[Advance]:
    """Show how far `label` is, out of `total` steps."""
    with _bar(label, total) if sys.stderr.isatty() else _lines(label, total, unit) as advance:
        yield advance


@contextlib.contextmanager
def _bar(label: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps: bar.advance(task, steps)


@contextlib.contextmanager
def _lines(label: str, total: int, unit: str) -> Iterator[Advance]:
    done, last = 0, time.monotonic()

    def advance(steps: int) -> None:
        nonlocal done, last
        done += steps
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{label}: {done}/{total} {unit}", file=sys.stderr, flush=True)  # noqa: T201 - this is the log

    yield advance
