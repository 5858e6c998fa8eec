import ctypes
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from backends.simulators.acl import Board, Fault, HardwareWouldCrash
from tests.backends.simulators.acl.conftest import DEVICE_TO_DEVICE, DEVICE_TO_HOST, HOST_TO_DEVICE, started


def read(acl: ModuleType, pointer: int, size: int) -> bytes:
    """Device memory, through the host's."""
    host = acl.rt.malloc_host(size)[0]
    assert acl.rt.memcpy(host, size, pointer, size, DEVICE_TO_HOST) == 0
    data: bytes = acl.util.ptr_to_bytes(host, size)
    assert acl.rt.free_host(host) == 0
    return data


def test_device_memory_starts_as_garbage_at_aligned_addresses(acl: ModuleType) -> None:
    pointers = [acl.rt.malloc(size, 0)[0] for size in (1, 65, 5000)]
    assert [pointer % 64 for pointer in pointers] == [0, 0, 0]
    assert read(acl, pointers[2], 5000) == b"\xcd" * 5000
    assert acl.util.ptr_to_bytes(acl.rt.malloc_host(3)[0], 3) == b"\xcd" * 3


def test_bytes_go_to_the_device_and_back(acl: ModuleType) -> None:
    data = bytes(range(100))
    a, b = acl.rt.malloc(100, 0)[0], acl.rt.malloc(100, 0)[0]
    assert acl.rt.memcpy(a, 100, acl.util.bytes_to_ptr(data), 100, HOST_TO_DEVICE) == 0
    assert acl.rt.memcpy(b + 10, 90, a, 90, DEVICE_TO_DEVICE) == 0
    assert acl.rt.memset(b + 98, 2, 0x101, 2) == 0
    assert read(acl, b, 100) == b"\xcd" * 10 + data[:88] + b"\x01\x01"


def test_kind_4_goes_by_the_addresses_and_5_is_to_the_device(acl: ModuleType) -> None:
    data = b"abcdefgh"
    device = acl.rt.malloc(8, 0)[0]
    for kind in (4, 5):
        assert acl.rt.memcpy(device, 8, acl.util.bytes_to_ptr(data), 8, kind) == 0
    assert read(acl, device, 8) == data


@pytest.mark.parametrize(("size", "taken"), [(1, 64), (32, 64), (33, 96), (1000, 1056)])
def test_the_capacity_counts_the_padding(size: int, taken: int) -> None:
    acl = started(Board(memory_bytes=2 * taken))
    assert acl.rt.malloc(size, 0)[1] == 0
    assert acl.simulator.used_bytes == taken
    assert acl.rt.get_mem_info(0) == (taken, 2 * taken, 0)
    last = acl.rt.malloc(size, 0)[0]
    assert acl.rt.malloc(1, 0) == (0, 207001)
    assert acl.rt.free(last) == 0
    assert acl.rt.malloc(size, 0)[1] == 0


def test_align32_takes_no_padding_behind(acl: ModuleType) -> None:
    assert acl.rt.malloc_align32(33, 0)[1] == 0
    assert acl.simulator.used_bytes == 64


def test_a_310_has_ddr_and_no_hbm(acl: ModuleType) -> None:
    assert acl.rt.get_mem_info(1) == (0, 0, 0)
    assert acl.rt.get_mem_info(10) == (0, 0, 100000)
    assert started(Board(soc="Ascend910B", memory_bytes=64)).rt.get_mem_info(1) == (64, 64, 0)


def test_copies_beyond_an_allocation_crash(acl: ModuleType) -> None:
    device, host = acl.rt.malloc(64, 0)[0], acl.rt.malloc_host(64)[0]
    big, long = acl.rt.malloc(128, 0)[0], acl.rt.malloc_host(128)[0]
    with pytest.raises(HardwareWouldCrash, match="exceed device 0 memory"):
        acl.rt.memcpy(device, 65, long, 65, HOST_TO_DEVICE)
    with pytest.raises(HardwareWouldCrash, match="exceed host memory"):
        acl.rt.memcpy(big, 128, host, 65, HOST_TO_DEVICE)
    with pytest.raises(HardwareWouldCrash, match="from byte 60 on exceed"):
        acl.rt.memset(device + 60, 8, 0, 8)
    with pytest.raises(HardwareWouldCrash, match="exceed host memory"):
        acl.util.ptr_to_bytes(host, 65)


def test_a_python_object_is_not_read_past_its_end(acl: ModuleType) -> None:
    data = bytes(10)
    device = acl.rt.malloc(64, 0)[0]
    with pytest.raises(HardwareWouldCrash, match="a Python object of 10 bytes"):
        acl.rt.memcpy(device, 64, acl.util.bytes_to_ptr(data), 11, HOST_TO_DEVICE)


def test_the_bytes_behind_a_pointer_must_be_kept(acl: ModuleType) -> None:
    device = acl.rt.malloc(4000, 0)[0]
    gone = acl.util.bytes_to_ptr(np.zeros(4000, np.uint8).tobytes())
    with pytest.raises(HardwareWouldCrash, match="keep it alive"):
        acl.rt.memcpy(device, 4000, gone, 4000, HOST_TO_DEVICE)
    kept = bytes(8)
    acl.util.bytes_to_ptr(kept)
    with pytest.raises(HardwareWouldCrash, match="freed or was never"):
        acl.rt.memcpy(device, 4000, gone, 4000, HOST_TO_DEVICE)


def test_host_memory_of_which_nothing_is_known_is_believed(acl: ModuleType) -> None:
    memory = ctypes.create_string_buffer(b"outside", 8)
    device = acl.rt.malloc(8, 0)[0]
    assert acl.rt.memcpy(device, 8, ctypes.addressof(memory), 8, HOST_TO_DEVICE) == 0
    assert read(acl, device, 8) == b"outside\0"


@pytest.mark.parametrize(("source", "target", "right"), [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3)])
@pytest.mark.parametrize("kind", range(4))
def test_a_copy_in_another_direction_crashes(
    acl: ModuleType, source: int, target: int, right: int, kind: int
) -> None:
    def memory(where: int) -> int:
        pointer: int = (acl.rt.malloc(8, 0) if where else acl.rt.malloc_host(8))[0]
        return pointer

    arguments = (memory(target), 8, memory(source), 8, kind)
    if kind == right:
        assert acl.rt.memcpy(*arguments) == 0
    else:
        with pytest.raises(HardwareWouldCrash, match=f"copy of kind {kind} from"):
            acl.rt.memcpy(*arguments)


def test_freed_memory_crashes_whoever_uses_it(acl: ModuleType) -> None:
    device, host = acl.rt.malloc(8, 0)[0], acl.rt.malloc_host(8)[0]
    assert acl.rt.free(device) == acl.rt.free_host(host) == 0
    uses: tuple[Callable[[], Any], ...] = (
        lambda: acl.rt.free(device),
        lambda: acl.rt.free_host(host),
        lambda: acl.rt.memset(device, 8, 0, 8),
        lambda: acl.util.ptr_to_bytes(host, 8),
    )
    for use in uses:
        with pytest.raises(HardwareWouldCrash, match=r"freed|not .* allocated now"):
            use()


def test_each_side_has_its_own_free(acl: ModuleType) -> None:
    device, host = acl.rt.malloc(8, 0)[0], acl.rt.malloc_host(8)[0]
    with pytest.raises(HardwareWouldCrash, match="is not device memory"):
        acl.rt.free(host)
    with pytest.raises(HardwareWouldCrash, match="is not host memory"):
        acl.rt.free_host(device)
    with pytest.raises(HardwareWouldCrash, match="is not device memory"):
        acl.rt.free(device + 1)


def test_the_host_cannot_read_device_memory_in_place(acl: ModuleType) -> None:
    with pytest.raises(HardwareWouldCrash, match="cannot read in place"):
        acl.util.ptr_to_bytes(acl.rt.malloc(8, 0)[0], 8)


def test_on_the_soc_all_memory_is_the_devices() -> None:
    acl = started(Board(run_mode=0))
    data = b"12345678"
    device = acl.rt.malloc(8, 0)[0]
    assert device % 64 == 0
    assert acl.rt.memcpy(device, 8, acl.util.bytes_to_ptr(data), 8, DEVICE_TO_DEVICE) == 0
    assert acl.util.ptr_to_bytes(device, 8) == data
    assert acl.rt.malloc_host(8) == (0, 207000)
    with pytest.raises(HardwareWouldCrash, match="on the SoC"):
        acl.rt.memcpy(device, 8, acl.util.bytes_to_ptr(data), 8, HOST_TO_DEVICE)
    assert acl.rt.free(device) == 0
    with pytest.raises(HardwareWouldCrash, match="freed"):
        acl.util.ptr_to_bytes(device, 8)


def test_numpy_helpers_give_addresses_and_views() -> None:
    acl = started(Board(cann="5.0"))
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    device, host = acl.rt.malloc(24, 0)[0], acl.rt.malloc_host(24)[0]
    assert acl.rt.memcpy(device, 24, acl.util.numpy_to_ptr(array), 24, HOST_TO_DEVICE) == 0
    assert acl.rt.memcpy(host, 24, device, 24, DEVICE_TO_HOST) == 0
    view = acl.util.ptr_to_numpy(host, (2, 3), 11)
    np.testing.assert_array_equal(view, array)
    acl.rt.free_host(host)
    assert view.tobytes() == b"\xdd" * 24


def test_a_view_of_an_array_keeps_its_memory_valid() -> None:
    acl = started(Board(cann="5.0"))
    array = np.arange(6, dtype=np.float32)
    device = acl.rt.malloc(24, 0)[0]
    assert acl.rt.memcpy(device, 24, acl.util.numpy_to_ptr(array.reshape(2, 3)), 24, HOST_TO_DEVICE) == 0
    with pytest.raises(HardwareWouldCrash, match="keep it alive"):
        acl.rt.memcpy(device, 24, acl.util.numpy_to_ptr(array + 1), 24, HOST_TO_DEVICE)


def test_only_contiguous_arrays_have_an_address() -> None:
    acl = started(Board(cann="5.0"))
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    with pytest.raises(HardwareWouldCrash, match="not C-contiguous"):
        acl.util.numpy_to_ptr(turned)
    pointer, kept = acl.util.numpy_contiguous_to_ptr(turned)
    assert pointer == kept.ctypes.data
    np.testing.assert_array_equal(acl.util.ptr_to_numpy(pointer, (3, 2), 11), turned)


def test_wrong_python_types_raise(acl: ModuleType) -> None:
    with pytest.raises(TypeError, match="takes bytes, not bytearray"):
        acl.util.bytes_to_ptr(bytearray(3))
    with pytest.raises(TypeError, match="takes str"):
        acl.mdl.load_from_file(b"x.om")
    old = started(Board(cann="5.0"))
    with pytest.raises(TypeError, match="take arrays, not bytes"):
        old.util.numpy_to_ptr(b"abc")
    with pytest.raises(TypeError, match="type numbers"):
        old.util.ptr_to_numpy(1, (1,), 99)


def test_a_fault_strikes_the_nth_call_and_does_nothing() -> None:
    acl = started(Board(faults=(Fault(call="rt.malloc", nth=2, code=207001),)))
    results = [acl.rt.malloc(8, 0)[1] for _ in range(3)]
    assert results == [0, 207001, 0]
    assert acl.simulator.used_bytes == 2 * 64
    assert "a simulated fault" in acl.get_recent_err_msg()
