"""Signals during a training: it ends between two steps, where a checkpoint can be written."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from exporters.train.group import Group


@contextlib.contextmanager
def stop_asked(group: Group) -> Iterator[Callable[[], bool]]:
    """Whether a signal has asked for the end, to be looked at between steps; a second one ends at once.

    Ctrl-C in the middle of a graph reaches Python as SIGTERM, and the graph's results are as if there had been none.
    Workers in a group are ended by their launcher: one that stopped on its own would leave the others waiting.
    """
    signals: list[int] = []

    def ask(number: int, _: object) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)
        os.write(
            2, b"\nstopping after this step; Ctrl-C again stops at once\n"
        )  # `print` is not for handlers

    if group.size > 1 or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
