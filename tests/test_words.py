"""Names and words of the house: no empty names for variables, and the glossary's words instead of those they replaced.

`words_allowed.json` counts what was there when this test was written; it only shrinks. Write it anew: `python tests/test_words.py`.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = Path(__file__).with_name("words_allowed.json")
EMPTY_NAMES = frozenset({"found", "made", "of", "told", "asked", "given", "item"})
REPLACED = {
    "lower": r"\blowerings?\b|\blower(s|ed)? (the |its |a )?precision|\blowered\b",
    "front": r"(?<!Pareto )(?<!-)\bfronts?\b(?! (of|end))",
    "truth": r"(?<!ground )(?<!ground-)\btruths?\b",
    "trial": r"\btrials?\b",
    "elsewhere": r"\bforeign\b|\bstrangers?\b",
    "pair": r"\bcounterparts?\b|\bfellows?\b",
    "file exchange": r"\bfile road\b",
    "differ": r"\bparts? ways\b|\b(backends|sides|two) part\b",
    "faulty": r"\bailing\b",
}
CODE = re.compile(r"```.*?```|`[^`\n]*`", flags=re.DOTALL)


def sources() -> list[Path]:
    folders = ("harness", "exporters", "backends", "benchmarks", "tests", "examples")
    return [
        path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")) if path != Path(__file__)
    ]


def documents() -> list[Path]:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in pages if page.name != "glossary.md"]


def names(tree: ast.AST) -> Iterator[str]:
    """Every name that is assigned, a parameter, a loop's, a pattern's or an error's; a Struct's fields are names in files."""
    fields = {
        id(line.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any("Struct" in ast.unparse(base) for base in node.bases)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        if id(node) in fields:
            continue
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            yield node.name


def prose(text: str) -> Iterator[str]:
    """Comments, docstrings and messages of a module; a string without a blank is a name, and names may be data."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.value


def replaced(texts: Iterator[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        plain = CODE.sub("", text)
        counts.update({word: len(re.findall(pattern, plain)) for word, pattern in REPLACED.items()})
    return +counts


def offences() -> dict[str, dict[str, int]]:
    counts = {}
    for path in sources():
        text = path.read_text(encoding="utf-8")
        empty = Counter(name for name in names(ast.parse(text)) if name in EMPTY_NAMES)
        counts[path] = empty + replaced(prose(text))
    for path in documents():
        counts[path] = replaced(iter([path.read_text(encoding="utf-8")]))
    return {
        path.relative_to(ROOT).as_posix(): dict(sorted(count.items()))
        for path, count in counts.items()
        if count
    }


def test_a_file_has_no_more_empty_names_and_replaced_words_than_when_they_were_counted() -> None:
    allowed = json.loads(ALLOWED.read_text(encoding="utf-8")) if ALLOWED.exists() else {}
    more = {
        f"{path}: {word}": count
        for path, words in offences().items()
        for word, count in words.items()
        if count > allowed.get(path, {}).get(word, 0)
    }
    assert more == {}


@pytest.mark.parametrize(
    "text", ["for item in items: ...", "def f(found): ...", "(asked := 1)", "x = lambda of: 1"]
)
def test_an_empty_name_is_seen_wherever_it_is_bound(text: str) -> None:
    assert EMPTY_NAMES & set(names(ast.parse(text)))


def test_a_structs_fields_are_names_in_files_and_stay() -> None:
    assert set(names(ast.parse("class Bound(msgspec.Struct):\n    of: str"))) == set()
    assert set(names(ast.parse("class Bound:\n    of: str"))) == {"of"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("the front of it is a front", "front"),
        ("agrees with the truth", "truth"),
        ("where two sides part", "differ"),
    ],
)
def test_a_replaced_word_is_seen(text: str, word: str) -> None:
    assert word in replaced(iter([text]))


@pytest.mark.parametrize(
    "text", ["the Pareto front", "ground truth", "`--front aupro`", "the option --front"]
)
def test_the_glossarys_words_are_not_taken_for_what_they_replaced(text: str) -> None:
    assert not replaced(iter([text]))


if __name__ == "__main__":
    ALLOWED.write_text(json.dumps(offences(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
