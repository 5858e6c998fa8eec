"""Saved outputs of a network: `bench --save-outputs` and `score` write them, `replay` scores them again.

One safetensors file. `output.<name>`, float32, and, where the head scores the inputs too, `input` have one row per input
of the network, in the order of the images; `rows`, int64 (N,), says how many rows each image has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors

from harness import storage
from harness.errors import HarnessError, RecordError
from harness.types import AnyArray

OUTPUT = "output."
INPUT = "input"
ROWS = "rows"
_NAMES = {"float32": "F32", "uint8": "U8", "int64": "I64"}


class Writer:
    """Writes the file batch by batch, each to its place, so that memory holds one batch at a time."""

    def __init__(self, file: IO[bytes], rows: Sequence[int]) -> None:
        """Write into `file`, which is empty; `rows` says how many rows each image has."""
        self._file = file
        self._rows = np.array(rows, np.int64)
        self._places: dict[str, int] = {}
        self._row_bytes: dict[str, int] = {}
        self._done = 0

    def add(self, outputs: Mapping[str, AnyArray], batch: AnyArray | None) -> None:
        """Append one batch's outputs by name, and its inputs where they are kept; all have its rows on axis 0.

        Raises:
            HarnessError: an array that does not continue those of the batches before.
        """
        arrays = {f"{OUTPUT}{name}": array for name, array in outputs.items()}
        if batch is not None:
            arrays[INPUT] = batch
        if not self._places:
            self._lay_out(arrays)
        count = len(next(iter(arrays.values())))
        for name, array in arrays.items():
            if len(array) != count or array.nbytes != count * self._row_bytes.get(name, -1):
                raise HarnessError(f"{name} of shape {array.shape} does not continue the batches before it")
            self._file.seek(self._places[name] + self._done * self._row_bytes[name])
            self._file.write(np.ascontiguousarray(array).data)
        self._done += count

    def _lay_out(self, arrays: Mapping[str, AnyArray]) -> None:
        """Write the header and `rows`; the places of all arrays follow from their first batch."""
        total = int(self._rows.sum())
        shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            name: (array.dtype, (total, *array.shape[1:])) for name, array in arrays.items()
        }
        shapes[ROWS] = (self._rows.dtype, self._rows.shape)
        header: dict[str, Any] = {}
        offsets: dict[str, int] = {}
        end = 0
        # The widest types first, as the library has it: every array lies at a multiple of its item's size.
        for name, (dtype, shape) in sorted(
            shapes.items(), key=lambda entry: (-entry[1][0].itemsize, entry[0])
        ):
            offsets[name], end = end, end + dtype.itemsize * int(np.prod(shape))
            header[name] = {
                "dtype": _NAMES[dtype.name],
                "shape": shape,
                "data_offsets": [offsets[name], end],
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._file.write(len(text).to_bytes(8, "little") + text)
        begin = self._file.tell()
        self._places = {name: begin + offset for name, offset in offsets.items()}
        self._row_bytes = {name: array[:1].nbytes for name, array in arrays.items()}
        self._file.seek(self._places[ROWS])
        self._file.write(self._rows.data)
        self._file.truncate(begin + end)

    def finish(self) -> None:
        """Raise `HarnessError` unless every row was written."""
        if self._done != self._rows.sum():
            raise HarnessError(f"{self._done} rows of outputs were stored, expected {self._rows.sum()}")
        self._file.flush()


class Reader:
    """Reads the file batch by batch."""

    def __init__(self, path: Path, sha256: str) -> None:
        """Open the file.

        Raises:
            RecordError: it is missing, was altered, or is no file of outputs.
        """
        if not path.is_file():
            raise RecordError(f"{path}: missing; copy `evidence` along with the records")
        if storage.sha256_of_file(path) != sha256:
            raise RecordError(f"{path}: altered since it was written; bench or score the case again")
        try:
            file: Any = safetensors.safe_open(path, framework="np")
            names = list(file.keys())
            self.rows: tuple[int, ...] = tuple(int(count) for count in file.get_tensor(ROWS))
            self._slices = {name: file.get_slice(name) for name in names if name != ROWS}
        except safetensors.SafetensorError as error:
            raise RecordError(f"{path}: no outputs of this harness ({error}); bench again") from error
        lengths = {name: piece.get_shape()[0] for name, piece in self._slices.items()}
        if set(lengths.values()) != {sum(self.rows)} or min(self.rows, default=0) < 1:
            raise RecordError(f"{path}: {lengths} rows do not fit {len(self.rows)} images; bench again")
        self.has_inputs = INPUT in self._slices

    def outputs(self, start: int, stop: int) -> dict[str, AnyArray]:
        """Outputs by name of rows `start` to `stop`."""
        return {
            name.removeprefix(OUTPUT): np.asarray(piece[start:stop])
            for name, piece in self._slices.items()
            if name.startswith(OUTPUT)
        }

    def inputs(self, start: int, stop: int) -> AnyArray:
        """Inputs of rows `start` to `stop`, where they were kept; an array of as many empty rows where not."""
        if not self.has_inputs:
            return np.empty((stop - start, 0), np.float32)
        return np.asarray(self._slices[INPUT][start:stop])
