"""docs/reference/gate-rules.md shows rules that are read, and names every key."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from harness.gates import read, rules

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "gate-rules.md").read_text(
    encoding="utf-8"
)
KINDS = (rules.Bound, rules.NonInferior, rules.Growth, rules.Parity, rules.Latency)


def test_the_rules_are_read_and_show_every_kind(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
    (tmp_path / "rules.toml").write_text(block)
    assert [type(rule) for rule in read(tmp_path / "rules.toml").rule] == list(KINDS)


@pytest.mark.parametrize("kind", [rules.Find, *KINDS])
def test_every_key_is_named(kind: type[msgspec.Struct]) -> None:
    assert [key for key in kind.__struct_fields__ if f"`{key}`" not in TEXT and f"`{key} =" not in TEXT] == []
