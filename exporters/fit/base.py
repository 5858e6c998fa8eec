"""The contract of a learner: good images in, network and fitted state out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from harness.artifact import HeadSpec
from harness.preprocess import Preprocessor
from harness.progress import Advance
from harness.types import AnyArray, FitRequest, Float32, Sample

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


class Learner(Protocol):
    """One per detector, named in `harness.registry.LEARNERS`."""

    def __call__(
        self,
        request: FitRequest,
        weights: Mapping[str, Float32],
        images: Images,
        unseen: Images,
        advance: Advance,
    ) -> Learnt:
        """Learn from `images`, calling `advance` with the number of images done.

        `unseen` are the good images held out for the thresholds: nothing is learnt from them, but numerical choices may
        be checked on them.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Good images, decoded and preprocessed as they are asked for."""

    samples: Sequence[Sample]
    preprocessor: Preprocessor

    def batches(self, size: int = BATCH) -> Iterator[tuple[Float32, int]]:
        """Batches float32 (size, 3, H, W) and how many of their rows are images.

        The last batch repeats its last image to keep the shape: every new shape would compile the network again.
        """
        for start in range(0, len(self.samples), size):
            chunk = self.samples[start : start + size]
            tensors = [self._tensor(sample) for sample in chunk]
            tensors += tensors[-1:] * (size - len(chunk))
            yield np.stack(tensors), len(chunk)

    def _tensor(self, sample: Sample) -> AnyArray:
        return self.preprocessor.tensor(self.preprocessor.frame(self.preprocessor.decode(sample.path)))
