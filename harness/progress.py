"""Progress of long work: a bar on a terminal, plain lines in a log; always on standard error."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Protocol

_SECONDS_BETWEEN_LINES = 10.0
Listener = Callable[[str, int, int], None]
"""Called with a label, the number of steps done, and of all steps."""
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


class Advance(Protocol):
    """Reports the number of steps just done, and a short note."""

    def __call__(self, steps: int, note: str = "") -> None:
        """Show it."""


@contextlib.contextmanager
def reported_to(listener: Listener) -> Iterator[None]:
    """Have `progress` call `listener` inside the block, and show nothing itself."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextlib.contextmanager
def progress(label: str, total: int, *, unit: str = "images") -> Iterator[Advance]:
    """Show how far `label` is, out of `total` steps, and the time left."""
    listener = _LISTENER.get()
    if listener is not None:
        yield _calls(listener, label, total)
        return
    with _bar(label, total) if sys.stderr.isatty() else _lines(label, total, unit) as advance:
        yield advance


def _calls(listener: Listener, label: str, total: int) -> Advance:
    done = 0

    def advance(steps: int, note: str = "") -> None:
        nonlocal done
        del note
        done += steps
        listener(label, done, total)

    return advance


@contextlib.contextmanager
def _bar(label: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    words = TextColumn("{task.description:<40}"), TextColumn("{task.fields[note]}")
    columns = (words[0], BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), words[1])
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, note="")
        yield lambda steps, note="": bar.update(task, advance=steps, note=note)


@contextlib.contextmanager
def _lines(label: str, total: int, unit: str) -> Iterator[Advance]:
    started = last = time.monotonic()
    done = 0

    def advance(steps: int, note: str = "") -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if done and now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            remaining = dt.timedelta(seconds=round((now - started) / done * (total - done)))
            words = [f"{done}/{total} {unit}", *filter(None, [note]), f"{remaining} left"]
            print(f"{label}: {', '.join(words)}", file=sys.stderr, flush=True)  # noqa: T201 - this is the log

    yield advance
