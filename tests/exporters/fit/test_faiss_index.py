from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from exporters.fit.faiss_index import read_index
from harness.errors import ArtifactError
from harness.types import Float32

faiss = pytest.importorskip("faiss", reason="faiss-cpu, which writes the files, is not installed")

ROWS = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
HEADER = 45
"""Bytes before the values."""


def write(path: Path, index: object, rows: Float32 = ROWS) -> Path:
    if not index.is_trained:  # type: ignore[attr-defined]
        index.train(rows)  # type: ignore[attr-defined]
    index.add(rows)  # type: ignore[attr-defined]
    faiss.write_index(index, str(path))
    return path


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return write(tmp_path / "nnscorer_search_index.faiss", faiss.IndexFlatL2(5))


@pytest.mark.parametrize(("count", "dimensions"), [(1, 1), (7, 5), (300, 128)])
def test_rows_are_those_faiss_wrote(tmp_path: Path, count: int, dimensions: int) -> None:
    rows = np.random.default_rng(1).normal(size=(count, dimensions)).astype(np.float32)
    read = read_index(write(tmp_path / "flat", faiss.IndexFlatL2(dimensions), rows))
    np.testing.assert_array_equal(read, rows)
    assert read.dtype == np.float32
    read[0, 0] = 1.0  # the array is the reader's own


def test_a_flat_index_by_another_name_is_read_too(tmp_path: Path) -> None:
    index = faiss.index_factory(5, "Flat", faiss.METRIC_L2)
    np.testing.assert_array_equal(read_index(write(tmp_path / "flat", index)), ROWS)


@pytest.mark.parametrize("kind", ["IDMap,Flat", "HNSW4", "IVF1,Flat", "SQ8", "PCA2,Flat", "LSH"])
def test_another_kind_of_index_is_refused_with_how_to_convert_it(tmp_path: Path, kind: str) -> None:
    rows = np.tile(ROWS, (60, 1))
    path = write_by_factory(tmp_path / "other", kind, rows)
    with pytest.raises(ArtifactError, match=r"other: begins with b'.{4}'.*flat\.add\(index\.reconstruct_n\("):
        read_index(path)


def write_by_factory(path: Path, kind: str, rows: Float32) -> Path:
    index = faiss.index_factory(5, kind, faiss.METRIC_L2)
    index.train(rows)
    if kind == "IDMap,Flat":
        index.add_with_ids(rows, np.arange(len(rows)))
    else:
        index.add(rows)
    faiss.write_index(index, str(path))
    return path


def test_what_the_message_says_converts_an_index(tmp_path: Path) -> None:
    index = faiss.read_index(str(write_by_factory(tmp_path / "other", "HNSW4", ROWS)))
    file = str(tmp_path / "flat")
    with pytest.raises(ArtifactError) as caught:
        read_index(tmp_path / "other")
    recipe = str(caught.value).rpartition("with faiss: ")[2]
    exec(recipe, {"faiss": faiss, "index": index, "FILE": file})  # noqa: S102 - our own words
    np.testing.assert_array_equal(read_index(Path(file)), ROWS)


def test_inner_products_are_no_distances(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"begins with b'IxFI'"):
        read_index(write(tmp_path / "product", faiss.IndexFlatIP(5)))


def patched(path: Path, offset: int, form: str, value: object) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("offset", "form", "value", "words"),
    [
        (4, "<i", 6, "7 rows of 6 dimensions, but 35 values announced"),
        (4, "<i", -5, "7 rows of -5 dimensions; a memory bank needs at least one"),
        (4, "<i", 0, "7 rows of 0 dimensions; a memory bank"),
        (8, "<q", 8, "8 rows of 5 dimensions, but 35 values announced"),
        (8, "<q", -7, "-7 rows"),
        (8, "<q", 2**62, "values announced"),
        (32, "<B", 0, "trained False"),
        (33, "<i", 0, "metric 0 in place of 1"),
        (33, "<i", 22, "metric 22 in place of 1"),
        (37, "<Q", 34, "7 rows of 5 dimensions, but 34 values announced"),
        (37, "<Q", 2**63, "values announced"),
        (HEADER + 4, "<f", float("nan"), "holds values that are not finite"),
        (HEADER + 136, "<f", float("inf"), "holds values that are not finite"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    flat: Path, offset: int, form: str, value: object, words: str
) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        read_index(patched(flat, offset, form, value))
    assert str(flat) in str(caught.value)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.index: no such file"):
        read_index(tmp_path / "none.index")


def test_lengths_that_agree_but_exceed_the_file_allocate_nothing(flat: Path) -> None:
    patched(flat, 8, "<q", 2**50)
    with pytest.raises(ArtifactError, match="announced and 185 bytes in all; the file is damaged"):
        read_index(patched(flat, 37, "<Q", 5 * 2**50))


@pytest.mark.parametrize("size", [0, 3, 4, 20, HEADER - 1, HEADER, HEADER + 139])
def test_a_file_cut_short_is_refused(flat: Path, size: int) -> None:
    flat.write_bytes(flat.read_bytes()[:size])
    with pytest.raises(ArtifactError, match=str(flat)):
        read_index(flat)


def test_a_file_with_more_in_it_is_refused(flat: Path) -> None:
    flat.write_bytes(flat.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="186 bytes in all"):
        read_index(flat)


def test_an_empty_index_is_no_memory_bank(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="0 rows of 5 dimensions; a memory bank needs at least one"):
        read_index(write(tmp_path / "empty", faiss.IndexFlatL2(5), np.empty((0, 5), np.float32)))
