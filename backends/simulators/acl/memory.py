"""Addresses: device memory behind made-up ones, host memory behind real ones, and who may touch which bytes."""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.simulators.acl.board import HOST_MODE, Board, HardwareWouldCrash, Refused
from harness.types import AnyArray, UInt8

ALIGNMENT = 64
_FIRST_ADDRESS = 1 << 52
"""Beyond what any process can map, so that a device address is never a host address too."""
_FRESH, _FREED = 0xCD, 0xDD


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """One allocation."""

    address: int
    size: int
    """As asked for, in bytes."""
    reserved: UInt8
    """As taken from the device."""
    device: int | None
    """`None` in host memory."""

    @property
    def name(self) -> str:
        """As a leak report calls it."""
        where = "host" if self.device is None else f"device {self.device}"
        return f"{where} memory {self.address:#x} ({self.size} bytes)"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Borrowed:
    """Memory of a Python object whose address was asked for."""

    address: int
    size: int
    owner: Any

    def is_dead(self) -> bool:
        return sys.getrefcount(self.owner) == 2  # ours, and the argument of this very call


@dataclass(frozen=True, slots=True)
class View:
    """Bytes that a call may read or write."""

    bytes: UInt8
    device: int | None
    """`None` in host memory."""


class Memory:
    """All that pyACL allocated or was told of."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._next = _FIRST_ADDRESS
        self._borrowed: dict[int, _Borrowed] = {}
        self._gone: deque[tuple[int, int]] = deque(maxlen=256)
        self.blocks: dict[int, Block] = {}

    def used(self, device: int) -> int:
        """Bytes taken from a device."""
        return sum(block.reserved.size for block in self.blocks.values() if block.device == device)

    def allocate(self, size: int, *, device: int | None, padding: int = 32) -> int:
        """The address of new memory, filled with 0xCD.

        Raises:
            Refused: 207001, the device has no room.
        """
        taken = -(-size // 32) * 32 + padding
        if device is not None and self.used(device) + taken > self._board.memory_bytes:
            raise Refused(207001, f"device {device} has no {taken} bytes left")
        if device is None or self._board.run_mode != HOST_MODE:
            raw = np.full(taken + ALIGNMENT, _FRESH, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            reserved = raw[start : start + taken]
            address = reserved.ctypes.data
            self._exists_again(address, address + taken)
        else:
            reserved = np.full(taken, _FRESH, np.uint8)
            address = self._next
            self._next += -(-taken // 4096) * 4096 + 4096
        self.blocks[address] = Block(address=address, size=size, reserved=reserved, device=device)
        return address

    def release(self, address: int, *, host: bool) -> None:
        """Free an allocation; its bytes become 0xDD.

        Raises:
            HardwareWouldCrash: it is no allocation of that side, or freed already.
        """
        block = self.blocks.get(address)
        if block is None or (block.device is None) != host:
            raise HardwareWouldCrash(
                f"free: {address:#x} is not {'host' if host else 'device'} memory that is allocated now"
            )
        del self.blocks[address]
        self._gone.append((address, address + block.size))
        block.reserved[:] = _FREED

    def borrow(self, owner: Any, address: int, size: int) -> int:
        """Remember that a Python object's memory is used by address."""
        for old in [old for old in self._borrowed.values() if old.is_dead()]:
            del self._borrowed[old.address]
            self._gone.append((old.address, old.address + old.size))
        self._exists_again(address, address + size)
        before = self._borrowed.get(address)
        if before is not None and before.owner is owner:
            size = max(size, before.size)
        self._borrowed[address] = _Borrowed(address=address, size=size, owner=owner)
        return address

    def view(self, address: int, count: int, *, reserved: bool = False) -> View:
        """The bytes at an address; up to the end of what was `reserved` for a device that reads whole lines.

        An address in host memory of which nothing is known is believed.

        Raises:
            HardwareWouldCrash: they are not all there.
        """
        for block in self.blocks.values():
            start = address - block.address
            if 0 <= start < block.reserved.size:
                if start + count > (block.reserved.size if reserved else block.size):
                    raise HardwareWouldCrash(f"{count} bytes from byte {start} on exceed {block.name}")
                return View(block.reserved[start : start + count], block.device)
        for held in self._borrowed.values():
            start = address - held.address
            if 0 <= start < max(held.size, 1):
                if held.is_dead():
                    raise HardwareWouldCrash(
                        f"{address:#x} points into a Python object that is gone: keep it alive"
                    )
                if start + count > held.size:
                    raise HardwareWouldCrash(
                        f"{count} bytes from byte {start} on exceed a Python object of {held.size} bytes"
                    )
        if address >= _FIRST_ADDRESS or any(start <= address < end for start, end in self._gone):
            raise HardwareWouldCrash(f"{address:#x} points to memory that is freed or was never allocated")
        memory = (ctypes.c_uint8 * count).from_address(address)
        return View(np.ctypeslib.as_array(memory), None)

    def _exists_again(self, start: int, end: int) -> None:
        kept = [gone for gone in self._gone if gone[1] <= start or end <= gone[0]]
        self._gone = deque(kept, maxlen=self._gone.maxlen)


def owner_of(array: AnyArray) -> Any:
    """The object that keeps an array's memory."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner.obj if isinstance(owner, memoryview) else owner
