"""The report as lines and as JSON."""

from __future__ import annotations

import json

import msgspec
import numpy as np

from harness import parity
from harness.contracts import DeviceReport
from tests.harness.parity.pairs import (
    noisy,
    with_pixel,
    with_score,
)
from tests.harness.record_factory import Results, images, outputs


def test_the_json_document_begins_with_the_verdict_and_holds_no_nan(results: Results) -> None:
    broken = with_pixel(outputs(defective=0), (1, 0, 0), np.nan)
    results.add("reference", broken)
    results.add("other", broken)
    report = parity.parity(results.folder, reference="reference")
    text = json.dumps(report.to_json(), allow_nan=False)
    assert text.startswith('{"verdict": "failed"')
    assert json.loads(text)["pairs"][0]["reference"]["backend"] == "reference"


def test_the_lines_show_what_was_compared_the_differences_and_the_verdict_last(results: Results) -> None:
    base = with_score(outputs(), 4, 2.5009)
    results.add("reference", base)
    results.add("other", with_score(base, 4, 2.49999))
    simulated = DeviceReport(device="NPU", runtime={}, options={}, simulated=True)
    results.add("model", with_pixel(base, (0, 0, 0), 3.0), device=simulated)
    results.add("dead", outputs(), status="failed", reason="killed by signal 9")
    text = parity.lines(parity.parity(results.folder, reference="reference"))
    for expected in (
        "other (onnx-fp32, batch 1, 1 threads)",
        "model (SIMULATED, not hardware) (onnx-fp32",
        "≤ 1e-03",
        "✓ 9.1e-04",
        "test/crack/004.png (defective) flips: 2.5009 → 2.49999 at threshold 2.5",
        "not compared: dead failed: killed by signal 9",
        "maps: 1 of 8 images differ by more than 0.001, most test/good/000.png",
    ):
        assert any(expected in line for line in text), expected
    assert text[-1] == "parity failed: 1 of 3 comparisons with reference passed"


def test_levels_that_were_not_measured_are_marked_in_the_lines(results: Results) -> None:
    base = outputs(defective=0)
    bare = tuple(msgspec.structs.replace(image, stages={}) for image in images(base))
    results.add("reference", base, images=bare, evidence=None)
    results.add("other", base, images=bare, evidence=None)
    results.add("other", base, case={"category": "cable"})
    text = "\n".join(parity.lines(parity.parity(results.folder, reference="reference")))
    assert text.count("? –") == 3
    assert "not compared: padim resnet18 on mvtec: other has records of cable" in text
    assert text.endswith("parity not measured: 0 of 1 comparisons with reference passed, 1 could not be made")


def test_messages_tell_the_variants_of_one_backend_apart(results: Results) -> None:
    base = outputs()
    results.add("a", base, case={"variant": "onnx-fp32"})
    wrong = np.where(base.maps > 0.5, np.nan, base.maps).astype(np.float32)
    results.add(
        "a",
        outputs().__class__(scores=base.scores, labels=base.labels, maps=wrong, masks=base.masks),
        case={"variant": "onnx-int8"},
        model_sha256="f" * 64,
    )
    lines = parity.lines(parity.parity(results.folder, reference="a:onnx-fp32"))
    assert any("a (onnx-int8)" in line and "NaN" in line for line in lines)


def test_the_lines_show_the_interval_of_a_change(results: Results) -> None:
    results.add("reference", noisy(4, 0.1))
    results.add("other", noisy(4, 0.0))
    text = "\n".join(parity.lines(parity.parity(results.folder, reference="reference")))
    assert "pixel AUROC 0." in text
    assert "95% interval -" in text
    assert "percentile bootstrap of 2000 resamples" in text
