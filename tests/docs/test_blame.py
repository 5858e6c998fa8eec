"""docs/explanation/blame.md names every stage."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from harness.blame import Stage
from harness.parity.tolerances import search_tolerance

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "explanation" / "blame.md").read_text(encoding="utf-8")


def test_every_stage_and_both_tolerances_are_named() -> None:
    assert {stage for stage in get_args(Stage) if f"`{stage}`" not in TEXT} == set()
    assert {f"{search_tolerance(name):.0e}" for name in ("fp32", "fp16", "int8")} == {"1e-04", "1e-02"}
    assert all(text in TEXT for text in ("1e-4", "1e-2"))
