"""Metrics over image scores and anomaly maps, exact, each group from one sort of its scores; and their intervals.

All functions take plain arrays: scores (N,), labels (N,) with 0 good and 1 defective, maps and masks (N, H, W).
"""

from harness.metrics.decisions import PixelDecisions, decision_metrics
from harness.metrics.evaluation import Metrics, image_metrics, merge, pixel_metrics
from harness.metrics.intervals import (
    Interval,
    NoInterval,
    auroc_difference,
    auroc_interval,
    non_inferior,
    pixel_differences,
)

__all__ = [
    "Interval",
    "Metrics",
    "NoInterval",
    "PixelDecisions",
    "auroc_difference",
    "auroc_interval",
    "decision_metrics",
    "image_metrics",
    "merge",
    "non_inferior",
    "pixel_differences",
    "pixel_metrics",
]
