"""The page of the Python API names every public function and class."""

from __future__ import annotations

import harness
from harness import api, errors
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
NOT_OURS = {"Record", "EvidenceArrays", "ParityReport", "GateReport", "Progress", "metrics", "__version__"}
"""Defined in modules of their own, or no function and no class."""


def test_the_page_generates_every_public_name() -> None:
    names = set(harness.__all__) - set(dir(errors)) - NOT_OURS
    members = PAGE.split("::: harness.api", 1)[1].split("\n## ", 1)[0]
    assert names <= set(api.__all__)
    assert [name for name in sorted(names) if name not in members] == []
    assert "::: harness.errors" in PAGE
    assert "::: harness.metrics" in PAGE
