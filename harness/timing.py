"""Latency: every sample kept, percentiles as the field reports them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.record import Distribution


def distribution(samples_ms: Sequence[float]) -> Distribution:
    """Mean and percentiles (linear interpolation between order statistics) of at least one sample in ms."""
    values = np.asarray(samples_ms, np.float64)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(values, [50, 90, 95, 99]))
    return Distribution(mean=float(values.mean()), p50=p50, p90=p90, p95=p95, p99=p99)


def stages(
    decode: Sequence[float], preprocess: Sequence[float], infer: Sequence[float], head: Sequence[float]
) -> Mapping[str, list[float]]:
    """All stages of `harness.record.STAGES` from the four that are measured, in ms per image."""
    infer_head = [a + b for a, b in zip(infer, head, strict=True)]
    total = [a + b + c for a, b, c in zip(decode, preprocess, infer_head, strict=True)]
    measured = {
        "decode": list(decode),
        "preprocess": list(preprocess),
        "infer": list(infer),
        "head": list(head),
    }
    return measured | {"infer_head": infer_head, "total": total}
