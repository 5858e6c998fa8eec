"""The bug bench: every bug must be found and placed, and no harmless change may raise an alarm (docs/explanation/bug-bench.md).

pytest benchmarks/test_bugs.py -s

It prints one line for each change, and the tables of docs/explanation/bug-bench.md at the end. Polygraphy's column needs
`pip install polygraphy`; without it, the column reads "not installed".
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator

import pytest

if importlib.util.find_spec("mindspore") is None or importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("MindSpore and onnxruntime are not both installed", allow_module_level=True)

import tests.conftest  # noqa: F401 - sets what MindSpore reads when it is imported
from benchmarks.bugs import (
    adapter_bugs,
    artifact_bugs,
    file_bugs,
    graph_bugs,
    harmless_changes,
    preprocessor_bugs,
    table,
)
from benchmarks.bugs.change import Change, Outcome, outcome
from benchmarks.bugs.workspace import Workspace, known_backends

BUGS = (*preprocessor_bugs.BUGS, *graph_bugs.BUGS, *adapter_bugs.BUGS, *artifact_bugs.BUGS, *file_bugs.BUGS)
OUTCOMES: list[Outcome] = []
PLACED = 0.95
"""Share of the bugs that must be placed in the right stage."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("bugs")
    with known_backends(folder / "site-packages"):
        yield Workspace(folder)


@pytest.mark.parametrize(
    "change", [*BUGS, *harmless_changes.HARMLESS], ids=lambda change: f"{change.where}: {change.name}"
)
def test_change(workspace: Workspace, change: Change) -> None:
    """A bug is found; a harmless change passes."""
    name = f"{len(OUTCOMES):02}"
    result = outcome(change, workspace.deployment(name, change.subject, change.reference))
    shutil.rmtree(workspace.folder / "deployments" / name)
    OUTCOMES.append(result)
    print(f"\n{change.where}: {change.name}: {result.verdict}, {result.placed or '–'}; {result.reason[:300]}")
    if change.place is None:
        assert result.verdict == "passed", result.reason
    else:
        assert result.found, result.reason


def test_enough_bugs_are_placed_in_the_right_stage() -> None:
    """Judge the bugs that ran, also a selection by `-k`; print the tables of docs/explanation/bug-bench.md."""
    bugs = [result for result in OUTCOMES if result.change.place is not None]
    print(f"\n{table.tables(OUTCOMES)}\n\n{table.summary(OUTCOMES)}")
    if not bugs:
        pytest.skip("no bug was selected")
    misplaced = [
        f"{result.change.name}: {result.placed} for {result.change.place}"
        for result in bugs
        if not result.placed_right
    ]
    assert len(misplaced) <= (1 - PLACED) * len(bugs), misplaced


def test_the_bench_has_its_documented_size() -> None:
    assert len(BUGS) >= 24
    assert len(harmless_changes.HARMLESS) >= 8
    names = [change.name for change in (*BUGS, *harmless_changes.HARMLESS)]
    assert len(set(names)) == len(names)
