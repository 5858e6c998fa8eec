"""A folder of input batches for programs outside the harness; `score` and `bench --inputs` read it too.

`index.json` says what lies in `batches/` and digests it. A batch is one array with the rows of consecutive images, padded
by its last row where the network's batch is fixed. Its file's name holds the start of its digest, so that the outputs a
runner names after it cannot be taken for those of other inputs. docs/reference/file-formats.md describes the format.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from harness import __version__, datasets, storage
from harness.detector.artifact import Artifact, TensorSpec, Variant
from harness.detector.preprocess import Preprocessor
from harness.errors import DatasetError, UsageError
from harness.types import AnyArray, Category, Sample

SCHEMA = 1
INDEX = "index.json"
FOLDER = "batches"

Format = Literal["npy", "bin"]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Batch(_Strict, frozen=True, kw_only=True):
    """One file."""

    file: str
    """Path below the folder of the index."""
    sha256: _Sha256
    """Of the file."""
    rows: _Count
    """The network's input rows, padding included."""
    real_rows: _Count
    """Rows that belong to images; they come first."""


class Image(_Strict, frozen=True, kw_only=True):
    """One test image, in the order of the rows."""

    name: str
    rows: _Count
    stages: dict[str, str] = {}
    """As in a record (`harness.records.record.ImageResult`); empty where another program preprocessed."""


class Index(_Strict, frozen=True, kw_only=True):
    """The contents of `index.json`; unknown keys are refused."""

    schema: int
    harness: str
    """Version that wrote it, or the name of another program."""
    detector_sha256: str
    artifact_sha256: str
    category: str
    data_fingerprint: str
    """Of the test images, as in a record."""
    variant: str
    input: TensorSpec
    """Of the variant; `.bin` files hold its dtype in C order, little-endian."""
    input_stage: str
    """Last preprocessing step that is already done."""
    layout: Literal["NCHW", "NHWC"]
    format: Format
    batch_size: _Count
    """Images per batch; the last may hold fewer."""
    batches: Annotated[tuple[Batch, ...], msgspec.Meta(min_length=1)]
    images: Annotated[tuple[Image, ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """An opened folder of batches, whose index has been read and checked; the batches are checked when they are read."""

    path: Path
    index: Index
    sha256: str
    """Of the index, which holds the digests of all batches."""

    def read(self, batch: Batch) -> AnyArray:
        """Rows of one batch without the padding.

        Raises:
            DatasetError: the file is missing, altered, or of another type or shape than the index says.
        """
        path = storage.inside(self.path, batch.file, DatasetError)
        again = "write the inputs again: python -m harness inputs"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror}); {again}") from error
        if hashlib.sha256(data).hexdigest() != batch.sha256:
            raise DatasetError(f"{path}: altered since {INDEX} was written; {again}")
        spec = self.index.input
        array = array_from_bytes(path, data, [spec.dtype], (batch.rows, *row_shape(spec)))
        return array[: batch.real_rows]


def array_from_bytes(path: Path, data: bytes, dtypes: Sequence[str], shape: tuple[int, ...]) -> AnyArray:
    """The array in the bytes of a `.npy` or `.bin` file, which must be of exactly this shape.

    A `.npy` file says which of `dtypes` it holds; a `.bin` file holds the first of them.

    Raises:
        DatasetError: it is not.
    """
    if path.suffix == ".npy":
        try:
            holds, dtype = _header(data)
            if dtype.name in dtypes and holds == shape:  # before anything is allocated
                return np.ascontiguousarray(np.load(io.BytesIO(data), allow_pickle=False))
        except (ValueError, EOFError, OSError) as error:
            raise DatasetError(f"{path}: not an array in NumPy's format ({error})") from error
        raise DatasetError(f"{path}: holds {dtype.name} {holds}, expected {' or '.join(dtypes)} {shape}")
    name = dtypes[0]
    expected = int(np.prod(shape)) * np.dtype(name).itemsize
    if len(data) != expected:
        which = "short" if len(data) < expected else "long"
        raise DatasetError(f"{path}: too {which}: {len(data)} bytes, expected {expected} for {name} {shape}")
    return np.frombuffer(data, np.dtype(name).newbyteorder("<")).astype(name).reshape(shape)


def _header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that a `.npy` file claims to hold; raises `ValueError` for anything else."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]}")
    shape, _, dtype = readers[version](stream)  # type: ignore[no-untyped-call]
    return shape, dtype


def write(
    artifact: Artifact,
    variant: Variant,
    category: Category,
    folder: Path,
    *,
    batch_size: int | None,
    format_: Format,
) -> Index:
    """Preprocess the test images into batches below `folder`, which need not exist.

    Args:
        artifact: Whose preprocessing.
        variant: Up to which step, and in which batches.
        category: Whose test images.
        folder: Gets `index.json` and `batches/`.
        batch_size: Images per batch; the most that the variant takes when not given, 1 where it takes any.
        format_: Of the files.

    Raises:
        UsageError: more rows per batch than the variant was compiled for.
    """
    preprocessor = Preprocessor(artifact.manifest.preprocessing, until=variant.input_stage)
    per_image = len(_preprocessed(category.test[0], preprocessor)[1])
    sizes = _batch_rows(variant)
    size = batch_size or max(1, max(sizes, default=1) // per_image)
    if sizes and size * per_image > max(sizes):
        raise UsageError(
            f"--batch-size {size}: that is {size * per_image} rows, and {variant.id} was compiled for "
            f"{', '.join(map(str, sizes))}"
        )
    (folder / FOLDER).mkdir(parents=True)
    batches: list[Batch] = []
    images: list[Image] = []
    for start in range(0, len(category.test), size):
        preprocessed = [_preprocessed(sample, preprocessor) for sample in category.test[start : start + size]]
        images += [image for image, _ in preprocessed]
        rows = np.concatenate([rows for _, rows in preprocessed])
        batches.append(_write_batch(folder, len(batches), rows, sizes, format_))
    index = Index(
        schema=SCHEMA,
        harness=__version__,
        detector_sha256=artifact.manifest.detector_sha256,
        artifact_sha256=artifact.sha256,
        category=category.name,
        data_fingerprint=datasets.fingerprint(category, "test"),
        variant=variant.id,
        input=variant.input,
        input_stage=variant.input_stage,
        layout="NCHW" if variant.input_stage in ("layout", "windows") else "NHWC",
        format=format_,
        batch_size=size,
        batches=tuple(batches),
        images=tuple(images),
    )
    storage.write_json(folder / INDEX, msgspec.to_builtins(index))
    return index


def _preprocessed(sample: Sample, preprocessor: Preprocessor) -> tuple[Image, AnyArray]:
    pixels = preprocessor.decode(sample.path)
    frame = preprocessor.frame(pixels)
    rows = preprocessor.windows(preprocessor.tensor(frame))
    return Image(name=sample.name, rows=len(rows), stages=stage_digests(pixels, frame, rows)), rows


def stage_digests(pixels: AnyArray, frame: AnyArray, rows: AnyArray) -> dict[str, str]:
    """Digests of an image after decoding, as a frame and as the network's input."""
    return {
        "decode": storage.sha256_of_array(pixels),
        "frame": storage.sha256_of_array(frame),
        "input": input_digest(rows),
    }


def input_digest(rows: AnyArray) -> str:
    """Digest of an image's (rows, …) as the network takes them; of the one row where it is one."""
    return storage.sha256_of_array(rows[0] if len(rows) == 1 else rows)


def _batch_rows(variant: Variant) -> tuple[int, ...]:
    """Rows per run that the variant was compiled for; empty where any number will do."""
    fixed = variant.input.shape[0]
    return variant.gears or (() if fixed is None else (fixed,))


def _write_batch(folder: Path, number: int, rows: AnyArray, sizes: Sequence[int], format_: Format) -> Batch:
    count = min((size for size in sizes if size >= len(rows)), default=len(rows))
    padded = np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])
    content = io.BytesIO()
    if format_ == "npy":
        np.save(content, padded, allow_pickle=False)
    else:
        content.write(padded.astype(padded.dtype.newbyteorder("<")).tobytes())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    name = f"{FOLDER}/{number:05}-{digest[:8]}.{format_}"
    (folder / name).write_bytes(content.getvalue())
    return Batch(file=name, sha256=digest, rows=count, real_rows=len(rows))


def read(path: Path) -> Folder:
    """Open a folder of batches.

    Raises:
        DatasetError: no index, one of another schema, unknown or missing keys, or one that contradicts itself.
    """
    file = path / INDEX
    if not file.is_file():
        raise DatasetError(f"{path}: no inputs (no {INDEX}); write them with: python -m harness inputs")
    index = storage.read_json(file, Index, schema=SCHEMA, error=DatasetError, remedy="write the inputs again")
    stems = [Path(batch.file).stem for batch in index.batches]
    names = [image.name for image in index.images]
    rows = [image.rows for image in index.images]
    size = index.batch_size
    expected = [sum(rows[start : start + size]) for start in range(0, len(rows), size)]
    checks = {
        "two batches have one name": len(set(stems)) == len(stems),
        f"a batch is not a .{index.format} file": all(
            Path(batch.file).suffix == f".{index.format}" for batch in index.batches
        ),
        "it lists an image twice": len(set(names)) == len(names),
        "its batches do not hold its images": [batch.real_rows for batch in index.batches] == expected,
        "a batch has fewer rows than images": all(b.rows >= b.real_rows for b in index.batches),
        "its input is neither float32 nor uint8": index.input.dtype in ("float32", "uint8"),
    }
    for wrong, right in checks.items():
        if not right:
            raise DatasetError(f"{file}: {wrong}; write the inputs again: python -m harness inputs")
    return Folder(path=path, index=index, sha256=storage.sha256_of_file(file))


def below(path: Path, category: str) -> Path:
    """`path` itself where it holds an index, else its folder of the category, as `inputs` wrote it."""
    return path if (path / INDEX).is_file() else storage.inside(path, category, UsageError)


def digest(path: Path) -> str:
    """Hexadecimal SHA-256 of the index, or of those of all categories, as `inputs` wrote them."""
    files = [path / INDEX] if (path / INDEX).is_file() else sorted(path.glob(f"*/{INDEX}"))
    digests = [storage.sha256_of_file(file) for file in files]
    return digests[0] if len(digests) == 1 else storage.sha256_of_json(digests)


def require_for(folder: Folder, artifact: Artifact, variant: Variant, fingerprint: str) -> None:
    """Raise `DatasetError` unless the batches are of this detector, for this variant, of these test images."""
    index = folder.index
    pairs = {
        "another category": (index.category, artifact.manifest.category),
        "another detector": (index.detector_sha256, artifact.manifest.detector_sha256),
        "other test images": (index.data_fingerprint, fingerprint),
        "another step of preprocessing": (index.input_stage, variant.input_stage),
        "another type of input": (index.input.dtype, variant.input.dtype),
        "another shape of input": (row_shape(index.input), row_shape(variant.input)),
    }
    for wrong, (written, expected) in pairs.items():
        if written != expected:
            raise DatasetError(
                f"{folder.path / INDEX}: written for {wrong}: {written}, here it is {expected}; "
                "write the inputs again: python -m harness inputs"
            )


def row_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Shape without the batch."""
    return tuple(side for side in spec.shape[1:] if side is not None)
