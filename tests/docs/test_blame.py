"""docs/explanation/blame.md names every stage."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from harness.blame import FLOAT16, FLOAT32, Stage

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "explanation" / "blame.md").read_text(encoding="utf-8")


def test_every_stage_and_both_tolerances_are_named() -> None:
    assert {stage for stage in get_args(Stage) if f"`{stage}`" not in TEXT} == set()
    assert {f"{FLOAT32:.0e}", f"{FLOAT16:.0e}"} == {"1e-04", "1e-02"}
    assert all(text in TEXT for text in ("1e-4", "1e-2"))
