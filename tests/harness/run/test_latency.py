from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from harness.records.record import STAGES, Distribution, distribution
from harness.run.pipeline import latency_stages


def test_percentiles_are_interpolated_between_order_statistics() -> None:
    # Of 0, 10, ..., 100 the k-th percentile is k itself.
    samples = [float(value) for value in range(100, -1, -10)]
    assert distribution(samples) == Distribution(mean=50, p50=50, p90=90, p95=95, p99=99)


def test_an_outlier_moves_the_mean_and_the_tail_but_not_the_median() -> None:
    # Of ten samples p90 lies a tenth of the way from the ninth to the tenth, p99 nine hundredths further on.
    stages = msgspec.structs.astuple(distribution([1.0] * 9 + [101.0]))
    assert stages == pytest.approx((11, 1, 11, 56, 92), rel=1e-12)


def test_percentiles_agree_with_sorting_and_interpolating_by_hand() -> None:
    samples = np.random.default_rng(0).gamma(2, 3, 37)
    ordered = np.sort(samples)
    stages = distribution(list(samples))
    for share, value in ((0.5, stages.p50), (0.9, stages.p90), (0.95, stages.p95), (0.99, stages.p99)):
        low, rest = divmod(share * 36, 1)
        below, above = ordered[int(low)], ordered[int(low) + 1]
        assert value == pytest.approx(below + rest * (above - below), rel=1e-12)


def test_one_sample_is_every_percentile() -> None:
    assert distribution([3.5]) == Distribution(mean=3.5, p50=3.5, p90=3.5, p95=3.5, p99=3.5)


def test_sums_of_stages_are_per_image() -> None:
    stages = latency_stages(decode=[1, 2], preprocess=[10, 20], infer=[100, 200], head=[1000, 2000])
    assert stages == {
        "decode": [1, 2],
        "preprocess": [10, 20],
        "infer": [100, 200],
        "head": [1000, 2000],
        "infer_head": [1100, 2200],
        "total": [1111, 2222],
    }
    assert tuple(stages) == STAGES


def test_unmeasured_stages_and_sums_with_them_are_absent() -> None:
    assert latency_stages(decode=[], preprocess=[], infer=[1], head=[2]) == {
        "infer": [1],
        "head": [2],
        "infer_head": [3],
    }
    assert latency_stages(decode=[], preprocess=[], infer=[], head=[2]) == {"head": [2]}


def test_a_device_stage_is_present_only_if_every_image_has_it() -> None:
    device = [{"compute": 1.0, "d2h": 2.0}, {"compute": 3.0}]
    stages = latency_stages(decode=[], preprocess=[], infer=[5, 5], head=[1, 1], device=device)
    assert stages["compute"] == [1.0, 3.0]
    assert not {"h2d", "d2h"} & set(stages)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("odd", ["decode", "preprocess", "infer", "head"])
def test_stages_of_unequal_counts_are_refused(odd: str, count: int) -> None:
    times: dict[str, Any] = {
        "decode": [1.0, 2.0],
        "preprocess": [1.0, 2.0],
        "infer": [1.0, 2.0],
        "head": [1.0, 2.0],
    }
    with pytest.raises(ValueError, match=r"argument \d is (longer|shorter)"):
        latency_stages(**(times | {odd: [1.0] * count}))
