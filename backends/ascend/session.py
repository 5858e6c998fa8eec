"""One opened OM on one device: batches in, named arrays out, with the times of copying and computing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from backends.ascend.model import Buffer, Model, Transfer
from backends.ascend.runtime import Holdings, Runtime, Stage, twice
from backends.errors import BackendError
from harness.contracts import DeviceReport
from harness.detector.artifact import Variant
from harness.types import AnyArray


class AscendSession:
    """A model in a context of its own, whose buffers are used again for every run."""

    def __init__(
        self, runtime: Runtime, path: Path, variant: Variant, *, device: int, report: DeviceReport
    ) -> None:
        """Open the model at `path`.

        Raises:
            AclError: a pyACL call failed; everything taken until then has been given back.
            BackendError: the model is not what `variant` says.
        """
        self._runtime, self._acl = runtime, runtime.acl
        self._holdings = Holdings(self._acl)
        self._device = device
        with runtime.taking(self._holdings):
            self._acl.do("rt.set_device", device)
            self._holdings.add(Stage.DEVICE, "rt.reset_device", device)
            self._context = self._acl.do("rt.create_context", device)
            self._holdings.add(Stage.CONTEXT, "rt.destroy_context", self._context)
            self._stream = self._acl.do("rt.create_stream")
            self._holdings.add(Stage.STREAM, "rt.destroy_stream", self._stream)
            self._model = Model(self._acl, path, self._holdings)
            self._transfer = Transfer(self._acl, self._model, self._holdings)
            self._input, self._outputs, self._batches = _match(self._model, variant)
        batches = ", ".join(map(str, self._batches))
        self.report = DeviceReport(
            device=report.device,
            runtime=report.runtime,
            options={
                **report.options,
                **self._transfer.described,
                "batches": f"{batches} (a rest is filled up with its last row)",
            },
            simulated=report.simulated,
        )
        self.device_ms: Mapping[str, float] = {}
        self._closed = False
        runtime.opened(self)

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Outputs by name, float32.

        The rows go through the device in the batch sizes it was compiled for.

        Raises:
            AclError: a pyACL call failed.
            BackendError: the batch is not of the type or shape of the model's input, or the device gave another shape.
        """
        expected = self._input.shape[1:]
        if batch.dtype != np.dtype(self._input.dtype) or batch.shape[1:] != expected or not len(batch):
            raise BackendError(
                f"the OM takes rows of {self._input.dtype} {expected}, got {len(batch)} of {batch.dtype} {batch.shape[1:]}"
            )
        self._acl.do("rt.set_context", self._context)  # this thread may have none, or another session's
        times = dict.fromkeys(("h2d", "compute", "d2h"), 0.0)
        parts: dict[str, list[AnyArray]] = {name: [] for name in self._outputs}
        for start, count, size in _chunks(len(batch), self._batches):
            rows = batch[start : start + count]
            if count < size:
                rows = np.concatenate([rows, np.repeat(rows[-1:], size - count, axis=0)])
            for name, array in self._run(rows, times).items():
                parts[name].append(array[:count].astype(np.float32))
        self.device_ms = times
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _run(self, rows: AnyArray, times: dict[str, float]) -> dict[str, AnyArray]:
        """One run of the device on exactly a batch it was compiled for; adds to `times` in ms."""
        data = self._transfer.payload(rows)
        begin = time.perf_counter_ns()
        self._transfer.upload(data, self._input)
        uploaded = time.perf_counter_ns()
        if self._model.gears:
            self._model.set_gear(len(rows))
        self._model.run(self._stream)
        computed = time.perf_counter_ns()
        outputs = {}
        for name, buffer in self._outputs.items():
            shape = self._model.current_shape(buffer)
            if shape[0] != len(rows):
                raise BackendError(f"{len(rows)} rows went in, output {name!r} has the shape {shape}")
            outputs[name] = self._transfer.download(buffer, shape)
        end = time.perf_counter_ns()
        times["h2d"] += (uploaded - begin) / 1e6
        times["compute"] += (computed - uploaded) / 1e6
        times["d2h"] += (end - computed) / 1e6
        return outputs

    def close(self) -> None:
        """Give everything back; a second call does nothing.

        Raises:
            BackendError: something could not be given back at once.
        """
        if self._closed:
            return
        self._closed = True
        # Whoever closes may be another thread, and has to be in the session's context.
        failures = twice(lambda: self._acl.do("rt.set_context", self._context))
        failures += self._holdings.release()
        self._runtime.closed(self)
        if failures:
            raise failures[0]


def _chunks(rows: int, batches: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """(first row, rows, batch size to run them in): the largest batch while it is filled, then the smallest that suffices."""
    start = 0
    while start < rows:
        left = rows - start
        size = next((gear for gear in batches if gear >= left), batches[-1])
        yield start, min(left, size), size
        start += size


def _match(model: Model, variant: Variant) -> tuple[Buffer, dict[str, Buffer], tuple[int, ...]]:
    """The model's input, its outputs by the manifest's names, and the batch sizes it runs.

    Raises:
        BackendError: the model differs from what the manifest says of it.
    """
    if len(model.inputs) != 1 or len(model.outputs) != len(variant.outputs):
        raise BackendError(
            f"the OM has {len(model.inputs)} inputs and {len(model.outputs)} outputs, the manifest says 1 and "
            f"{len(variant.outputs)}; export it again"
        )
    (source,) = model.inputs
    expected = variant.input
    actual = (source.name, source.dtype, source.shape[1:])
    if actual != (expected.name, expected.dtype, expected.shape[1:]):
        raise BackendError(
            f"the OM's input is {source.name!r}, {source.dtype} {source.shape}, the manifest says {expected.name!r}, "
            f"{expected.dtype} {expected.shape}; export it again"
        )
    batches = model.gears or (source.shape[0],)
    needed = batches[-1] * math.prod(source.shape[1:]) * np.dtype(source.dtype).itemsize
    if needed > source.size:
        raise BackendError(f"the OM's input buffer has {source.size} bytes, {needed} are needed")
    named = {buffer.onnx_name: buffer for buffer in model.outputs}
    wanted = [spec.name for spec in variant.outputs]
    if not set(wanted) & set(named):  # an older CANN does not keep ONNX's names, but their order
        named = dict(zip(wanted, model.outputs, strict=True))
    if set(wanted) != set(named):
        names = ", ".join(buffer.name for buffer in model.outputs)
        raise BackendError(
            f"the OM's outputs are {names}, the manifest says {', '.join(wanted)}; export it again"
        )
    for spec in variant.outputs:
        if named[spec.name].shape[1:] != spec.shape[1:]:
            raise BackendError(
                f"output {spec.name!r} of the OM has the shape {named[spec.name].shape}, the manifest says {spec.shape}; "
                "export it again"
            )
    return source, {spec.name: named[spec.name] for spec in variant.outputs}, tuple(sorted(batches))
