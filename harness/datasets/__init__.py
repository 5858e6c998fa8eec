"""Reads, finds, checks and synthesises images with their ground truth."""

from harness.datasets.images import read_image, read_mask
from harness.datasets.mvtec import (
    fingerprint,
    list_categories,
    load_category,
    read_mask_for,
    require_same_size,
)

__all__ = [
    "fingerprint",
    "list_categories",
    "load_category",
    "read_image",
    "read_mask",
    "read_mask_for",
    "require_same_size",
]
