"""`acl.util`: Python data as host addresses and back."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from backends.simulators.acl.board import HOST_MODE, HardwareWouldCrash
from backends.simulators.acl.calls import api, bare
from backends.simulators.acl.memory import owner_of
from backends.simulators.acl.state import Simulator
from harness.types import AnyArray, UInt8

_NUMBERS: dict[int, np.dtype[Any]] = {np.dtype(code).num: np.dtype(code) for code in "?bBhHiIlLqQfde"}


class Pointers:
    """Both families of helpers; the bytes one came, the numpy one goes."""

    def __init__(self, state: Simulator) -> None:
        self._state = state

    @api("util.bytes_to_ptr", bare(0), cann=("7.0", "8.0"))
    def bytes_to_ptr(self, data: bytes) -> int:
        if not isinstance(data, bytes):
            raise TypeError(f"bytes_to_ptr takes bytes, not {type(data).__name__}")
        return self._state.memory.borrow(data, np.frombuffer(data, np.uint8).ctypes.data, len(data))

    @api("util.ptr_to_bytes", bare(None), cann=("7.0", "8.0"))
    def ptr_to_bytes(self, pointer: int, size: int) -> bytes:
        return self._host(pointer, size).tobytes()

    @api("util.numpy_to_ptr", bare(0), cann=("5.0", "7.0"))
    def numpy_to_ptr(self, array: AnyArray) -> int:
        self._warn("numpy_to_ptr", "bytes_to_ptr")
        return self._address(array)

    @api("util.ptr_to_numpy", bare(None), cann=("5.0", "7.0"))
    def ptr_to_numpy(self, pointer: int, shape: tuple[int, ...], number: int) -> AnyArray:
        """A view; `number` is numpy's own type number."""
        self._warn("ptr_to_numpy", "ptr_to_bytes")
        if number not in _NUMBERS:
            raise TypeError(f"{number} is not one of numpy's type numbers {sorted(_NUMBERS)}")
        dtype = _NUMBERS[number]
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self._host(pointer, count).view(dtype).reshape(shape)

    @api("util.numpy_contiguous_to_ptr", bare((0, None)), cann=("5.0", "7.0"))
    def numpy_contiguous_to_ptr(self, array: AnyArray) -> tuple[int, AnyArray]:
        self._warn("numpy_contiguous_to_ptr", "bytes_to_ptr")
        kept = np.ascontiguousarray(array)
        return self._address(kept), kept

    def _address(self, array: AnyArray) -> int:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"the numpy helpers take arrays, not {type(array).__name__}")
        if not array.flags.c_contiguous:
            raise HardwareWouldCrash(
                "numpy_to_ptr of an array that is not C-contiguous: other elements are read"
            )
        return self._state.memory.borrow(owner_of(array), array.ctypes.data, array.nbytes)

    def _host(self, pointer: int, count: int) -> UInt8:
        view = self._state.memory.view(pointer, count)
        if view.device is not None and self._state.board.run_mode == HOST_MODE:
            raise HardwareWouldCrash(f"{pointer:#x} is device memory, which the host cannot read in place")
        return view.bytes

    def _warn(self, old: str, new: str) -> None:
        if self._state.board.cann != "5.0":
            text = f"acl.util.{old} is deprecated: use acl.util.{new}"
            warnings.warn(text, DeprecationWarning, stacklevel=4)
