"""The bug bench: every bug has to be found and placed, and no harmless change may give an alarm (docs/explanation/bug-bench.md).

pytest benchmarks/test_bugs.py -s

One line is printed for each change, and the tables of docs/explanation/bug-bench.md in the end. Polygraphy's column needs
`pip install polygraphy`; it reads "not installed" without.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator

import pytest

if importlib.util.find_spec("mindspore") is None or importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("MindSpore and onnxruntime are not both installed", allow_module_level=True)

import tests.conftest  # noqa: F401 - sets what MindSpore reads when it is imported
from benchmarks.bugs import adapters, artifacts, files, graphs, harmless, preprocessors, table
from benchmarks.bugs.base import Change, Outcome, outcome
from benchmarks.bugs.stage import Stage, known_adapters

BUGS = (*preprocessors.BUGS, *graphs.BUGS, *adapters.BUGS, *artifacts.BUGS, *files.BUGS)
OUTCOMES: list[Outcome] = []
PLACED = 0.95
"""Share of the bugs that must be placed in the right stage."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("bugs")
    with known_adapters(folder / "site-packages"):
        yield Stage(folder)


@pytest.mark.parametrize("change", [*BUGS, *harmless.HARMLESS], ids=lambda item: f"{item.where}: {item.name}")
def test_change(stage: Stage, change: Change) -> None:
    """A bug is found; a harmless change passes."""
    name = f"{len(OUTCOMES):02}"
    found = outcome(change, stage.site(name, change.subject, change.reference))
    shutil.rmtree(stage.folder / "sites" / name)
    OUTCOMES.append(found)
    print(f"\n{change.where}: {change.name}: {found.verdict}, {found.placed or '–'}; {found.said[:300]}")
    if change.place is None:
        assert found.verdict == "passed", found.said
    else:
        assert found.found, found.said


def test_enough_bugs_are_placed_in_the_right_stage() -> None:
    """Over those that ran, so a choice by `-k` is judged by itself; printed are the tables of docs/explanation/bug-bench.md."""
    bugs = [item for item in OUTCOMES if item.change.place is not None]
    print(f"\n{table.rows(OUTCOMES)}\n\n{table.summary(OUTCOMES)}")
    if not bugs:
        pytest.skip("no bug was chosen")
    misplaced = [
        f"{item.change.name}: {item.placed} for {item.change.place}" for item in bugs if not item.placed_right
    ]
    assert len(misplaced) <= (1 - PLACED) * len(bugs), misplaced


def test_the_bench_is_as_large_as_it_says() -> None:
    assert len(BUGS) >= 24
    assert len(harmless.HARMLESS) >= 8
    names = [change.name for change in (*BUGS, *harmless.HARMLESS)]
    assert len(set(names)) == len(names)
