"""Frozen values that the packages pass to each other.

`Case → Sample → batch → {name: array} → Scores → Metrics → Record → Table | ParityReport`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Device = Literal["cpu", "ascend", "gpu"]
MaskResize = Literal["nearest", "bilinear_truncated", "area_truncated", "dilated"]
"""How ground truth is transformed into the frame of the map; see `harness.detector.preprocess.Preprocessor.mask`."""
Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]
AnyArray = NDArray[Any]
Verdict = Literal["passed", "failed", "not measured"]
MARKS: dict[Verdict, str] = {"passed": "✓", "failed": "✗", "not measured": "?"}


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Combine verdicts: failed beats not measured beats passed; no verdicts at all are not measured."""
    distinct = set(verdicts)
    if "failed" in distinct:
        return "failed"
    return "passed" if distinct == {"passed"} else "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image file of a category."""

    name: str
    """Identity of the image: posix path relative to the category folder, `test/broken_large/000.png`."""
    path: Path
    label: int
    """0 good, 1 defective."""
    defect: str
    """`good`, or the name of the defect folder."""
    mask_path: Path | None
    """Ground truth; `None` exactly for good images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One category of a data set; a detector is fitted and scored on one."""

    name: str
    root: Path
    """The category folder."""
    train: tuple[Sample, ...]
    """Good images only, sorted by name."""
    test: tuple[Sample, ...]
    """Good and defective images, sorted by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A head's scores for one batch; higher means more anomalous."""

    maps: Float32
    """(N, H, W), one anomaly score per pixel of the preprocessed frame; (N, 0, 0) if the detector gives no maps."""
    images: Float32
    """(N,), one anomaly score per image."""


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement's settings, with defaults written out: cases are run, recorded, resumed and compared."""

    detector: str
    backbone: str
    category: str
    backend: str
    variant: str
    """Id of the artifact's variant that ran, `onnx-fp32`."""
    dataset: str
    """Name of the data set: the folder that holds the categories."""
    batch_size: int = 1
    threads: int = 1
    """CPU cores the worker was pinned to; also the runtime's thread count."""
    warmup: int = 3
    """Untimed inferences before the first timed one."""
    mask_threshold: int = 127
    """A mask pixel is defective when its grey value is greater."""
    mask_resize: MaskResize = "nearest"
    suite: str | None = None
    """The suite the case belongs to; its detector was fitted with that suite's settings."""
    source: str | None = None
    """What came from files instead of being computed: the runner of the replayed record, the digest of the input
    batches, or the label of the scored outputs."""

    @property
    def runner(self) -> str:
        """Backend and, in brackets, `source`: distinguishes reference and candidate."""
        return self.backend if self.source is None else f"{self.backend} ({self.source})"
