"""Latency: every sample kept, percentiles as the field reports them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.records.record import DEVICE_STAGES, Distribution


def distribution(samples_ms: Sequence[float]) -> Distribution:
    """Mean and percentiles (linear interpolation between order statistics) of at least one sample in ms."""
    values = np.asarray(samples_ms, np.float64)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(values, [50, 90, 95, 99]))
    return Distribution(mean=float(values.mean()), p50=p50, p90=p90, p95=p95, p99=p99)


def stages(
    decode: Sequence[float],
    preprocess: Sequence[float],
    infer: Sequence[float],
    head: Sequence[float],
    device: Sequence[Mapping[str, float]] = (),
) -> Mapping[str, list[float]]:
    """Stages of `harness.records.record.STAGES` and `DEVICE_STAGES` from those that were measured, in ms per image.

    An empty sequence was not measured; a sum without one of its parts is left out, and so is a stage of `device` that
    is not given for every image.
    """
    measured = {"decode": decode, "preprocess": preprocess, "infer": infer, "head": head}
    found = {name: list(values) for name, values in measured.items() if values}
    if infer:
        found["infer_head"] = [a + b for a, b in zip(infer, head, strict=True)]
    if infer and decode:
        found["total"] = [a + b + c for a, b, c in zip(decode, preprocess, found["infer_head"], strict=True)]
    given = [name for name in DEVICE_STAGES if device and all(name in item for item in device)]
    return found | {name: [item[name] for item in device] for name in given}
