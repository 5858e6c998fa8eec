"""The contract of a learner: good images in, network and fitted state out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from exporters.train.loop import TrainingLog
from harness.build import FitRequest
from harness.detector.artifact import HeadSpec
from harness.detector.preprocess import Preprocessor
from harness.types import AnyArray, Float32, Sample

BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What a learner made."""

    run: Callable[[Float32], dict[str, AnyArray]]
    """The network as fitted: input batch → outputs by name."""
    net: Mapping[str, AnyArray]
    """The network's parameters."""
    state: Mapping[str, AnyArray]
    head: HeadSpec
    report: Mapping[str, Any]
    """What a person wants to know of this fit: sizes, bounds, choices."""
    training: TrainingLog | None = None
    """How the training went; none for a detector that is fitted without gradients."""
    pixel_quantile: float = 0.995
    """Of the held-out good maps: the pixel threshold."""
    pixel_threshold: float | None = None
    """A pixel threshold that was given, in place of the quantile."""


class Learner(Protocol):
    """One per detector, named in `harness.registry.LEARNERS`."""

    def __call__(
        self,
        request: FitRequest,
        weights: Mapping[str, Float32],
        images: Images,
        unseen: Images,
    ) -> Learnt:
        """Learn from `images`, showing progress.

        `unseen` are the good images held out for the thresholds: nothing is learnt from them, but numerical choices may
        be checked on them.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Good images, decoded and preprocessed as they are asked for."""

    samples: Sequence[Sample]
    preprocessor: Preprocessor

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.samples)

    def tensors(self) -> Float32:
        """All images at once: float32 (N, C, H, W), no windows cut; 0.8 MB for each of 3 × 256 × 256 pixels."""
        read = self.preprocessor
        return np.stack([read.tensor(read.frame(read.decode(sample.path))) for sample in self.samples])

    def batches(self, size: int = BATCH) -> Iterator[tuple[Float32, int]]:
        """Batches of network inputs for `size` images, float32 (size · windows, C, h, w), and how many images are real.

        The last batch repeats its last image to keep the shape: every new shape would compile the network again.
        """
        for start in range(0, len(self.samples), size):
            chunk = self.samples[start : start + size]
            rows = [self.preprocessor.rows(sample.path) for sample in chunk]
            yield np.concatenate(rows + rows[-1:] * (size - len(chunk))), len(chunk)
