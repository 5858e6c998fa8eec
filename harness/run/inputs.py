"""Where a case's network inputs come from: the images, batches that were written before, or a record that is replayed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from harness import datasets
from harness.detector.artifact import Variant
from harness.detector.preprocess import Preprocessor
from harness.errors import ArtifactError, DatasetError
from harness.records import batches, outputs
from harness.records.record import ImageResult
from harness.types import AnyArray, Bool, Case, Category, Sample, UInt8

if TYPE_CHECKING:
    from harness.contracts import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """One image on its way into the network."""

    rows: AnyArray
    """(rows, …), as the network takes them."""
    frame: UInt8
    """(H, W, C), the picture for the evidence."""
    size: tuple[int, int] | None
    """Height and width as stored; `None` where the image was not read."""
    stages: dict[str, str]
    """As in `harness.records.record.ImageResult`."""
    decode_ms: float | None = None
    preprocess_ms: float | None = None
    """`None` where the rows were not made here."""


class Feed(Protocol):
    """Gives the images of a case in their order."""

    rows: tuple[int, ...]
    """How many rows each image has."""

    def first(self) -> AnyArray:
        """(rows, …) of the first image, to warm up with."""

    def batch(self, start: int, stop: int) -> list[Fed]:
        """Images `start` to `stop`; called for one batch after another."""


class FromImages:
    """Preprocesses the images here, timed."""

    def __init__(self, samples: Sequence[Sample], preprocessor: Preprocessor) -> None:
        self._samples = samples
        self._preprocessor = preprocessor
        self.rows = (len(self.first()),) * len(samples)

    def first(self) -> AnyArray:
        """(rows, …) of the first image."""
        frame = self._preprocessor.frame(self._preprocessor.decode(self._samples[0].path))
        return self._preprocessor.windows(self._preprocessor.tensor(frame))

    def batch(self, start: int, stop: int) -> list[Fed]:
        """Images `start` to `stop`."""
        return [self._one(sample) for sample in self._samples[start:stop]]

    def _one(self, sample: Sample) -> Fed:
        """Time the stages of one image; digests are taken outside the timed spans."""
        begin = time.perf_counter_ns()
        pixels = self._preprocessor.decode(sample.path)
        decoded = time.perf_counter_ns()
        frame = self._preprocessor.frame(pixels)
        rows = self._preprocessor.windows(self._preprocessor.tensor(frame))
        end = time.perf_counter_ns()
        return Fed(
            rows=rows,
            frame=frame,
            size=(pixels.shape[0], pixels.shape[1]),
            stages=batches.stage_digests(pixels, frame, rows),
            decode_ms=(decoded - begin) / 1e6,
            preprocess_ms=(end - decoded) / 1e6,
        )


class FromBatches:
    """Takes the rows from a folder of batches; the images are read for the evidence's pictures alone."""

    def __init__(self, samples: Sequence[Sample], preprocessor: Preprocessor, folder: batches.Folder) -> None:
        """Raise `DatasetError` unless the folder lists these images in this order."""
        index = folder.index
        if [image.name for image in index.images] != [sample.name for sample in samples]:
            raise DatasetError(f"{folder.path / batches.INDEX}: lists other images than the data set has")
        self.rows = tuple(image.rows for image in index.images)
        self._samples = samples
        self._preprocessor = preprocessor
        self._folder = folder

    def first(self) -> AnyArray:
        """(rows, …) of the first image."""
        rows = self._folder.read(self._folder.index.batches[0])
        return rows[: self.rows[0]]

    def batch(self, start: int, stop: int) -> list[Fed]:
        """Images `start` to `stop`, which are one batch of the folder."""
        index = self._folder.index
        batch = self._folder.read(index.batches[start // index.batch_size])
        pieces = np.split(batch, np.cumsum(self.rows[start:stop])[:-1])
        return [
            self._one(sample, image, rows)
            for sample, image, rows in zip(
                self._samples[start:stop], index.images[start:stop], pieces, strict=True
            )
        ]

    def _one(self, sample: Sample, image: batches.Image, rows: AnyArray) -> Fed:
        """The stages that the index lists count when it knows the rows; else the rows are all that is known."""
        digest = batches.input_digest(rows)
        if image.stages and image.stages.get("input") != digest:
            raise DatasetError(
                f"{self._folder.path / batches.INDEX}: its stages of {image.name} are of other inputs than its "
                "batch holds; leave the stages out where another program preprocessed"
            )
        pixels = self._preprocessor.decode(sample.path)
        return Fed(
            rows=rows,
            frame=self._preprocessor.frame(pixels),
            size=(pixels.shape[0], pixels.shape[1]),
            stages=image.stages or {"input": digest},
        )


class FromRecord:
    """Takes frames and digests from a record, and rows from its stored outputs, where those kept them."""

    def __init__(self, images: Sequence[ImageResult], frames: UInt8, stored: outputs.Reader) -> None:
        self.rows = stored.rows
        self._images = images
        self._frames = frames
        self._stored = stored
        self._begin = np.concatenate([[0], np.cumsum(stored.rows)]).tolist()

    def first(self) -> AnyArray:
        """(rows, …) of the first image."""
        return self._stored.inputs(0, self._begin[1])

    def batch(self, start: int, stop: int) -> list[Fed]:
        """Images `start` to `stop`."""
        return [
            Fed(
                rows=self._stored.inputs(self._begin[number], self._begin[number + 1]),
                frame=self._frames[number],
                size=None,
                stages=self._images[number].stages,
            )
            for number in range(start, stop)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundTruth:
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


def read_ground_truth(
    category: Category, case: Case, preprocessor: Preprocessor, *, map_size: tuple[int, int]
) -> GroundTruth:
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
    return GroundTruth(masks=masks, sizes=sizes, cut=cut)


def in_its_batches(session: Session, variant: Variant) -> Session:
    """`session` itself, or for an ONNX variant of a fixed batch one that keeps to it; OM has gears of its own."""
    rows = variant.input.shape[0]
    return session if rows is None or variant.format != "onnx" else FixedBatch(session, rows)


class FixedBatch:
    """A session that runs `rows` rows at a time; the last row is repeated to fill a batch, and its copies dropped."""

    def __init__(self, session: Session, rows: int) -> None:
        told = {"batches": f"{rows} (a rest is filled up with its last row)"}
        self.report = replace(session.report, options=session.report.options | told)
        self.device_ms: Mapping[str, float] = {}
        self._session = session
        self._rows = rows

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Outputs of all rows; times of the device are those of all runs together.

        Raises:
            ArtifactError: an output has not one row for each of the batch.
        """
        parts: dict[str, list[AnyArray]] = {}
        times: dict[str, float] = {}
        for start in range(0, len(batch), self._rows):
            rows = batch[start : start + self._rows]
            filled = np.concatenate([rows, np.repeat(rows[-1:], self._rows - len(rows), axis=0)])
            for name, given in self._session.run(filled).items():
                array = np.atleast_1d(given)  # one number is the score of one image
                if len(array) != self._rows:
                    raise ArtifactError(
                        f"{name!r} has shape {given.shape}: not one row for each of the {self._rows} images of its batch"
                    )
                parts.setdefault(name, []).append(array[: len(rows)])
            for stage, taken in self._session.device_ms.items():
                times[stage] = times.get(stage, 0.0) + taken
        self.device_ms = times
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def close(self) -> None:
        """Release the device."""
        self._session.close()
