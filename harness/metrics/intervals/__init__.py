"""Confidence intervals of metrics and of their differences, and the non-inferiority verdict over them.

All take the test images for a sample of the images to come. Where many images differ a little, an interval can be narrow;
it then takes for granted that what no test image shows, one image in a hundred that breaks wholly, does not happen.
"""

from harness.metrics.intervals.base import Interval, NoInterval, non_inferior
from harness.metrics.intervals.images import auroc_difference, auroc_interval
from harness.metrics.intervals.pixels import pixel_differences

__all__ = [
    "Interval",
    "NoInterval",
    "auroc_difference",
    "auroc_interval",
    "non_inferior",
    "pixel_differences",
]
