"""Every command and every Python block of the documents runs on small data, page by page, or says why it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import PAGES, ROOT, RUN, SHOWN, Block, blocks, run

EMPTY = "<!-- in an empty folder -->"
"""On a page that makes all it needs."""
NOT_RUN = Path(__file__).with_name("not_run.txt")
WITH_BLOCKS = [page for page in PAGES if any(block.language in RUN for block in blocks(page))]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def not_run() -> list[str]:
    return [str(block) for page in PAGES for block in blocks(page) if block.reason is not None]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_its_language(page: Path) -> None:
    unknown = [f"{block.page}:{block.line}" for block in blocks(page) if block.language not in RUN + SHOWN]
    assert unknown == []


@pytest.mark.mindspore
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name)
def test_every_block_of_a_page_runs(page: Path, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("empty_folder" if EMPTY in page.read_text(encoding="utf-8") else "page_folder")
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.reason is None:
            run(block, names)


def test_the_blocks_that_are_not_run_are_listed_with_their_reasons() -> None:
    """Write the list anew: `python -m tests.docs.test_blocks`."""
    assert not_run() == NOT_RUN.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("text", "reason"),
    [("false", None), ("python -m harness gate missing.toml", None), ("true  # exit code 1", None)],
)
def test_a_command_that_ends_otherwise_than_its_line_says_fails(
    text: str, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="exit code"):
        run(Block(page="p", line=1, language="sh", text=text, reason=reason, setup=""), {})


def test_python_blocks_of_a_page_share_their_names() -> None:
    names: dict[str, Any] = {}
    for text in ("first = 1", "second = first + 1"):
        run(Block(page="p", line=1, language="python", text=text, reason=None, setup=""), names)
    assert names["second"] == 2


if __name__ == "__main__":
    NOT_RUN.write_text("".join(f"{line}\n" for line in not_run()), encoding="utf-8")
