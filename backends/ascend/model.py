"""A loaded OM: what its tensors are, and the buffers on the device they live in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.ascend import codes
from backends.ascend.runtime import Acl, Holdings, Stage
from backends.errors import BackendError
from harness.types import AnyArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """One tensor of the model and its memory on the device, for the largest gear."""

    index: int
    name: str
    """As the model calls it; outputs of ONNX models `<node>:<index>:<onnx name>`."""
    dtype: str
    shape: tuple[int, ...]
    """With −1 for the batch of an input with gears."""
    size: int
    """Bytes."""
    address: int
    """On the device."""

    @property
    def onnx_name(self) -> str:
        """What the ONNX model called it."""
        return self.name.rpartition(":")[2]


class Model:
    """An OM loaded into the current context, with a dataset for its inputs and one for its outputs."""

    def __init__(self, acl: Acl, path: Path, holdings: Holdings) -> None:
        self._acl = acl
        self.id = acl.do("mdl.load_from_file", str(path))
        holdings.add(Stage.MODEL, "mdl.unload", self.id)
        self._description = acl.make("mdl.create_desc")
        holdings.add(Stage.DESCRIPTION, "mdl.destroy_desc", self._description)
        acl.do("mdl.get_desc", self._description, self.id)
        self.gears: tuple[int, ...] = tuple(acl.do("mdl.get_dynamic_batch", self._description)["batch"])
        self._input_dataset, inputs = self._dataset("input", holdings)
        self._output_dataset, self.outputs = self._dataset("output", holdings)
        self._gear_index = self._find_gear_input() if self.gears else None
        self.inputs = tuple(tensor for tensor in inputs if tensor.index != self._gear_index)

    def _find_gear_input(self) -> int:
        index: int = self._acl.do("mdl.get_input_index_by_name", self._description, codes.GEAR_INPUT)
        return index

    def _dataset(self, kind: str, holdings: Holdings) -> tuple[int, tuple[Buffer, ...]]:
        """A dataset with one buffer per input or output, in the model's order; gears add a hidden input."""
        acl = self._acl
        dataset = acl.make("mdl.create_dataset")
        holdings.add(Stage.DATASET, "mdl.destroy_dataset", dataset)
        buffers = []
        count = acl.get(f"mdl.get_num_{kind}s", self._description)
        if not count:
            raise BackendError(f"acl.mdl.get_num_{kind}s says that the OM has none")
        for index in range(count):
            size = acl.get(f"mdl.get_{kind}_size_by_index", self._description, index)
            address = acl.do("rt.malloc", size, codes.MALLOC_HUGE_FIRST)
            holdings.add(Stage.DEVICE_MEMORY, "rt.free", address)
            handle = acl.make("create_data_buffer", address, size)
            holdings.add(Stage.BUFFER, "destroy_data_buffer", handle)
            acl.do("mdl.add_dataset_buffer", dataset, handle)
            buffers.append(
                Buffer(
                    index=index,
                    name=self._name(kind, index),
                    dtype=self._dtype(kind, index),
                    shape=self._shape(kind, index),
                    size=size,
                    address=address,
                )
            )
        return dataset, tuple(buffers)

    def _name(self, kind: str, index: int) -> str:
        name: str = self._acl.get(f"mdl.get_{kind}_name_by_index", self._description, index)
        if not name:
            raise BackendError(f"acl.mdl.get_{kind}_name_by_index gave no name for {index}")
        return name

    def _shape(self, kind: str, index: int) -> tuple[int, ...]:
        # Where AIPP takes the image over, only the second version tells what the buffer holds.
        newer = kind == "input" and self._acl.offers("mdl.get_input_dims_v2")
        call = "mdl.get_input_dims_v2" if newer else f"mdl.get_{kind}_dims"
        return tuple(self._acl.do(call, self._description, index)["dims"])

    def _dtype(self, kind: str, index: int) -> str:
        number = self._acl.get(f"mdl.get_{kind}_data_type", self._description, index)
        if number not in codes.DTYPES:
            raise BackendError(f"{kind} {index} of the OM has data type {number}, which numpy does not have")
        return codes.DTYPES[number]

    def set_gear(self, batch: int) -> None:
        """Tell the device how many rows the next run has; to be called before each run of a model with gears."""
        self._acl.do("mdl.set_dynamic_batch_size", self.id, self._input_dataset, self._gear_index, batch)

    def run(self, stream: int) -> None:
        """Run the model on what lies in the input buffers, and wait for it."""
        self._acl.do("mdl.execute_async", self.id, self._input_dataset, self._output_dataset, stream)
        self._acl.do("rt.synchronize_stream", stream)

    def current_shape(self, output: Buffer) -> tuple[int, ...]:
        """Shape of an output in the run just made: with gears, that gear's."""
        return tuple(self._acl.do("mdl.get_cur_output_dims", self._description, output.index)["dims"])


class Transfer:
    """Copies between numpy arrays and the device.

    On a PCIe host results come through page-locked host memory; on the chip itself memory is one, and they are read in
    place. What is given out is always a copy: the next run writes over the buffers.
    """

    def __init__(self, acl: Acl, model: Model, holdings: Holdings) -> None:
        self._acl = acl
        self._on_host = acl.do("rt.get_run_mode") == codes.RUN_MODE_HOST
        self._bytes = acl.offers(
            "util.bytes_to_ptr"
        )  # the documented test; the numpy functions are deprecated
        self._staging = 0
        if self._on_host:
            self._staging = acl.do("rt.malloc_host", max(output.size for output in model.outputs))
            holdings.add(Stage.HOST_MEMORY, "rt.free_host", self._staging)

    @property
    def described(self) -> dict[str, str]:
        """For the record."""
        return {
            "run_mode": "host" if self._on_host else "device",
            "pointers": "bytes" if self._bytes else "numpy",
        }

    def upload(self, data: bytes | AnyArray, target: Buffer) -> None:
        """Copy what `payload` gave to the start of `target`."""
        kind = codes.HOST_TO_DEVICE if self._on_host else codes.DEVICE_TO_DEVICE
        function = "util.bytes_to_ptr" if self._bytes else "util.numpy_to_ptr"
        count = len(data) if isinstance(data, bytes) else data.nbytes
        self._acl.do("rt.memcpy", target.address, target.size, self._acl.make(function, data), count, kind)

    def payload(self, rows: AnyArray) -> bytes | AnyArray:
        """Rows as the pointer functions of this version take them; to be kept until the copy is made."""
        return rows.tobytes() if self._bytes else np.ascontiguousarray(rows)

    def download(self, source: Buffer, shape: tuple[int, ...]) -> AnyArray:
        """The first values of `source`, as many as `shape` has, in its own type."""
        count = math.prod(shape) * np.dtype(source.dtype).itemsize
        if count > source.size:
            raise BackendError(
                f"output {source.name!r} has {source.size} bytes, {count} are needed for {shape}: nothing was read"
            )
        address = source.address
        if self._on_host:
            self._acl.do("rt.memcpy", self._staging, source.size, source.address, count, codes.DEVICE_TO_HOST)
            address = self._staging
        return self._read(address, count).view(source.dtype).reshape(shape)

    def _read(self, address: int, count: int) -> NDArray[np.uint8]:
        call = "util.ptr_to_bytes" if self._bytes else "util.ptr_to_numpy"
        arguments = (count,) if self._bytes else ((count,), codes.NUMPY_UINT8)
        data = self._acl.get(call, address, *arguments)
        if data is None:
            raise BackendError(f"acl.{call} gave nothing for {count} bytes")
        return np.frombuffer(data, np.uint8) if self._bytes else data.copy()
