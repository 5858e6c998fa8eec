"""Each row of the reference's table of misuse, under the code it gives."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from backends.simulators.acl import Board, create
from tests.backends.simulators.acl.conftest import GEARS, Program, WriteOm, started


def test_init_twice_is_100002_and_one_finalize_ends_it_all(acl: ModuleType) -> None:
    assert acl.init() == 100002
    assert acl.init("no such file") == 100002
    assert acl.finalize() == 0
    assert acl.finalize() == 100037


def test_finalize_before_any_init_is_not_rejected() -> None:
    assert create(Board()).finalize() == 0


def test_init_again_takes_the_same_configuration_only(tmp_path: Path) -> None:
    acl = create(Board())
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "same.json").write_text("{ }\n")
    (tmp_path / "other.json").write_text(json.dumps({"dump": {}}))
    assert [acl.init(str(tmp_path / "a.json")), acl.finalize()] == [0, 0]
    assert acl.init(str(tmp_path / "other.json")) == 100000
    assert [acl.init(str(tmp_path / "same.json")), acl.finalize()] == [0, 0]


def test_a_configuration_must_be_there_and_be_json(tmp_path: Path) -> None:
    acl = create(Board())
    assert acl.init(str(tmp_path / "none.json")) == 100003
    (tmp_path / "bad.json").write_text("{")
    assert acl.init(str(tmp_path / "bad.json")) == 100006
    assert acl.init() == 0


def test_models_before_init_are_145001(write_om: WriteOm) -> None:
    acl = create(Board())
    assert acl.mdl.load_from_file(write_om()) == (0, 145001)
    assert acl.mdl.load_from_mem(1, 1) == (0, 145001)
    assert acl.mdl.unload(1) == 145001
    assert acl.mdl.get_desc(acl.mdl.create_desc(), 1) == 145001


@pytest.mark.parametrize("device", [-1, 2])
def test_a_device_that_is_not_there_is_107001(device: int) -> None:
    acl = started(Board(devices=2))
    assert acl.rt.set_device(device) == 107001
    assert acl.rt.reset_device(device) == 107001
    assert acl.rt.create_context(device) == (0, 107001)
    assert acl.rt.set_device(1) == 0


def test_a_device_before_init_is_100001() -> None:
    acl = create(Board())
    assert acl.rt.set_device(0) == 100001
    assert acl.rt.get_device_count() == (1, 0)
    assert acl.get_soc_name() == "Ascend310"


def test_without_a_context_all_device_calls_are_107002(write_om: WriteOm) -> None:
    acl = create(Board())
    acl.init()
    data = b"1234"
    here = acl.util.bytes_to_ptr(data)
    results = {
        acl.rt.malloc(8, 0),
        acl.rt.malloc_host(8),
        acl.rt.create_stream(),
        acl.rt.create_event(),
        acl.rt.get_device(),
        acl.rt.get_context(),
        acl.mdl.load_from_file(write_om()),
        acl.rt.free(1),
        acl.rt.free_host(1),
        acl.rt.memcpy(here, 4, here + 1, 1, 0),
        acl.rt.memset(here, 4, 0, 4),
        acl.rt.synchronize_device(),
        acl.rt.synchronize_stream(0),
    }
    assert results == {(0, 107002), 107002}
    assert acl.rt.get_mem_info(0) == (0, 0, 107002)


def test_a_device_that_is_not_set_or_reset_already_is_507007(acl: ModuleType) -> None:
    assert acl.rt.reset_device(0) == 0
    assert acl.rt.reset_device(0) == 507007


def test_empty_allocations_and_null_pointers_are_100000(acl: ModuleType) -> None:
    assert acl.rt.malloc(0, 0) == (0, 100000)
    assert acl.rt.malloc(8, 99) == (0, 100000)
    assert acl.rt.malloc_host(0) == (0, 100000)
    assert acl.rt.free(0) == 100000
    assert acl.rt.free_host(0) == 100000
    assert acl.rt.destroy_stream(0) == 100000


def test_copies_check_their_arguments(acl: ModuleType) -> None:
    device, host = acl.rt.malloc(64, 0)[0], acl.rt.malloc_host(64)[0]
    assert [acl.rt.memcpy(device, 64, host, 0, kind) for kind in (1, 2)] == [0, 0]
    assert acl.rt.memcpy(device, 64, device, 64, 3) == 0
    assert acl.rt.memcpy(0, 64, host, 64, 1) == 100000
    assert acl.rt.memcpy(device, 64, 0, 64, 1) == 100000
    assert acl.rt.memcpy(device, 63, host, 64, 1) == 107000
    assert acl.rt.memcpy(device, 0, host, 64, 1) == 107000
    assert [acl.rt.memcpy(device, 64, host, 64, kind) for kind in (-1, 6, 7)] == [100000] * 3
    assert acl.rt.memset(device, 63, 0, 64) == 107000
    assert acl.rt.memset(0, 64, 0, 64) == 100000


def test_no_stream_copies_from_host_to_host(acl: ModuleType) -> None:
    a, b = acl.rt.malloc_host(8)[0], acl.rt.malloc_host(8)[0]
    assert acl.rt.memcpy_async(a, 8, b, 8, 0, 0) == 207000


@pytest.mark.parametrize("keep", [0, 10, 40, 400])
def test_a_file_that_is_no_om_is_145006_with_e10001(acl: ModuleType, write_om: WriteOm, keep: int) -> None:
    path = Path(write_om())
    path.write_bytes(path.read_bytes()[:keep])
    assert acl.mdl.load_from_file(str(path)) == (0, 145006)
    message = acl.get_recent_err_msg()
    assert message.startswith("E10001: Invalid om file.")
    assert str(path) in message


def test_a_missing_model_is_145002(acl: ModuleType, tmp_path: Path) -> None:
    assert acl.mdl.load_from_file(str(tmp_path / "none.om")) == (0, 145002)


def test_an_unknown_model_is_145003(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    program.ok(acl.mdl.unload(program.model))
    assert acl.mdl.get_desc(program.desc, program.model) == 145003
    assert program.execute() == 145003
    assert program.execute_async() == 145003
    assert acl.mdl.unload(program.model) == 145003
    assert acl.mdl.set_dynamic_batch_size(program.model, program.inputs, 0, 1) == 145003
    assert acl.mdl.get_cur_output_dims(program.desc, 0) == (None, 145003)


def test_a_wrong_number_of_buffers_is_145000(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    empty = acl.mdl.create_dataset()
    assert acl.mdl.execute(program.model, empty, program.outputs) == 145000
    assert acl.mdl.execute(program.model, program.inputs, empty) == 145000
    spare = acl.create_data_buffer(program.pointer(program.outputs, 0), 8)
    acl.mdl.add_dataset_buffer(program.outputs, spare)
    assert program.execute() == 145000


@pytest.mark.parametrize(("short", "code"), [(65, 145000), (64, 0), (0, 0), (-100, 0)])
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_static_buffers_may_be_64_bytes_short_not_more(
    acl: ModuleType, write_om: WriteOm, short: int, code: int, side: str
) -> None:
    program = Program(acl, write_om())
    dataset = getattr(program, side)
    buffer = acl.mdl.get_dataset_buffer(dataset, 0)
    acl.update_data_buffer(buffer, program.pointer(dataset, 0), 384 - short)
    assert program.execute() == code


def test_null_objects_are_100000(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    assert acl.mdl.add_dataset_buffer(program.inputs, 0) == (0, 100000)
    assert acl.mdl.add_dataset_buffer(0, 0) == (0, 100000)
    assert acl.mdl.execute(program.model, 0, program.outputs) == 100000
    assert acl.mdl.execute(program.model, program.inputs, 0) == 100000
    assert acl.mdl.get_desc(0, program.model) == 100000
    assert acl.mdl.destroy_dataset(0) == 100000
    assert acl.destroy_data_buffer(0) == 100000
    assert acl.mdl.get_dataset_buffer(program.inputs, 5) == 0
    assert acl.get_data_buffer_addr(0) == 0


def test_an_output_without_memory_is_given_some_by_execute_only(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    buffer = acl.mdl.get_dataset_buffer(program.outputs, 0)
    acl.rt.free(program.pointer(program.outputs, 0))
    acl.update_data_buffer(buffer, 0, 0)
    before = acl.simulator.used_bytes
    assert program.execute_async() == 100000
    assert program.execute() == 0
    assert acl.simulator.used_bytes == before + 384 + 32
    assert acl.get_data_buffer_size_v2(buffer) == 384
    program.close()
    assert acl.simulator.leak_report == []


def test_an_input_without_memory_is_145000(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    acl.update_data_buffer(acl.mdl.get_dataset_buffer(program.inputs, 0), 0, 0)
    assert program.execute() == 145000


def test_gears_check_their_arguments(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om(gears=GEARS))
    hidden = acl.mdl.get_dataset_buffer(program.inputs, 1)
    pointer = program.pointer(program.inputs, 1)

    def set_gear(batch: int, index: int = 1) -> int:
        ret: int = acl.mdl.set_dynamic_batch_size(program.model, program.inputs, index, batch)
        return ret

    assert [set_gear(batch) for batch in (0, 3, 8)] == [100000, 145013, 145013]
    assert [set_gear(2, index) for index in (-1, 2)] == [100000, 100000]
    acl.update_data_buffer(hidden, pointer, 3)
    assert set_gear(2) == 145012
    acl.update_data_buffer(hidden, 0, 0)
    assert set_gear(2) == 100000
    acl.update_data_buffer(hidden, pointer, 4)
    assert set_gear(2) == 0


def test_a_static_model_has_no_gears(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    assert acl.mdl.set_dynamic_batch_size(program.model, program.inputs, 0, 2) == 100019
    assert acl.mdl.get_dynamic_batch(program.desc) == ({"batchCount": 0, "batch": []}, 0)
    assert acl.mdl.get_input_index_by_name(program.desc, "ascend_mbatch_shape_data") == (0, 100000)


def test_unknown_names_and_indices(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    desc = program.desc
    assert acl.mdl.get_input_index_by_name(desc, "map") == (0, 100000)
    assert acl.mdl.get_output_index_by_name(desc, "map") == (0, 100000)
    for side, count in (("input", 1), ("output", 2)):
        for index in (-1, count):
            assert getattr(acl.mdl, f"get_{side}_size_by_index")(desc, index) == 0
            assert getattr(acl.mdl, f"get_{side}_data_type")(desc, index) == -1
            assert getattr(acl.mdl, f"get_{side}_format")(desc, index) == -1
            assert getattr(acl.mdl, f"get_{side}_name_by_index")(desc, index) == ""
            assert getattr(acl.mdl, f"get_{side}_dims")(desc, index) == (None, 100000)
    empty = acl.mdl.create_desc()
    assert acl.mdl.get_num_inputs(empty) == acl.mdl.get_num_outputs(empty) == 0
