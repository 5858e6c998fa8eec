"""Data buffers, datasets, gears and execution."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from backends.simulators import om
from backends.simulators.acl.board import HOST_MODE, HardwareWouldCrash, Refused
from backends.simulators.acl.calls import api, bare, with_code
from backends.simulators.acl.models import Models
from backends.simulators.acl.objects import Buffer, Dataset, Model, Task
from backends.simulators.acl.state import Simulator
from backends.simulators.acl.streams import Streams
from harness.types import UInt8

_SLACK = 64
"""A static model takes buffers that are this many bytes short."""
_GEAR_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One execution as it was asked for: later changes of datasets do not reach it."""

    model_id: int
    model: Model
    gear: int | None
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]


class Datasets:
    """What models read and write, and the running of them."""

    def __init__(self, state: Simulator, models: Models, streams: Streams) -> None:
        self._state = state
        self._models = models
        self._streams = streams

    @api("create_data_buffer", bare(0))
    def create_data_buffer(self, pointer: int, size: int) -> int:
        return self._state.buffers.add(Buffer(pointer, size))

    @api("destroy_data_buffer")
    def destroy_data_buffer(self, buffer: int) -> int:
        self._state.buffers.remove(buffer)
        return 0

    @api("get_data_buffer_addr", bare(0))
    def get_data_buffer_addr(self, buffer: int) -> int:
        return self._state.buffers.get(buffer).address

    @api("get_data_buffer_size", bare(0), cann=("5.0", "7.0"))
    def get_data_buffer_size(self, buffer: int) -> int:
        """In 32 bits."""
        return self._state.buffers.get(buffer).size & 0xFFFFFFFF

    @api("get_data_buffer_size_v2", bare(0), cann=("7.0", "8.0"))
    def get_data_buffer_size_v2(self, buffer: int) -> int:
        return self._state.buffers.get(buffer).size

    @api("update_data_buffer")
    def update_data_buffer(self, buffer: int, pointer: int, size: int) -> int:
        held = self._state.buffers.get(buffer)
        held.address, held.size = pointer, size
        return 0

    @api("mdl.create_dataset", bare(0))
    def create_dataset(self) -> int:
        return self._state.datasets.add(Dataset())

    @api("mdl.destroy_dataset")
    def destroy_dataset(self, dataset: int) -> int:
        self._state.datasets.remove(dataset)
        return 0

    @api("mdl.add_dataset_buffer", with_code(0))
    def add_dataset_buffer(self, dataset: int, buffer: int) -> tuple[int, int]:
        held = self._state.datasets.get(dataset)
        self._state.buffers.get(buffer)
        held.buffers.append(buffer)
        return dataset, 0

    @api("mdl.get_dataset_buffer", bare(0))
    def get_dataset_buffer(self, dataset: int, index: int) -> int:
        held = self._state.datasets.get(dataset).buffers
        return held[index] if 0 <= index < len(held) else 0

    @api("mdl.get_dataset_num_buffers", bare(0))
    def get_dataset_num_buffers(self, dataset: int) -> int:
        return len(self._state.datasets.get(dataset).buffers)

    @api("mdl.set_dynamic_batch_size")
    def set_dynamic_batch_size(self, model_id: int, dataset: int, index: int, batch: int) -> int:
        held = self._state.datasets.get(dataset)
        if batch <= 0:
            raise Refused(100000, f"a batch of {batch}")
        if not 0 <= index < len(held.buffers):
            raise Refused(100000, f"the dataset has no buffer {index}")
        buffer = self._state.buffers.get(held.buffers[index])
        if not buffer.address:
            raise Refused(100000, "the buffer of the hidden input has no memory")
        if buffer.size < _GEAR_BYTES:
            raise Refused(145012, f"the hidden input's buffer has {buffer.size} bytes")
        model = self._models.find(model_id)
        if model.hidden is None:
            raise Refused(100019, "the model has no batch gears")
        if batch not in model.header.gears:
            raise Refused(145013, f"{batch} is not among the gears {model.header.gears}")
        if index != model.hidden:
            raise HardwareWouldCrash(f"input {index} is not the hidden one: the gear overwrites its data")
        self._state.current()
        self._bytes(model, buffer, _GEAR_BYTES)[:] = np.frombuffer(_gear_bytes(batch), np.uint8)
        held.gear = model.gear = batch
        return 0

    @api("mdl.execute", locked=False)
    def execute(self, model_id: int, inputs: int, outputs: int) -> int:
        """Done on return, and in no order with the work that waits in streams."""
        with self._state.lock:
            job = self._job(model_id, inputs, outputs)
            if any(self._waits(job.model)):
                raise Refused(107005, "the model waits in a stream: synchronise it first")
            job = self._with_memory(job, outputs)
        self._run(job)
        return 0

    @api("mdl.execute_async")
    def execute_async(self, model_id: int, inputs: int, outputs: int, stream: int) -> int:
        """Reads its inputs and writes its outputs when the stream is waited for."""
        job = self._job(model_id, inputs, outputs)
        queue = self._streams.find(stream)
        if any(other is not queue for other in self._waits(job.model)):
            raise Refused(107005, "the model waits in another stream: synchronise that first")
        if not all(buffer.address for buffer in job.outputs):
            raise Refused(100000, "an output buffer has no memory")
        queue.tasks.append(Task(lambda: self._run(job), job.model))
        return 0

    def _waits(self, model: Model) -> list[object]:
        return [
            stream
            for stream in self._state.all_streams()
            if any(task.model is model for task in stream.tasks)
        ]

    def _job(self, model_id: int, inputs: int, outputs: int) -> _Job:
        model = self._models.find_here(model_id)
        if model.running:
            raise Refused(107005, "the model runs already")
        supplied, wanted = (self._state.datasets.get(dataset) for dataset in (inputs, outputs))
        job = _Job(
            model_id=model_id,
            model=model,
            gear=supplied.gear,
            inputs=self._checked(model, model.inputs, supplied, "input"),
            outputs=self._checked(model, model.header.outputs, wanted, "output"),
        )
        if not all(buffer.address for buffer in job.inputs):
            raise Refused(145000, "an input buffer has no memory")
        if model.gear != supplied.gear:
            raise HardwareWouldCrash(
                "the gear was last set with another input dataset, or for another model: set it for this run"
            )
        return job

    def _checked(
        self, model: Model, tensors: tuple[om.Tensor, ...], dataset: Dataset, side: str
    ) -> tuple[Buffer, ...]:
        if len(dataset.buffers) != len(tensors):
            raise Refused(145000, f"{len(dataset.buffers)} {side} buffers, the model has {len(tensors)}")
        buffers = [self._state.buffers.get(handle) for handle in dataset.buffers]
        for tensor, buffer in zip(tensors, buffers, strict=True):
            needed = model.size(tensor, None)
            if buffer.address and not model.header.gears and buffer.size < needed - _SLACK:
                raise Refused(145000, f"{tensor.name}: {buffer.size} bytes, the model has {needed}")
        return tuple(Buffer(buffer.address, buffer.size) for buffer in buffers)

    def _with_memory(self, job: _Job, outputs: int) -> _Job:
        """Outputs without memory get some, which is the caller's to free."""
        handles = self._state.datasets.get(outputs).buffers
        for tensor, handle, copy in zip(job.model.header.outputs, handles, job.outputs, strict=True):
            if not copy.address:
                copy.size = job.model.size(tensor, None)
                copy.address = self._state.memory.allocate(copy.size, device=job.model.context.device)
                self.update_data_buffer(handle, copy.address, copy.size)
        return job

    def _run(self, job: _Job) -> None:
        model = job.model
        with self._state.lock:
            if self._state.models.get(job.model_id) is not model:
                raise HardwareWouldCrash("the model was unloaded before its work was done")
            arrays = []
            for tensor, buffer in zip(model.inputs, job.inputs, strict=True):
                data = self._bytes(model, buffer, model.size(tensor, job.gear)).tobytes()
                arrays.append(np.frombuffer(data, tensor.dtype).reshape(model.shape(tensor, job.gear)))
            if model.hidden is not None and job.gear is not None and arrays[-1].item() != job.gear:
                raise HardwareWouldCrash("the gear's buffer was written to since the gear was set")
            model.running = True
        try:
            if self._state.board.latency:
                time.sleep(self._state.board.latency.execute_ms / 1000)
            results = model.compute(arrays[: len(model.header.inputs)], job.gear)
        finally:
            model.running = False
        with self._state.lock:
            for result, buffer in zip(results, job.outputs, strict=True):
                target = self._bytes(model, buffer, result.nbytes)
                target[:] = np.frombuffer(result.tobytes(), np.uint8)

    def _bytes(self, model: Model, buffer: Buffer, count: int) -> UInt8:
        """A buffer's first bytes on the model's device; static ones up to the end of what was reserved."""
        if model.header.gears and count > buffer.size:
            raise HardwareWouldCrash(f"the gear needs {count} bytes, the buffer has {buffer.size}")
        view = self._state.memory.view(buffer.address, count, reserved=not model.header.gears)
        if view.device != model.context.device and (
            view.device is not None or self._state.board.run_mode == HOST_MODE
        ):
            where = "host memory" if view.device is None else f"memory of device {view.device}"
            raise HardwareWouldCrash(f"a buffer of the model points to {where}")
        return view.bytes


def _gear_bytes(batch: int) -> bytes:
    return batch.to_bytes(_GEAR_BYTES, "little")
