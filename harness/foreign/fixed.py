"""Models whose file fixes the batch: any number of images goes through them, the last batch filled up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from harness.detector.artifact import Variant
from harness.errors import ArtifactError
from harness.types import AnyArray

if TYPE_CHECKING:
    from harness.contracts import Session


def in_its_batches(session: Session, variant: Variant) -> Session:
    """`session` itself, or for an ONNX variant of a fixed batch one that keeps to it; OM has gears of its own."""
    rows = variant.input.shape[0]
    return session if rows is None or variant.format != "onnx" else FixedBatch(session, rows)


class FixedBatch:
    """A session that runs `rows` rows at a time; the last row is repeated to fill a batch, and its copies dropped."""

    def __init__(self, session: Session, rows: int) -> None:
        told = {"batches": f"{rows} (a rest is filled up with its last row)"}
        self.report = replace(session.report, options=session.report.options | told)
        self.device_ms: Mapping[str, float] = {}
        self._session = session
        self._rows = rows

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Outputs of all rows; times of the device are those of all runs together.

        Raises:
            ArtifactError: an output has not one row for each of the batch.
        """
        parts: dict[str, list[AnyArray]] = {}
        times: dict[str, float] = {}
        for start in range(0, len(batch), self._rows):
            rows = batch[start : start + self._rows]
            filled = np.concatenate([rows, np.repeat(rows[-1:], self._rows - len(rows), axis=0)])
            for name, given in self._session.run(filled).items():
                array = np.atleast_1d(given)  # one number is the score of one image
                if len(array) != self._rows:
                    raise ArtifactError(
                        f"{name!r} has shape {given.shape}: not one row for each of the {self._rows} images of its batch"
                    )
                parts.setdefault(name, []).append(array[: len(rows)])
            for stage, taken in self._session.device_ms.items():
                times[stage] = times.get(stage, 0.0) + taken
        self.device_ms = times
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def close(self) -> None:
        """Release the device."""
        self._session.close()
