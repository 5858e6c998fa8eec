"""Results folders for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.record_factory import Results


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(folder=tmp_path / "results")
