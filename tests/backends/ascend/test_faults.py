"""Every pyACL call the adapter makes fails once: a clear error, nothing left on the device, and the next session works."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backends.ascend import codes
from backends.ascend.runtime import AclError
from backends.errors import BackendError
from backends.simulators.acl import Fault
from harness.errors import Unavailable
from tests.backends.ascend.conftest import HALF, Maker, Setup, images

GEARS: dict[str, Any] = {"gears": (1, 2)}
PLAIN: dict[str, Any] = {}
CODES = (100000, 207001, 507011)


def work(setup: Setup) -> None:
    """Open, run, close, and end the process's use of the device."""
    session = setup.open()
    rows = images(3)
    np.testing.assert_allclose(session.run(rows)["embedding"], setup.expected(rows), rtol=0, atol=HALF)
    session.run(images(1))
    session.close()
    setup.backend._runtime().finish()


def calls_made(make: Maker, **settings: Any) -> dict[str, int]:
    """How often each call is made in that work, where nothing fails."""
    setup = make(**settings)
    work(setup)
    return dict(Counter(setup.acl.simulator.calls))


@pytest.mark.parametrize("settings", [PLAIN, GEARS], ids=["static", "gears"])
@pytest.mark.parametrize(("cann", "run_mode"), [("5.0", 1), ("8.0", 1), ("8.0", 0)])
def test_every_call_may_fail_once(
    make: Maker,
    settings: dict[str, Any],
    cann: str,
    run_mode: int,
    record_property: Callable[[str, object], None],
) -> None:
    board: dict[str, Any] = {"cann": cann, "run_mode": run_mode}
    made = calls_made(make, **settings, **board)
    tried = 0
    for call, count in made.items():
        if call == "get_recent_err_msg":
            continue  # it only adds to the words of an error
        for nth in range(1, count + 1):
            tried += 1
            code = CODES[tried % len(CODES)]
            setup = make(**settings, **board, faults=(Fault(call=call, nth=nth, code=code),))
            with pytest.raises((BackendError, Unavailable)) as raised:
                work(setup)
            message = str(raised.value)
            assert names_what_failed(message, call, code), (call, nth, message)
            finish_quietly(setup)
            assert setup.acl.simulator.leaks() == [], (call, nth)
            work(setup)  # the next session, on the same board
            assert setup.acl.simulator.leak_report == [], (call, nth)
    record_property("faults", tried)
    assert tried > 40


def names_what_failed(message: str, call: str, code: int) -> bool:
    """By call, code and meaning; where a plain getter gave nothing, by what was missed."""
    told = f"acl.{call} gave {code}, {codes.meaning(code)}" in message
    return told or (call in BARE and re.search(BARE[call], message) is not None)


BARE = {
    "mdl.create_desc": "acl.mdl.create_desc gave no handle",
    "mdl.create_dataset": "acl.mdl.create_dataset gave no handle",
    "create_data_buffer": "acl.create_data_buffer gave no handle",
    "get_soc_name": "the chip here is unknown to CANN",
    "mdl.get_num_inputs": "says that the OM has none",
    "mdl.get_num_outputs": "says that the OM has none",
    "mdl.get_input_name_by_index": "gave no name",
    "mdl.get_output_name_by_index": "gave no name",
    "mdl.get_input_size_by_index": r"bytes|acl\.rt\.malloc",
    "mdl.get_output_size_by_index": r"bytes|acl\.rt\.malloc",
    "mdl.get_input_data_type": "data type -1",
    "mdl.get_output_data_type": "data type -1",
    "util.bytes_to_ptr": "acl.util.bytes_to_ptr gave no handle",
    "util.numpy_to_ptr": "acl.util.numpy_to_ptr gave no handle",
    "util.ptr_to_bytes": "gave nothing",
    "util.ptr_to_numpy": "gave nothing",
}


def finish_quietly(setup: Setup) -> None:
    for session in setup.opened:
        with contextlib.suppress(BackendError):
            session.close()
    with contextlib.suppress(BackendError):
        setup.backend._runtime().finish()


def test_an_error_says_call_code_meaning_and_what_the_device_says(make: Maker) -> None:
    setup = make(faults=(Fault(call="rt.malloc", nth=2, code=207001),))
    with pytest.raises(AclError) as raised:
        setup.open()
    assert raised.value.call == "rt.malloc"
    assert raised.value.code == 207001
    assert "acl.rt.malloc gave 207001, out of memory on the device" in str(raised.value)
    assert "; the device says: " in str(raised.value)
    setup.finish()


def test_a_device_too_small_for_the_model_is_an_error_and_nothing_stays(make: Maker) -> None:
    setup = make(memory_bytes=8192)
    with pytest.raises(AclError, match=r"gave (207001|245002)"):
        setup.open()
    assert setup.acl.simulator.leaks() == [] or setup.finish() == []


def test_a_session_left_open_is_closed_when_the_process_ends(make: Maker) -> None:
    setup = make()
    setup.open()
    setup.open()
    assert setup.finish() == []


def test_who_initialised_before_us_finalises(make: Maker) -> None:
    setup = make()
    setup.acl.init()
    setup.open().close()
    setup.backend._runtime().finish()
    assert "finalize" not in setup.acl.simulator.calls
    setup.acl.finalize()
    assert setup.acl.simulator.leak_report == []


@pytest.mark.parametrize("code", [107002, 207001, 145013, 299999, 199999, 42])
def test_every_code_has_words(code: int) -> None:
    assert codes.meaning(code)
    assert (code in {107002, 207001, 145013}) == ("first digit" not in codes.meaning(code))
