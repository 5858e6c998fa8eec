"""The architecture page, its picture and CONTRIBUTING show the layers of the import contract, in their order."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def layers() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = (one for one in settings["contracts"] if one.get("exhaustive"))
    return [name for layer in contract["layers"] for name in layer.split(" | ")]


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("docs/explanation/layers.svg", r'font-weight="bold">(\w+)</text>'),
        ("docs/explanation/architecture.md", r"^!\[The layers of the package harness: (.*?)\]"),
        ("CONTRIBUTING.md", r"^```text\n(.*?)\nexporters/"),
    ],
)
def test_a_picture_shows_the_layers_of_the_contract_in_their_order(path: str, pattern: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    shown = "\n".join(re.findall(pattern, text, flags=re.MULTILINE | re.DOTALL))
    shown = re.sub(r"  .*", "", shown)  # what stands in the second column
    positions = [re.search(rf"\b{name}\b", shown) for name in layers()]
    assert [name for name, position in zip(layers(), positions, strict=True) if position is None] == []
    starts = [position.start() for position in positions if position is not None]
    assert starts == sorted(starts)


def test_files_that_the_page_names_exist() -> None:
    text = Path(ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"`((?:harness|backends|exporters|benchmarks|results)/[\w./-]*)`", text)
    assert len(names) > 20
    assert [name for name in names if not (ROOT / name).exists()] == []
