"""Images and their ground truth: read, found, checked and synthesised."""

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
