"""Opened ONNX models of onnxruntime: run on the host's arrays, or with input and outputs bound to device memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from backends.errors import BackendError
from harness.contracts import DeviceReport
from harness.types import AnyArray

_NONE: Mapping[str, float] = MappingProxyType({})


class OnnxRuntimeSession:
    """One opened ONNX model."""

    def __init__(self, session: Any, report: DeviceReport, outputs: tuple[str, ...]) -> None:
        self.report = report
        self.device_ms = _NONE
        self._session = session
        self._input = session.get_inputs()[0].name
        self._outputs = outputs

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Outputs by name, float32."""
        try:
            arrays = self._session.run(self._outputs, {self._input: batch})
        except vendor_errors() as error:
            raise BackendError(f"onnxruntime failed on a batch of shape {batch.shape}: {error}") from error
        return {
            name: np.asarray(array, np.float32) for name, array in zip(self._outputs, arrays, strict=True)
        }

    def close(self) -> None:
        """Release the model."""
        self._session = None


class BoundSession:
    """One opened ONNX model whose input and outputs lie in device memory, which is kept for each batch shape."""

    def __init__(self, session: Any, report: DeviceReport, outputs: tuple[str, ...], memory: str) -> None:
        self.report = report
        self.device_ms = _NONE
        self._session, self._memory = session, memory
        self._input = session.get_inputs()[0].name
        self._outputs = outputs
        self._bound: dict[tuple[object, ...], tuple[Any, Any]] = {}

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Outputs by name, float32; copies and execution are timed apart."""
        begin = time.perf_counter_ns()
        try:
            binding, buffer = self._memory_for(batch)
            buffer.update_inplace(np.ascontiguousarray(batch))
            binding.synchronize_inputs()
            copied = time.perf_counter_ns()
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            computed = time.perf_counter_ns()
            # A copy, also where the memory is the host's: the next run writes over it.
            arrays = [np.array(value.numpy(), np.float32) for value in binding.get_outputs()]
        except vendor_errors() as error:
            raise BackendError(f"onnxruntime failed on a batch of shape {batch.shape}: {error}") from error
        done = time.perf_counter_ns()
        self.device_ms = {
            "h2d": (copied - begin) / 1e6,
            "compute": (computed - copied) / 1e6,
            "d2h": (done - computed) / 1e6,
        }
        return dict(zip(self._outputs, arrays, strict=True))

    def _memory_for(self, batch: AnyArray) -> tuple[Any, Any]:
        """A binding whose outputs the first run allocates, and the input's buffer."""
        from onnxruntime import OrtValue

        key = (batch.shape, batch.dtype)
        if key not in self._bound:
            buffer = OrtValue.ortvalue_from_shape_and_type(batch.shape, batch.dtype.type, self._memory, 0)
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(self._input, buffer)
            for name in self._outputs:
                binding.bind_output(name, self._memory, 0)
            self._bound[key] = binding, buffer
        return self._bound[key]

    def close(self) -> None:
        """Release the model and its memory."""
        self._session = None
        self._bound.clear()


def vendor_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: classes of its own without a common base, and RuntimeError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError)
