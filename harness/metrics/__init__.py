"""Metrics over image scores and anomaly maps: exact, and each group from one sort of its scores."""

from harness.metrics.evaluation import Metrics, image_metrics, merge, pixel_metrics

__all__ = ["Metrics", "image_metrics", "merge", "pixel_metrics"]
