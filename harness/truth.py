"""Ground truth of the test images, in the frame of the maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness import datasets
from harness.detector.preprocess import Preprocessor
from harness.types import Bool, Case, Category, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Ground truth of all test images, read before the first of them is scored: a bad mask costs no hours."""

    masks: Bool
    """(N, H, W) in the frame of the maps."""
    sizes: dict[str, tuple[int, int]]
    """Image name → height and width of its mask as stored."""
    cut: int
    """Masks that lose defective pixels to the crop."""

    def require_fit(self, samples: Sequence[Sample], sizes: Sequence[tuple[int, int]]) -> None:
        """Raise `DatasetError` unless each mask is as large as its image."""
        for sample, size in zip(samples, sizes, strict=True):
            datasets.require_same_size(sample, self.sizes.get(sample.name, size), size)


def read(category: Category, case: Case, preprocessor: Preprocessor, *, map_size: tuple[int, int]) -> Truth:
    """Read every mask and bring it into the frame of the map.

    Raises:
        DatasetError: a mask that cannot be read.
    """
    masks = np.zeros((len(category.test), *map_size), np.bool_)
    sizes: dict[str, tuple[int, int]] = {}
    cut = 0
    for framed, sample in zip(masks, category.test, strict=True):
        if sample.mask_path is not None:
            mask = datasets.read_mask(sample.mask_path, threshold=case.mask_threshold)
            framed[:], loses = preprocessor.mask(mask, case.mask_resize)
            sizes[sample.name] = (mask.shape[0], mask.shape[1])
            cut += loses
    return Truth(masks=masks, sizes=sizes, cut=cut)
