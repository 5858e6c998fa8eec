"""Sources of a case's network inputs: images, input batches from files, or a replayed record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec
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
class Image:
    """One image, ready for the network."""

    rows: AnyArray
    """(rows, …) as the network takes them: one row, or one per window."""
    frame: UInt8
    """(H, W, C), the picture for the evidence."""
    size: tuple[int, int] | None
    """Height and width of the file; `None` if the image was not read."""
    stages: dict[str, str]
    """As in `harness.records.record.ImageResult`."""
    decode_ms: float | None = None
    preprocess_ms: float | None = None
    """`None` if the rows were not preprocessed here."""


class ImageSource(Protocol):
    """Gives a case's images in their order."""

    rows: tuple[int, ...]
    """Number of rows of each image."""

    def first(self) -> AnyArray:
        """(rows, …) of the first image, to warm up with."""

    def batch(self, start: int, stop: int) -> list[Image]:
        """Images `start` to `stop`; called batch by batch, in order."""


class FromImages:
    """Preprocesses the images here, with their times."""

    def __init__(self, samples: Sequence[Sample], preprocessor: Preprocessor) -> None:
        self._samples = samples
        self._preprocessor = preprocessor
        self.rows = (len(self.first()),) * len(samples)

    def first(self) -> AnyArray:
        """(rows, …) of the first image."""
        return self._preprocessor.rows(self._samples[0].path)

    def batch(self, start: int, stop: int) -> list[Image]:
        """Images `start` to `stop`."""
        return [self._one(sample) for sample in self._samples[start:stop]]

    def _one(self, sample: Sample) -> Image:
        """Time decoding and preprocessing of one image; the digests are computed outside the timed spans."""
        begin = time.perf_counter_ns()
        pixels = self._preprocessor.decode(sample.path)
        decoded = time.perf_counter_ns()
        frame = self._preprocessor.frame(pixels)
        rows = self._preprocessor.windows(self._preprocessor.tensor(frame))
        end = time.perf_counter_ns()
        return Image(
            rows=rows,
            frame=frame,
            size=(pixels.shape[0], pixels.shape[1]),
            stages=batches.stage_digests(pixels, frame, rows),
            decode_ms=(decoded - begin) / 1e6,
            preprocess_ms=(end - decoded) / 1e6,
        )


class FromBatches:
    """Reads the rows from a folder of input batches; the images are read only for the evidence's pictures."""

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

    def batch(self, start: int, stop: int) -> list[Image]:
        """Images `start` to `stop`: one batch of the folder."""
        index = self._folder.index
        batch = self._folder.read(index.batches[start // index.batch_size])
        pieces = np.split(batch, np.cumsum(self.rows[start:stop])[:-1])
        return [
            self._one(sample, image, rows)
            for sample, image, rows in zip(
                self._samples[start:stop], index.images[start:stop], pieces, strict=True
            )
        ]

    def _one(self, sample: Sample, image: batches.Image, rows: AnyArray) -> Image:
        """One image with the digests of the index, if that has any; else with the digest of its rows.

        Raises:
            DatasetError: the index describes other rows.
        """
        digest = batches.input_digest(rows)
        if image.stages and image.stages.get("input") != digest:
            raise DatasetError(
                f"{self._folder.path / batches.INDEX}: its stages of {image.name} are not those of the inputs in its "
                "batch; leave the stages out if another program preprocessed"
            )
        pixels = self._preprocessor.decode(sample.path)
        return Image(
            rows=rows,
            frame=self._preprocessor.frame(pixels),
            size=(pixels.shape[0], pixels.shape[1]),
            stages=image.stages or {"input": digest},
        )


class FromRecord:
    """Takes frames and digests from a record, and rows from its saved outputs, if they contain them."""

    def __init__(self, images: Sequence[ImageResult], frames: UInt8, saved: outputs.Reader) -> None:
        self.rows = saved.rows
        self._images = images
        self._frames = frames
        self._saved = saved
        self._begin = np.concatenate([[0], np.cumsum(saved.rows)]).tolist()

    def first(self) -> AnyArray:
        """(rows, …) of the first image."""
        return self._saved.inputs(0, self._begin[1])

    def batch(self, start: int, stop: int) -> list[Image]:
        """Images `start` to `stop`."""
        return [
            Image(
                rows=self._saved.inputs(self._begin[number], self._begin[number + 1]),
                frame=self._frames[number],
                size=None,
                stages=self._images[number].stages,
            )
            for number in range(start, stop)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundTruth:
    """Ground truth of all test images, read before the first image is scored, so that a bad mask costs no hours."""

    masks: Bool
    """(N, H, W) in the frame of the maps; true is defective."""
    sizes: dict[str, tuple[int, int]]
    """Image name → height and width of its mask file."""
    cut: int
    """Number of masks that lose defective pixels in the crop."""

    def require_fit(self, samples: Sequence[Sample], sizes: Sequence[tuple[int, int]]) -> None:
        """Raise `DatasetError` unless each mask has the size of its image."""
        for sample, size in zip(samples, sizes, strict=True):
            datasets.require_same_size(sample, self.sizes.get(sample.name, size), size)


def read_ground_truth(
    category: Category, case: Case, preprocessor: Preprocessor, *, map_size: tuple[int, int]
) -> GroundTruth:
    """Read every mask and transform it into the frame of the map.

    Raises:
        DatasetError: a mask that cannot be read.
    """
    masks = np.zeros((len(category.test), *map_size), np.bool_)
    sizes: dict[str, tuple[int, int]] = {}
    cut = 0
    for in_frame, sample in zip(masks, category.test, strict=True):
        if sample.mask_path is not None:
            mask = datasets.read_mask(sample.mask_path, threshold=case.mask_threshold)
            in_frame[:], loses_pixels = preprocessor.mask(mask, case.mask_resize)
            sizes[sample.name] = (mask.shape[0], mask.shape[1])
            cut += loses_pixels
    return GroundTruth(masks=masks, sizes=sizes, cut=cut)


def in_its_batches(session: Session, variant: Variant) -> Session:
    """`session` itself, or one that runs the fixed batch of an ONNX variant; OM handles its batch sizes itself."""
    rows = variant.input.shape[0]
    return session if rows is None or variant.format != "onnx" else FixedBatch(session, rows)


class FixedBatch:
    """A session that runs `rows` rows at a time: it repeats the last row to fill a batch, and drops the copies' outputs."""

    def __init__(self, session: Session, rows: int) -> None:
        fixed = {"batches": f"{rows} (a rest is filled up with its last row)"}
        self.report = msgspec.structs.replace(session.report, options=session.report.options | fixed)
        self.device_ms: Mapping[str, float] = {}
        self._session = session
        self._rows = rows

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Outputs of all rows; device times are summed over the runs.

        Raises:
            ArtifactError: the number of rows of an output differs from the batch's.
        """
        parts: dict[str, list[AnyArray]] = {}
        times: dict[str, float] = {}
        for start in range(0, len(batch), self._rows):
            rows = batch[start : start + self._rows]
            filled = np.concatenate([rows, np.repeat(rows[-1:], self._rows - len(rows), axis=0)])
            for name, output in self._session.run(filled).items():
                array = np.atleast_1d(output)  # one number is the score of one image
                if len(array) != self._rows:
                    raise ArtifactError(
                        f"{name!r} has shape {output.shape}: not one row for each of the {self._rows} images of its batch"
                    )
                parts.setdefault(name, []).append(array[: len(rows)])
            for stage, duration_ms in self._session.device_ms.items():
                times[stage] = times.get(stage, 0.0) + duration_ms
        self.device_ms = times
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def close(self) -> None:
        """Release the device."""
        self._session.close()
