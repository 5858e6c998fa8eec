"""Metrics over image scores and anomaly maps: exact, and each group from one sort of its scores."""

from harness.metrics.decisions import PixelDecisions, decision_metrics
from harness.metrics.evaluation import Metrics, image_metrics, merge, pixel_metrics

__all__ = ["Metrics", "PixelDecisions", "decision_metrics", "image_metrics", "merge", "pixel_metrics"]
