"""Any number of rows through a model with a fixed batch."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.contracts import DeviceReport
from harness.errors import ArtifactError
from harness.run.inputs import FixedBatch, in_its_batches
from harness.types import AnyArray


class Twice:
    """Returns twice the sums of three rows, in 2 ms."""

    report = DeviceReport(device="cpu", runtime={}, options={"precision": "float32"}, simulated=False)

    def __init__(self, shape: tuple[int, ...] = (3,)) -> None:
        self.device_ms: Mapping[str, float] = {}
        self.taken: list[AnyArray] = []
        self._shape = shape

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        self.taken.append(batch)
        self.device_ms = {"compute": 2.0}
        return {"sums": np.resize(2 * batch.sum(axis=1), self._shape)}

    def close(self) -> None:
        """Hold nothing."""


def test_the_last_batch_is_filled_with_its_last_row_and_the_copies_are_dropped() -> None:
    inner = Twice()
    session = FixedBatch(inner, 3)
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    assert session.run(rows)["sums"].tolist() == (2 * rows.sum(axis=1)).tolist()
    assert [len(batch) for batch in inner.taken] == [3, 3]
    assert np.array_equal(inner.taken[1], rows[[3, 4, 4]])
    assert session.device_ms == {"compute": 4.0}  # of both runs
    session.run(rows[:1])
    assert session.device_ms == {"compute": 2.0}


def test_the_device_report_says_in_which_batches_it_ran() -> None:
    assert FixedBatch(Twice(), 3).report.options == {
        "precision": "float32",
        "batches": "3 (a rest is filled up with its last row)",
    }


def test_a_single_number_is_the_row_of_a_batch_of_one() -> None:
    assert FixedBatch(Twice(shape=()), 1).run(np.ones((2, 4), np.float32))["sums"].tolist() == [8, 8]


@pytest.mark.parametrize("shape", [(), (1,), (2,), (4,), (1, 3)])
def test_an_output_with_another_number_of_rows_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArtifactError, match=r"'sums' has shape .*: not one row for each of the 3 images"):
        FixedBatch(Twice(shape), 3).run(np.ones((3, 4), np.float32))


@pytest.mark.parametrize(
    ("rows", "format_", "wrapped"), [(3, "onnx", True), (None, "onnx", False), (3, "om", False)]
)
def test_only_onnx_variants_with_a_fixed_batch_run_in_fixed_batches(
    rows: Any, format_: str, wrapped: Any
) -> None:
    session: Any = Twice()
    variant: Any = SimpleNamespace(input=SimpleNamespace(shape=(rows, 4)), format=format_)
    assert (in_its_batches(session, variant) is not session) == wrapped
