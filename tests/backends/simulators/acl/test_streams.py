import threading
from types import ModuleType
from typing import Any

import pytest

from backends.simulators.acl import Board, HardwareWouldCrash
from tests.backends.simulators.acl.conftest import DEVICE_TO_HOST, HOST_TO_DEVICE, started


def copies(acl: ModuleType, stream: int, size: int = 8) -> tuple[int, int]:
    """Device memory and host memory, the copy of which to the device waits in the stream."""
    device, host = acl.rt.malloc(size, 0)[0], acl.rt.malloc_host(size)[0]
    assert acl.rt.memcpy_async(device, size, host, size, HOST_TO_DEVICE, stream) == 0
    return device, host


def write(acl: ModuleType, pointer: int, value: int) -> None:
    assert acl.rt.memset(pointer, 8, value, 8) == 0


def read(acl: ModuleType, pointer: int) -> bytes:
    host = acl.rt.malloc_host(8)[0]
    assert acl.rt.memcpy(host, 8, pointer, 8, DEVICE_TO_HOST) == 0
    data: bytes = acl.util.ptr_to_bytes(host, 8)
    return data


@pytest.mark.parametrize("wait", ["stream", "timeout", "device", "event"])
def test_a_copy_takes_effect_when_it_is_waited_for(acl: ModuleType, wait: str) -> None:
    stream, event = acl.rt.create_stream()[0], acl.rt.create_event()[0]
    device, host = copies(acl, stream)
    acl.rt.record_event(event, stream)
    write(acl, host, 7)
    assert read(acl, device) == b"\xcd" * 8
    waits = {
        "stream": lambda: acl.rt.synchronize_stream(stream),
        "timeout": lambda: acl.rt.synchronize_stream_with_timeout(stream, -1),
        "device": acl.rt.synchronize_device,
        "event": lambda: acl.rt.synchronize_event(event),
    }
    assert waits[wait]() == 0
    assert read(acl, device) == b"\x07" * 8  # as the host memory is now: reused too early, it shows


def test_waiting_for_one_stream_leaves_the_other_waiting(acl: ModuleType) -> None:
    one, two = acl.rt.create_stream()[0], acl.rt.create_stream()[0]
    device, host = copies(acl, one)
    write(acl, host, 1)
    acl.rt.synchronize_stream(two)
    acl.rt.synchronize_stream(0)
    assert read(acl, device) == b"\xcd" * 8


def test_0_is_the_default_stream(acl: ModuleType) -> None:
    device, host = copies(acl, 0)
    write(acl, host, 1)
    assert acl.rt.synchronize_stream(0) == 0
    assert read(acl, device) == b"\x01" * 8


def test_an_event_waits_for_what_is_before_it_only(acl: ModuleType) -> None:
    stream, event = acl.rt.create_stream()[0], acl.rt.create_event()[0]
    before, host = copies(acl, stream)
    acl.rt.record_event(event, stream)
    after, _ = copies(acl, stream)
    write(acl, host, 1)
    assert acl.rt.synchronize_event(event) == 0
    assert read(acl, before) == b"\x01" * 8
    acl.rt.memset(after, 8, 3, 8)
    assert read(acl, after) == b"\x03" * 8


def test_a_stream_waits_for_an_event_of_another(acl: ModuleType) -> None:
    one, two, event = acl.rt.create_stream()[0], acl.rt.create_stream()[0], acl.rt.create_event()[0]
    device, host = copies(acl, one)
    write(acl, host, 5)
    acl.rt.record_event(event, one)
    assert acl.rt.stream_wait_event(two, event) == 0
    assert acl.rt.synchronize_stream(two) == 0
    assert read(acl, device) == b"\x05" * 8


def test_elapsed_time_is_in_milliseconds_between_reached_events(
    acl: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([1.0, 1.25])
    monkeypatch.setattr("backends.simulators.acl.streams.time.perf_counter", lambda: next(times))
    first, last = acl.rt.create_event()[0], acl.rt.create_event_with_flag(8)[0]
    acl.rt.record_event(first, 0)
    acl.rt.record_event(last, 0)
    assert acl.rt.event_elapsed_time(first, last) == (0.0, 107006)
    acl.rt.synchronize_stream(0)
    assert acl.rt.event_elapsed_time(first, last) == (250.0, 0)
    assert acl.rt.event_elapsed_time(last, first) == (0.0, 107007)
    acl.rt.record_event(last, 0)
    assert acl.rt.event_elapsed_time(first, last) == (0.0, 107006)


def test_events_and_timeouts_check_their_arguments(acl: ModuleType) -> None:
    assert acl.rt.create_event_with_flag(0) == (0, 107000)
    assert acl.rt.synchronize_stream_with_timeout(0, -2) == 107000
    assert acl.rt.synchronize_event(0) == 100000


def test_a_stream_of_another_context_is_107003(acl: ModuleType) -> None:
    stream = acl.rt.create_stream()[0]
    acl.rt.create_context(0)
    assert acl.rt.synchronize_stream(stream) == 107003
    assert acl.rt.destroy_stream(stream) == 107003
    assert acl.rt.record_event(acl.rt.create_event()[0], stream) == 107003


def test_memory_freed_under_waiting_work_crashes(acl: ModuleType) -> None:
    device, _ = copies(acl, 0)
    acl.rt.free(device)
    with pytest.raises(HardwareWouldCrash, match="freed"):
        acl.rt.synchronize_stream(0)


def test_bytes_that_die_under_waiting_work_crash(acl: ModuleType) -> None:
    device, data = acl.rt.malloc(64, 0)[0], bytes(bytearray(64))
    acl.rt.memcpy_async(device, 64, acl.util.bytes_to_ptr(data), 64, HOST_TO_DEVICE, 0)
    del data
    with pytest.raises(HardwareWouldCrash, match="keep it alive"):
        acl.rt.synchronize_stream(0)


def test_work_of_a_destroyed_stream_is_never_done(acl: ModuleType) -> None:
    stream = acl.rt.create_stream()[0]
    device, host = copies(acl, stream)
    write(acl, host, 1)
    assert acl.rt.destroy_stream(stream) == 0
    assert acl.rt.synchronize_device() == 0
    assert read(acl, device) == b"\xcd" * 8


def test_handles_of_another_kind_or_destroyed_crash(acl: ModuleType) -> None:
    stream, event = acl.rt.create_stream()[0], acl.rt.create_event()[0]
    with pytest.raises(HardwareWouldCrash, match="no stream, but of event"):
        acl.rt.synchronize_stream(event)
    with pytest.raises(HardwareWouldCrash, match="no context, but of nothing"):
        acl.rt.set_context(5)
    acl.rt.destroy_stream(stream)
    with pytest.raises(HardwareWouldCrash, match="is destroyed"):
        acl.rt.destroy_stream(stream)


def test_contexts_belong_to_threads() -> None:
    acl = started(Board())
    context = acl.rt.get_context()[0]
    found: list[Any] = []

    def work() -> None:
        found.append(acl.rt.malloc(8, 0))
        found.append(acl.rt.set_context(context))
        found.append(acl.rt.malloc(8, 0)[1])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(0, 107002), 0, 0]
    assert acl.rt.get_context() == (context, 0)


def test_a_destroyed_context_is_nobodys() -> None:
    acl = started(Board())
    context = acl.rt.get_context()[0]
    assert acl.rt.destroy_context(context) == 0
    assert acl.rt.malloc(8, 0) == (0, 107002)
    with pytest.raises(HardwareWouldCrash, match="is destroyed"):
        acl.rt.set_context(context)


def test_the_default_context_lasts_as_long_as_the_device_is_set() -> None:
    acl = started(Board(devices=2))
    assert [acl.rt.set_device(1), acl.rt.set_device(1)] == [0, 0]
    default = acl.rt.get_context()[0]
    assert acl.rt.get_device() == (1, 0)
    assert acl.rt.destroy_context(default) == 107000
    assert acl.rt.reset_device(1) == 0
    assert acl.rt.get_context() == (default, 0)
    assert acl.rt.reset_device(1) == 0
    assert acl.rt.get_context() == (0, 107002)


def test_a_new_context_is_the_threads_own() -> None:
    acl = started(Board())
    first = acl.rt.get_context()[0]
    second = acl.rt.create_context(0)[0]
    assert acl.rt.get_context() == (second, 0)
    assert acl.rt.set_context(first) == 0
    assert acl.rt.get_context() == (first, 0)


def test_force_zeroes_the_count() -> None:
    acl = started(Board(cann="8.0"))
    acl.rt.set_device(0)
    assert acl.rt.reset_device_force(0) == 0
    assert acl.rt.reset_device(0) == 507007


def test_a_context_that_outlives_its_device_is_lost() -> None:
    acl = started(Board())
    context, stream = acl.rt.get_context()[0], acl.rt.create_stream()[0]
    assert acl.rt.reset_device(0) == 0
    assert acl.rt.destroy_stream(stream) == 107002
    assert acl.rt.destroy_context(context) == 107002
    assert acl.rt.set_device(0) == 0
    assert acl.rt.set_context(context) == 107002
    acl.finalize()
    assert f"context {context:#x}" in acl.simulator.leak_report


def test_threads_have_default_contexts_of_their_own() -> None:
    acl = started(Board())
    acl.rt.set_device(0)
    mine, theirs = acl.rt.get_context()[0], []

    def work() -> None:
        acl.rt.set_device(0)
        theirs.append(acl.rt.get_context()[0])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert theirs != [mine]
    assert [acl.rt.reset_device(0) for _ in range(4)] == [0, 0, 0, 507007]
