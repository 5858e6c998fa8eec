"""Stored outputs in place of a device: plays what `bench --save-outputs` or `score` kept, in the order it was kept.

Head and metrics run as ever, so a record made on a board is scored again on any machine, without data set and model.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backends.errors import BackendError
from harness.contracts import DeviceReport
from harness.records.outputs import Reader
from harness.types import AnyArray

_NONE: Mapping[str, float] = MappingProxyType({})


def play(stored: Reader, device: DeviceReport) -> ReplaySession:
    """A session over stored outputs; `device` is what gave them, and what the session reports."""
    return ReplaySession(stored, device)


class ReplaySession:
    """Gives the stored rows one batch after another."""

    def __init__(self, stored: Reader, device: DeviceReport) -> None:
        self.report = device
        self.device_ms = _NONE
        self._stored = stored
        self._done = 0

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """The next stored rows, as many as `batch` has; its values are not looked at.

        Raises:
            BackendError: there are no more.
        """
        begin, self._done = self._done, self._done + len(batch)
        if self._done > sum(self._stored.rows):
            raise BackendError(f"asked for row {self._done} of {sum(self._stored.rows)} stored rows")
        return self._stored.outputs(begin, self._done)

    def close(self) -> None:
        """Nothing is held."""
