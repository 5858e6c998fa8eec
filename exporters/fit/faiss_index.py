"""A faiss index file as a memory bank: one kind of file, read without faiss and without trust.

Layout of an `IndexFlatL2` (faiss, `impl/index_write.cpp`), little-endian: `IxF2`, dimensions (int32), rows (int64), two
unused int64, trained (bool), metric (int32, 1 for L2), how many float32 follow (uint64), and these, row by row.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from harness.errors import ArtifactError
from harness.types import Float32

_HEADER = struct.Struct("<4siqqq?iQ")
_L2 = 1
_CONVERT = (
    "only a faiss IndexFlatL2 can be taken over; convert another index with faiss: "
    "flat = faiss.IndexFlatL2(index.d); flat.add(index.reconstruct_n(0, index.ntotal)); faiss.write_index(flat, FILE)"
)


def read_index(path: Path) -> Float32:
    """The rows (M, D) of an `IndexFlatL2`.

    Raises:
        ArtifactError: no such file, or one of another kind, damaged, empty, or with values that are not finite.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file: name what faiss.write_index wrote")
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        count, dimensions = _shape(path, header, os.fstat(file.fileno()).st_size)
        rows = np.fromfile(file, "<f4", count * dimensions).reshape(count, dimensions)
    if not np.isfinite(rows).all():
        raise ArtifactError(f"{path}: holds values that are not finite; write the index anew")
    return rows.astype(np.float32, copy=False)


def _shape(path: Path, header: bytes, size: int) -> tuple[int, int]:
    """Rows and dimensions, once all that the header says agrees with itself and with the file's size."""
    if header[:4] != b"IxF2" or len(header) < _HEADER.size:
        raise ArtifactError(
            f"{path}: begins with {header[:4]!r}, a flat L2 index with b'IxF2' and more; {_CONVERT}"
        )
    _, dimensions, count, _, _, trained, metric, values = _HEADER.unpack(header)
    if not trained or metric != _L2:
        raise ArtifactError(f"{path}: trained {trained}, metric {metric} in place of {_L2} (L2); {_CONVERT}")
    if dimensions < 1 or count < 1:
        raise ArtifactError(
            f"{path}: {count} rows of {dimensions} dimensions; a memory bank needs at least one"
        )
    if values != dimensions * count or size != _HEADER.size + 4 * values:
        raise ArtifactError(
            f"{path}: {count} rows of {dimensions} dimensions, but {values} values announced and {size} bytes in all; "
            "the file is damaged: copy it again"
        )
    return count, dimensions
