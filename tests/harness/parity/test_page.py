"""The page to sign."""

from __future__ import annotations

import msgspec

from harness import parity
from harness.parity import page
from tests.harness.record_factory import Results, outputs


def rows(results: Results) -> dict[str, str]:
    """Return label → text of the table of values that both records share."""
    report = parity.parity(results.folder, reference="reference")
    path = results.folder / "page.md"
    page.write(results.folder, report, path)
    table = path.read_text().partition("both records")[2].partition("\n\n")[0]
    cells = [line.strip("| ").split(" | ", 1) for line in table.splitlines()[2:]]
    return {cell[0]: cell[1] for cell in cells}


def test_values_that_the_records_share_are_shown_once(results: Results) -> None:
    results.compared(outputs(), outputs())
    shown = rows(results)
    assert shown["weights"] == f"random, {'0' * 64}"
    assert shown["test images"] == f"4 good, 4 defective, fingerprint {'f' * 64}"
    assert shown["ground truth"] == "grey values above 127, nearest; the crop cuts 0 masks, empties 0"
    assert not any("reference: " in text for text in shown.values())


def test_both_values_are_shown_if_the_records_differ(results: Results) -> None:
    record = results.add("reference", outputs())
    assert record.data is not None
    results.add(
        "other",
        outputs(),
        data=msgspec.structs.replace(record.data, fingerprint="9" * 64),
        weights=msgspec.structs.replace(record.weights, source="other.pth"),
    )
    shown = rows(results)
    assert shown["weights"] == f"reference: random, {'0' * 64}; candidate: other.pth, {'0' * 64}"
    images = "4 good, 4 defective, fingerprint"
    assert shown["test images"] == f"reference: {images} {'f' * 64}; candidate: {images} {'9' * 64}"
    assert shown["compared"] == "8 images"


def test_a_failed_record_is_shown_too(results: Results) -> None:
    results.add("reference", outputs())
    results.add("other", outputs(), status="failed", reason="killed", data=None, device=None)
    shown = rows(results)
    assert shown["test images"].endswith("; candidate: unknown")
