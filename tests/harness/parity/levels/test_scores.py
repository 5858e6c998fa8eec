"""The level of scores."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import numpy as np
import pytest

from harness import parity
from harness.parity import (
    compare,
)
from tests.harness.parity.pairs import (
    failing,
    messages,
    numbers,
    verdicts,
    with_score,
)
from tests.harness.record_factory import Results, outputs


@pytest.mark.parametrize(
    ("change", "failed"), [(0.999e-3, set()), (1.001e-3, {"scores"}), (-1.001e-3, {"scores"})]
)
def test_a_score_may_change_by_a_thousandth_of_the_range_of_good_scores(
    results: Results, change: float, failed: set[str]
) -> None:
    base = outputs()
    pair = results.compared(base, with_score(base, 6, base.scores[6] + change))
    assert failing(pair) == failed
    assert pair.verdict == ("failed" if failed else "passed")
    assert numbers(pair, "scores")["tolerance_needed"] == pytest.approx(abs(change))
    assert numbers(pair, "scores")["mean_difference"] == pytest.approx(abs(change) / 8)


def test_the_range_is_of_the_references_good_scores_alone(results: Results) -> None:
    base = outputs()
    wider = dataclasses.replace(base, scores=np.where(base.labels == 0, base.scores * 3 - 3, base.scores + 5))
    assert numbers(results.compared(base, wider), "scores")["range_of_good_scores"] == 1.0
    assert numbers(results.compared(wider, base), "scores")["range_of_good_scores"] == 3.0


@pytest.mark.parametrize("scores", [[3, 3.1, 3.2, 3.3], [1, 1, 3, 3.1]])
def test_without_a_range_of_good_scores_scores_and_maps_are_not_measured(
    results: Results, scores: list[float]
) -> None:
    labels = np.array([1, 1, 1, 1] if scores[0] == 3 else [0, 0, 1, 1])
    base = dataclasses.replace(outputs(good=2, defective=2), scores=np.array(scores), labels=labels)
    pair = results.compared(base, base)
    assert pair.verdict == "not measured"
    assert verdicts(pair)["scores"] == verdicts(pair)["maps"] == "not measured"
    assert "no scale" in messages(pair, "scores")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308])
def test_scores_that_are_not_finite_fail_even_if_both_records_agree(results: Results, value: float) -> None:
    records = [results.add(name, outputs()) for name in ("reference", "other")]
    odd = msgspec.structs.replace(records[0].images[3], score=value)
    one, two = (
        msgspec.structs.replace(record, images=(*record.images[:3], odd, *record.images[4:]))
        for record in records
    )
    pair = compare(results.folder, one, two)
    assert (pair.verdict, failing(pair)) == ("failed", {"scores"})
    assert verdicts(pair)["decisions"] == "not measured"
    json.dumps(msgspec.to_builtins(pair), allow_nan=False)


def test_rank_correlation_of_constant_scores_is_absent_with_its_reason(
    results: Results,
) -> None:
    flat = dataclasses.replace(outputs(), scores=np.full(8, 1.5))
    pair = results.compared(outputs(), flat)
    assert numbers(pair, "scores")["rank_correlation"] is None
    assert "rank correlation undefined" in messages(pair, "scores")


def test_one_good_image_that_alone_widens_the_range_is_named(results: Results) -> None:
    wild = outputs()
    scores = wild.scores.copy()
    scores[0] = 40.0
    wide = dataclasses.replace(wild, scores=scores)
    pair = parity.compare(results.folder, results.add("reference", wide), results.add("other", wide))
    (level,) = (level for level in pair.levels if level.name == "scores")
    assert any("alone widens the range of good scores" in message for message in level.messages)
    (plain,) = (
        level
        for level in parity.compare(
            results.folder, results.add("reference", outputs()), results.add("third", outputs())
        ).levels
        if level.name == "scores"
    )
    assert not any("alone widens" in message for message in plain.messages)
