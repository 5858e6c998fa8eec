import re
import threading
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from backends.simulators.acl import Board, Fault, create
from tests.backends.simulators.acl.conftest import DEVICE_TO_HOST, HOST_TO_DEVICE, started

BYTES = {"bytes_to_ptr", "ptr_to_bytes"}
NUMPY = {"numpy_to_ptr", "ptr_to_numpy", "numpy_contiguous_to_ptr"}


def test_it_says_that_it_is_simulated_and_has_no_constants() -> None:
    acl = create(Board())
    assert acl.SIMULATED is True
    assert [
        name for module in (acl, acl.rt, acl.mdl, acl.util) for name in dir(module) if "ACL" in name
    ] == []


@pytest.mark.parametrize(
    ("cann", "helpers", "sizes"),
    [
        ("5.0", NUMPY, {"get_data_buffer_size"}),
        ("7.0", BYTES | NUMPY, {"get_data_buffer_size", "get_data_buffer_size_v2"}),
        ("8.0", BYTES, {"get_data_buffer_size_v2"}),
    ],
)
def test_each_cann_offers_its_own_functions(cann: Any, helpers: set[str], sizes: set[str]) -> None:
    acl = create(Board(cann=cann))
    assert {name for name in dir(acl.util) if not name.startswith("_")} == helpers
    assert {name for name in dir(acl) if name.startswith("get_data_buffer_size")} == sizes
    assert hasattr(acl.rt, "reset_device_force") == (cann == "8.0")


def test_the_numpy_helpers_warn_where_they_are_old() -> None:
    array = np.zeros(4, np.uint8)
    acl = create(Board(cann="7.0"))
    calls: tuple[Callable[[], Any], ...] = (
        lambda: acl.util.numpy_to_ptr(array),
        lambda: acl.util.ptr_to_numpy(array.ctypes.data, (4,), 2),
        lambda: acl.util.numpy_contiguous_to_ptr(array),
    )
    for call in calls:
        with pytest.warns(DeprecationWarning, match="is deprecated: use") as caught:
            call()
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create(Board(cann="5.0")).util.numpy_to_ptr(array)


@pytest.mark.parametrize("code", "?bBhHiIlLqQfde")
def test_arrays_come_back_by_numpys_type_number(code: str) -> None:
    acl = started(Board(cann="5.0"))
    array = np.arange(6).reshape(2, 3).astype(code)
    size = array.nbytes
    device, host = acl.rt.malloc(size, 0)[0], acl.rt.malloc_host(size)[0]
    acl.rt.memcpy(device, size, acl.util.numpy_to_ptr(array), size, HOST_TO_DEVICE)
    acl.rt.memcpy(host, size, device, size, DEVICE_TO_HOST)
    found = acl.util.ptr_to_numpy(host, (2, 3), array.dtype.num)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_the_old_size_getter_has_32_bits(acl: ModuleType) -> None:
    buffer = acl.create_data_buffer(64, (1 << 32) + 5)
    assert acl.get_data_buffer_size(buffer) == 5
    assert acl.get_data_buffer_size_v2(buffer) == (1 << 32) + 5


def test_the_recent_message_is_read_once_and_per_thread(acl: ModuleType) -> None:
    assert acl.get_recent_err_msg() is None
    acl.rt.malloc(0, 0)
    acl.rt.free(0)
    elsewhere: list[str | None] = []
    thread = threading.Thread(target=lambda: elsewhere.append(acl.get_recent_err_msg()))
    thread.start()
    thread.join()
    assert elsewhere == [None]
    assert acl.get_recent_err_msg() == (
        "E19999: 0 bytes of device memory [acl.rt.malloc, code 100000]\n"
        "E19999: the pointer is null [acl.rt.free, code 100000]"
    )
    assert acl.get_recent_err_msg() is None


def test_messages_of_cann_8_carry_process_time_and_title() -> None:
    acl = started(Board(cann="8.0"))
    acl.rt.malloc(0, 0)
    pattern = r"\[PID: \d+\] \d{4}-\d\d-\d\d-[\d:.]+ Inner_Error\(E19999\): 0 bytes of device memory .*"
    assert re.fullmatch(pattern, acl.get_recent_err_msg())


def test_the_getters_say_what_the_board_is() -> None:
    acl = create(Board(soc="Ascend310P3", devices=3, run_mode=0))
    assert acl.get_soc_name() == "Ascend310P3"
    assert acl.rt.get_device_count() == (3, 0)
    assert acl.rt.get_run_mode() == (0, 0)
    assert acl.simulator.calls == ["get_soc_name", "rt.get_device_count", "rt.get_run_mode"]


def test_a_fault_in_any_call_takes_its_own_form() -> None:
    names = [
        f"{module}.{name}".lstrip(".")
        for module in ("", "rt", "mdl", "util")
        for name, value in vars(getattr(create(Board()), module) if module else create(Board())).items()
        if callable(value) and not name.startswith("_")
    ]
    assert len(names) == 77
    forms = {}
    for name in names:
        acl = create(Board(faults=(Fault(call=name, code=123456),)))
        module, _, function = name.rpartition(".")
        forms[name] = getattr(getattr(acl, module) if module else acl, function)()
    pairs = {name for name, form in forms.items() if isinstance(form, tuple) and form[-1] == 123456}
    assert {"rt.malloc", "mdl.load_from_file", "mdl.add_dataset_buffer", "rt.get_run_mode"} <= pairs
    assert forms["rt.get_mem_info"] == (0, 0, 123456)
    assert forms["mdl.execute"] == forms["rt.memcpy"] == forms["init"] == 123456
    bare = {name: form for name, form in forms.items() if form != 123456 and name not in pairs}
    assert bare == {
        "get_recent_err_msg": None,
        "get_soc_name": None,
        "create_data_buffer": 0,
        "get_data_buffer_addr": 0,
        "get_data_buffer_size": 0,
        "get_data_buffer_size_v2": 0,
        "mdl.create_desc": 0,
        "mdl.create_dataset": 0,
        "mdl.get_dataset_buffer": 0,
        "mdl.get_dataset_num_buffers": 0,
        "mdl.get_num_inputs": 0,
        "mdl.get_num_outputs": 0,
        "mdl.get_input_size_by_index": 0,
        "mdl.get_output_size_by_index": 0,
        "mdl.get_input_data_type": -1,
        "mdl.get_output_data_type": -1,
        "mdl.get_input_format": -1,
        "mdl.get_output_format": -1,
        "mdl.get_input_name_by_index": "",
        "mdl.get_output_name_by_index": "",
        "util.bytes_to_ptr": 0,
        "util.ptr_to_bytes": None,
        "util.numpy_to_ptr": 0,
        "util.ptr_to_numpy": None,
        "util.numpy_contiguous_to_ptr": (0, None),
    }


def test_a_fault_in_a_call_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"CANN 8.0 as simulated has no call rt.maloc, util.numpy_to_ptr"):
        create(
            Board(
                cann="8.0", faults=(Fault(call="rt.maloc", code=1), Fault(call="util.numpy_to_ptr", code=1))
            )
        )
