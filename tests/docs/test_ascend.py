"""docs/how-to/ascend-card.md names every pyACL call and every `atc` option the code uses."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from exporters.ascend import om
from harness import registry
from harness.build import OmRequest
from harness.detector import artifact
from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TEXT = (DOCS / "reference" / "ascend.md").read_text(encoding="utf-8")
GUIDE = (DOCS / "how-to" / "ascend-card.md").read_text(encoding="utf-8")
ASKED = {"do", "make", "get", "offers"}
PLAIN = {
    "init",
    "finalize",
    "get_soc_name",
    "get_recent_err_msg",
    "create_data_buffer",
    "destroy_data_buffer",
}


def texts(node: ast.expr) -> list[str]:
    """A literal; with `{kind}` in it, one for inputs and one for outputs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [
            "".join(str(part.value) if isinstance(part, ast.Constant) else kind for part in node.values)
            for kind in ("input", "output")
        ]
    return []


def acl_calls() -> set[str]:
    found = set()
    for path in (ROOT / "backends" / "ascend").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.expr):
                found |= {text for text in texts(node) if re.fullmatch(r"(rt|mdl|util|prof|op)\.\w+", text)}
                found |= {text for text in texts(node) if text in PLAIN}
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ASKED
            ):
                found |= {text for text in texts(node.args[0]) if "." in text or text in PLAIN}
    return {name for name in found if not name.endswith("_")}  # the pieces of an f-string


def listed(section: str) -> set[str]:
    table = TEXT.partition(section)[2].partition("\n## ")[0]
    return set(re.findall(r"^\|.*", table, flags=re.MULTILINE))


def test_the_table_lists_the_pyacl_calls_that_are_made_and_no_others() -> None:
    rows = listed("## Every pyACL call")
    table = {call for row in rows for call in re.findall(r"`acl\.([\w.]+)`", row.split("|")[1])}
    assert len(acl_calls()) > 30
    assert table == acl_calls()


def test_every_call_has_its_evidence() -> None:
    rows = [row for row in listed("## Every pyACL call") | listed("## Every `atc` option") if "`" in row]
    assert len(rows) > 40
    assert [row for row in rows if not re.fullmatch(r" [DSC?].*", row.rstrip("|").split("|")[-1])] == []


def test_the_table_lists_the_options_that_atc_is_given_and_no_others(tiny: Tiny) -> None:
    found = artifact.read(tiny.artifact)
    gears = OmRequest(soc="Ascend310", cann="7.0", batches=(1, 4), aipp=True)
    static = OmRequest(soc="Ascend310", cann="7.0")
    said = "\n".join(om.dry_run(found, request, head_in_graph=False) for request in (gears, static))
    given = set(re.findall(r"(?<=\s)(--\w+)=", said)) | set(re.findall(r"(?<=')(--\w+)=", said))
    table = {option for row in listed("## Every `atc` option") for option in re.findall(r"`(--\w+)`", row)}
    assert table == given


def test_every_ascend_backend_is_described() -> None:
    names = [name for name in registry.BACKENDS if "ascend" in name or "cann" in name]
    assert [name for name in names if f"`{name}`" not in GUIDE and f"--backend {name}" not in GUIDE] == []
