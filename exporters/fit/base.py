"""The contract of a built-in learner: good images in, network and fitted state out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from harness.build import FitRequest
from harness.contracts import Images, Learnt
from harness.types import Float32


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

        `unseen` are good images held out for the thresholds: only numerical choices may be checked on them.
        """
