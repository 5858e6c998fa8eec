"""The level of decisions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness import parity
from tests.harness.parity.pairs import (
    failing,
    messages,
    verdicts,
    with_score,
)
from tests.harness.record_factory import Results, outputs


@pytest.mark.parametrize(("score", "other"), [(2.5009, 2.49999), (2.4991, 2.50001), (2.5, 2.5000001)])
def test_a_flip_within_tolerance_of_the_threshold_is_a_warning(
    results: Results, score: float, other: float
) -> None:
    pair = results.compared(with_score(outputs(), 4, score), with_score(outputs(), 4, other))
    assert pair.verdict == "passed"
    assert messages(pair, "decisions").startswith("warning")
    (flip,) = pair.flips
    assert (flip.image, flip.label, flip.tolerated) == ("test/crack/004.png", 1, True)
    assert flip.margin == pytest.approx(abs(score - 2.5))


@pytest.mark.parametrize(("score", "other"), [(2.5011, 2.4999), (2.4989, 2.5001), (2.6, 2.4)])
def test_a_flip_beyond_tolerance_fails_and_names_the_image(
    results: Results, score: float, other: float
) -> None:
    pair = results.compared(with_score(outputs(), 4, score), with_score(outputs(), 4, other))
    assert verdicts(pair)["decisions"] == "failed"
    assert "test/crack/004.png (defective) flips" in messages(pair, "decisions")
    assert not pair.flips[0].tolerated


def test_one_tolerated_flip_does_not_excuse_another(results: Results) -> None:
    before, after = (
        with_score(with_score(outputs(), 4, one), 5, two) for one, two in ((2.5001, 2.6), (2.4999, 2.4))
    )
    pair = results.compared(before, after)
    assert [flip.tolerated for flip in pair.flips] == [True, False]
    assert verdicts(pair)["decisions"] == "failed"


def test_an_image_that_scores_the_threshold_is_good_in_both_records(results: Results) -> None:
    assert results.compared(with_score(outputs(), 4, 2.5), with_score(outputs(), 4, 2.4999)).flips == ()


def test_without_a_range_no_flip_is_tolerated(results: Results) -> None:
    base = dataclasses.replace(outputs(good=2, defective=2), scores=np.array([1, 1, 2.5000001, 3]))
    assert failing(results.compared(base, with_score(base, 2, 2.4999999))) == {"decisions"}


@pytest.mark.parametrize("variant", ["onnx-fp32", "onnx-fp16", "onnx-int8"])
@pytest.mark.parametrize(("above", "verdict"), [(0.0009, "passed"), (0.0011, "failed")])
def test_no_precision_tolerates_a_flip_beyond_float32s_tolerance(
    results: Results, variant: str, above: float, verdict: str
) -> None:
    base = outputs()  # the range of good scores is 1, the threshold 2.5
    base.scores[4] = 2.5 + above
    moved = dataclasses.replace(base, scores=base.scores.copy())
    moved.scores[4] = 2.4999
    results.add("reference", base)
    results.add("board", moved, case={"variant": variant})
    (pair,) = parity.parity(results.folder, reference="reference").pairs
    (decisions,) = [level for level in pair.levels if level.name == "decisions"]
    assert (decisions.verdict, decisions.numbers["flips"]) == (verdict, 1)
