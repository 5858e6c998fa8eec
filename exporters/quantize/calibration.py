"""Good images of the training set as a network's input: what ranges are measured and models compared on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harness.detector.artifact import Artifact, Variant
from harness.detector.preprocess import Preprocessor
from harness.types import AnyArray, Sample

ROWS = 4
"""Inputs of the network run at once."""


def spread(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """`count` of them, or all that there are, evenly spread."""
    chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[index] for index in chosen]


def batches(artifact: Artifact, variant: Variant, samples: Sequence[Sample]) -> Iterator[AnyArray]:
    """The network's inputs, at most `ROWS` rows at a time; never rows of two images in one."""
    preprocessor = Preprocessor(artifact.manifest.preprocessing, until=variant.input_stage)
    for sample in samples:
        rows = preprocessor.rows(sample.path)
        for start in range(0, len(rows), ROWS):
            yield rows[start : start + ROWS]
