"""Every command the documents show is one the program takes, and the test command is the one CI runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from harness import registry
from harness.cli import parser
from harness.cli.old_spellings import translated

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(path: Path) -> list[str]:
    """What follows `python -m harness` at the start of a line or of a CI step, up to a comment."""
    return re.findall(
        r"^(?: *- run: )?python -m harness ([^#\n]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE
    )


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_every_command_of_a_document_parses(path: Path) -> None:
    for command in commands(path):
        arguments = shlex.split(
            command.replace("mean-image", "padim")
        )  # the template's detector is not installed
        if arguments[0] == "bench":
            arguments, _ = translated(arguments)
        assert callable(parser().parse_args(arguments).run)


@pytest.mark.parametrize(
    ("name", "kinds"),
    {
        "README.md": {"data", "weights", "fit", "export", "bench", "parity", "tables", "backends"}
        | {"onnx", "gate", "reproduce", "replay"},
        "docs/how-to/ascend-card.md": {"fit", "export", "bench", "doctor"},
        "docs/how-to/find-the-node.md": {"parity", "blame"},
        "docs/how-to/exchange-files.md": {"inputs", "score", "parity", "bench", "pack", "merge"},
        "docs/how-to/gate-in-ci.md": {"gate", "baseline", "bench", "pack", "merge"},
        "docs/how-to/onnx-from-elsewhere.md": {"onnx", "bench"},
        "docs/how-to/quantise.md": {"export", "bench", "tables", "tune"},
    }.items(),
)
def test_a_document_shows_a_command_of_every_kind(name: str, kinds: set[str]) -> None:
    assert {shlex.split(command)[0] for command in commands(ROOT / name)} >= kinds


def test_ci_runs_the_test_command_of_the_readme_word_for_word() -> None:
    block = next(block for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL) if "nox" in block)
    assert block.strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_hosted_ci_runs_the_test_command() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"^ +- run: (.*)$", workflow, flags=re.MULTILINE) == [".ci/run"]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_glossary_explains_each_term_once_and_in_one_sentence() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:4] for line in glossary.splitlines() if line.startswith("| ")]
    terms = {term.strip(): meaning.strip() for term, meaning, _ in rows if term.strip() != "term"}
    assert len(terms) == len([term for term, *_ in rows if term.strip() != "term"])
    assert "not measured" in terms
    assert [term for term, meaning in terms.items() if not meaning.endswith(".")] == []


def test_links_in_the_readme_lead_to_files() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_backend_that_runs_onnx_has_its_row() -> None:
    text = (ROOT / "docs" / "reference" / "backends.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"`([^`]+)`", "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    )
    assert set(rows) == {name for name in registry.BACKENDS if "onnx" in registry.backend(name).formats}
