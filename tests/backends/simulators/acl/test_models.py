import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from backends.simulators import om
from backends.simulators.acl import Board, HardwareWouldCrash, Latency, aipp
from backends.simulators.acl.objects import Model
from tests.backends.simulators.acl.conftest import (
    GEARS,
    HOST_TO_DEVICE,
    LARGE,
    SMALL,
    Program,
    WriteOm,
    batch_of,
    started,
)

MEANS, SCALES = (123.675, 116.28, 103.53), (0.0171247538, 0.0175070028, 0.0174291939)
IMAGENET = om.Aipp(rbuv_swap=False, mean=(0, 0, 0), min=MEANS, var_reci=SCALES)


def test_a_static_model_computes_and_leaves_nothing_behind(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    batch = batch_of(2)
    program.feed(batch)
    assert program.execute() == 0
    np.testing.assert_array_equal(program.map(), 2 * batch + 1)
    means = np.frombuffer(program.output(1), np.float32).reshape(2, 3)
    exact = (2 * batch + 1).mean((2, 3))
    np.testing.assert_array_equal(means, exact.astype(np.float16))
    program.close()
    assert acl.simulator.leak_report == acl.simulator.leaks() == []
    assert acl.simulator.used_bytes == acl.simulator.handles == 0


def test_the_leak_report_names_what_was_not_released(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    acl.rt.create_event()
    acl.rt.malloc_host(5)
    alive = acl.simulator.handles
    assert acl.finalize() == 0
    report = acl.simulator.leak_report
    kinds = ("model 1", "stream", "event", "data buffer", "dataset", "model description", "context")
    for kind in (*kinds, "host memory", "device 0 memory", "device 0, set 1 times"):
        assert any(line.startswith(kind) for line in report), kind
    assert len(report) == alive + 1 == 15
    assert acl.init() == 0
    program.close()
    left = acl.simulator.leak_report
    assert [line.split(" 0x")[0] for line in left] == ["event", "host memory"]


def test_descriptions_of_a_static_model(acl: ModuleType, write_om: WriteOm) -> None:
    mdl, desc = acl.mdl, Program(acl, write_om(output="float16")).desc
    assert (mdl.get_num_inputs(desc), mdl.get_num_outputs(desc)) == (1, 2)
    assert mdl.get_input_dims(desc, 0) == ({"name": "image", "dimCount": 4, "dims": [2, 3, 4, 4]}, 0)
    assert mdl.get_input_dims_v2(desc, 0) == mdl.get_input_dims(desc, 0)
    assert mdl.get_output_dims(desc, 1)[0]["dims"] == mdl.get_cur_output_dims(desc, 1)[0]["dims"] == [2, 3]
    assert [mdl.get_output_size_by_index(desc, i) for i in (0, 1)] == [LARGE, 2 * SMALL]
    assert [mdl.get_output_data_type(desc, i) for i in (0, 1)] == [1, 0]
    assert [mdl.get_output_format(desc, i) for i in (0, 1)] == [0, 2]
    assert (mdl.get_input_data_type(desc, 0), mdl.get_input_format(desc, 0)) == (0, 0)
    assert mdl.get_output_name_by_index(desc, 0) == "Add_1:0:map"
    assert mdl.get_output_index_by_name(desc, "ReduceMean_2:0:mean") == (1, 0)
    assert mdl.get_input_index_by_name(desc, mdl.get_input_name_by_index(desc, 0)) == (0, 0)


def test_descriptions_of_a_model_with_gears(acl: ModuleType, write_om: WriteOm) -> None:
    mdl, desc = acl.mdl, Program(acl, write_om(gears=GEARS)).desc
    assert mdl.get_num_inputs(desc) == 2
    assert mdl.get_dynamic_batch(desc) == ({"batchCount": 3, "batch": [1, 2, 4]}, 0)
    assert mdl.get_input_dims(desc, 0)[0]["dims"] == [-1, 3, 4, 4]
    assert (
        mdl.get_output_dims(desc, 0)[0]["dims"] == mdl.get_cur_output_dims(desc, 0)[0]["dims"] == [4, 3, 4, 4]
    )
    assert mdl.get_input_size_by_index(desc, 0) == mdl.get_output_size_by_index(desc, 0) == 4 * LARGE
    assert mdl.get_input_index_by_name(desc, "ascend_mbatch_shape_data") == (1, 0)
    assert mdl.get_input_size_by_index(desc, 1) == 4


@pytest.mark.parametrize("gear", GEARS)
def test_a_gear_computes_its_samples_and_leaves_the_rest(
    acl: ModuleType, write_om: WriteOm, gear: int
) -> None:
    program = Program(acl, write_om(gears=GEARS))
    batch = batch_of(4)
    program.feed(batch)
    assert program.set_gear(gear) == 0
    assert program.execute() == 0
    large, small = program.output(0), program.output(1)
    np.testing.assert_array_equal(
        np.frombuffer(large[: gear * LARGE], np.float32), (2 * batch[:gear] + 1).ravel()
    )
    assert large[gear * LARGE :] == b"\xcd" * ((4 - gear) * LARGE)
    assert small[gear * SMALL :] == b"\xcd" * ((4 - gear) * SMALL)
    dims = [acl.mdl.get_cur_output_dims(program.desc, i)[0]["dims"] for i in (0, 1)]
    assert dims == [[gear, 3, 4, 4], [gear, 3]]
    assert acl.mdl.get_output_dims(program.desc, 1)[0]["dims"] == [4, 3]


def test_the_largest_gear_runs_when_none_was_set(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om(gears=GEARS))
    batch = batch_of(4)
    program.feed(batch)
    assert program.execute() == 0
    np.testing.assert_array_equal(program.map(), 2 * batch + 1)


def test_a_gear_stays_until_another_is_set(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om(gears=GEARS))
    program.feed(batch_of(4))
    program.set_gear(1)
    assert [program.execute(), program.execute()] == [0, 0]
    assert program.output(0)[LARGE:] == b"\xcd" * (3 * LARGE)
    program.set_gear(2)
    assert program.execute() == 0
    assert program.output(0)[2 * LARGE :] == b"\xcd" * (2 * LARGE)


def test_a_gear_set_in_another_dataset_crashes(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om(gears=GEARS))
    index, other = 1, acl.mdl.create_dataset()
    for i in (0, 1):
        acl.mdl.add_dataset_buffer(other, acl.mdl.get_dataset_buffer(program.inputs, i))
    assert acl.mdl.set_dynamic_batch_size(program.model, other, index, 1) == 0
    with pytest.raises(HardwareWouldCrash, match="another input dataset"):
        program.execute()


def test_a_gear_set_for_another_model_crashes(acl: ModuleType, write_om: WriteOm) -> None:
    program, other = (Program(acl, write_om(gears=GEARS)) for _ in range(2))
    other.set_gear(2)
    with pytest.raises(HardwareWouldCrash, match="for another model"):
        acl.mdl.execute(program.model, other.inputs, program.outputs)


def test_writing_into_the_hidden_input_crashes(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om(gears=GEARS))
    program.set_gear(2)
    acl.rt.memset(program.pointer(program.inputs, 1), 4, 0, 4)
    with pytest.raises(HardwareWouldCrash, match="was written to"):
        program.execute()


def test_a_gear_set_under_a_waiting_run_crashes(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om(gears=GEARS))
    program.set_gear(2)
    program.execute_async()
    program.set_gear(1)
    with pytest.raises(HardwareWouldCrash, match="was written to"):
        acl.rt.synchronize_stream(program.stream)


def test_a_gear_written_to_a_data_input_crashes(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om(gears=GEARS))
    with pytest.raises(HardwareWouldCrash, match="input 0 is not the hidden one"):
        acl.mdl.set_dynamic_batch_size(program.model, program.inputs, 0, 1)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_gear_larger_than_a_buffer_crashes(acl: ModuleType, write_om: WriteOm, side: str) -> None:
    program = Program(acl, write_om(gears=GEARS))
    dataset = getattr(program, side)
    acl.update_data_buffer(acl.mdl.get_dataset_buffer(dataset, 0), program.pointer(dataset, 0), 2 * LARGE)
    program.set_gear(4)
    with pytest.raises(HardwareWouldCrash, match=f"needs {4 * LARGE} bytes, the buffer has {2 * LARGE}"):
        program.execute()
    program.set_gear(2)
    assert program.execute() == 0


def test_a_run_in_a_stream_shows_garbage_until_it_is_waited_for(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    batch = batch_of(2)
    program.feed(batch)
    assert program.execute_async() == 0
    assert program.output(0) == b"\xcd" * (2 * LARGE)
    assert acl.rt.synchronize_stream(program.stream) == 0
    np.testing.assert_array_equal(program.map(), 2 * batch + 1)


def test_an_input_overwritten_before_the_wait_is_what_is_computed(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    program.feed(batch_of(2, seed=0))
    program.execute_async()
    program.feed(batch_of(2, seed=1))
    acl.rt.synchronize_stream(program.stream)
    np.testing.assert_array_equal(program.map(), 2 * batch_of(2, seed=1) + 1)


def test_an_execute_does_not_wait_for_copies_in_a_stream(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    program.feed(batch_of(2, seed=0))
    data = batch_of(2, seed=1).tobytes()
    target, source = program.pointer(program.inputs, 0), acl.util.bytes_to_ptr(data)
    acl.rt.memcpy_async(target, len(data), source, len(data), HOST_TO_DEVICE, program.stream)
    assert program.execute() == 0
    np.testing.assert_array_equal(program.map(), 2 * batch_of(2, seed=0) + 1)


def test_buffers_exchanged_after_the_call_do_not_reach_the_run(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    batch = batch_of(2)
    program.feed(batch)
    program.execute_async()
    buffer = acl.mdl.get_dataset_buffer(program.inputs, 0)
    pointer = program.pointer(program.inputs, 0)
    acl.update_data_buffer(buffer, acl.rt.malloc(2 * LARGE, 0)[0], 2 * LARGE)
    acl.rt.synchronize_stream(program.stream)
    acl.update_data_buffer(buffer, pointer, 2 * LARGE)
    np.testing.assert_array_equal(program.map(), 2 * batch + 1)


def test_a_model_waits_in_one_stream_at_a_time(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    program.feed(batch_of(2))
    other = acl.rt.create_stream()[0]
    assert [program.execute_async(), program.execute_async()] == [0, 0]
    assert program.execute_async(other) == 107005
    assert program.execute() == 107005
    acl.rt.synchronize_stream(program.stream)
    assert [program.execute_async(other), acl.rt.synchronize_stream(other)] == [0, 0]


def test_a_model_runs_in_its_own_context_only(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    acl.rt.create_context(0)
    assert [program.execute(), program.execute_async(0), acl.mdl.unload(program.model)] == [107004] * 3
    acl.rt.set_context(program.context)
    assert program.execute() == 0


def test_a_model_runs_once_at_a_time(
    acl: ModuleType, write_om: WriteOm, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(acl, write_om())
    inside, done = threading.Event(), threading.Event()
    compute = Model.compute

    def slowly(self: Any, *arguments: Any) -> Any:
        inside.set()
        assert done.wait(20)
        return compute(self, *arguments)

    monkeypatch.setattr(Model, "compute", slowly)
    results: list[int] = []

    def work() -> None:
        acl.rt.set_context(program.context)
        results.append(program.execute())

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(20)
    assert program.execute() == 107005
    done.set()
    thread.join()
    assert [*results, program.execute()] == [0, 0]


def test_two_threads_run_two_models_in_their_contexts(write_om: WriteOm) -> None:
    acl = started(Board())
    path, wrong = write_om(), []

    def work(seed: int) -> None:
        acl.rt.set_device(0)
        acl.rt.create_context(0)
        program = Program(acl, path)
        for turn in range(20):
            batch = batch_of(2, seed=100 * seed + turn)
            program.feed(batch)
            if program.execute() or not np.array_equal(program.map(), 2 * batch + 1):
                wrong.append((seed, turn))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert acl.simulator.calls.count("mdl.execute") == 40


def test_work_of_an_unloaded_model_crashes(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    program.execute_async()
    acl.mdl.unload(program.model)
    with pytest.raises(HardwareWouldCrash, match="unloaded before"):
        acl.rt.synchronize_stream(program.stream)


def test_stale_data_buffers_crash(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om())
    acl.destroy_data_buffer(acl.mdl.get_dataset_buffer(program.outputs, 0))
    with pytest.raises(HardwareWouldCrash, match=r"data buffer .* is destroyed"):
        program.execute()


@pytest.mark.parametrize("devices", [1, 2])
def test_buffers_must_be_memory_of_the_models_device(write_om: WriteOm, devices: int) -> None:
    acl = started(Board(devices=devices))
    program = Program(acl, write_om())
    if devices == 1:
        pointer, where = acl.rt.malloc_host(2 * LARGE)[0], "host memory"
    else:
        acl.rt.set_device(1)
        pointer, where = acl.rt.malloc(2 * LARGE, 0)[0], "memory of device 1"
        acl.rt.set_context(program.context)
    acl.update_data_buffer(acl.mdl.get_dataset_buffer(program.inputs, 0), pointer, 2 * LARGE)
    with pytest.raises(HardwareWouldCrash, match=f"points to {where}"):
        program.execute()


@pytest.mark.parametrize("run_mode", [0, 1])
def test_both_run_modes_compute_the_same(write_om: WriteOm, run_mode: Any) -> None:
    acl = started(Board(run_mode=run_mode))
    program = Program(acl, write_om())
    batch = batch_of(2)
    program.feed(batch)
    assert program.execute() == 0
    np.testing.assert_array_equal(program.map(), 2 * batch + 1)
    program.close()
    assert acl.simulator.leak_report == []


def test_a_model_loads_from_memory_too(acl: ModuleType, write_om: WriteOm) -> None:
    data = Path(write_om()).read_bytes()
    assert acl.mdl.load_from_mem(acl.util.bytes_to_ptr(data), len(data)) == (1, 0)
    assert acl.mdl.load_from_mem(acl.util.bytes_to_ptr(data), len(data) - 1) == (0, 145006)
    assert acl.mdl.load_from_mem(0, 1) == (0, 100000)
    with pytest.raises(HardwareWouldCrash, match="reads host memory"):
        acl.mdl.load_from_mem(acl.rt.malloc(8, 0)[0], 8)


def test_another_soc_and_a_newer_cann_are_refused(acl: ModuleType, write_om: WriteOm) -> None:
    assert acl.mdl.load_from_file(write_om(soc="Ascend310P3")) == (0, 507008)
    assert acl.mdl.load_from_file(write_om(cann="8.0.RC2")) == (0, 545001)
    assert acl.mdl.load_from_file(write_om(cann="7.0"))[1] == 0
    with pytest.raises(ValueError, match="allow_mix_precision is not simulated"):
        acl.mdl.load_from_file(write_om(precision_mode="allow_mix_precision"))


def test_float16_shows_unless_the_model_was_compiled_otherwise(acl: ModuleType, write_om: WriteOm) -> None:
    batch = np.full((2, 3, 4, 4), 40000, np.float32)
    batch[0] = 1 + 1e-4
    expected = {"force_fp16": (3.0, np.inf), "force_fp32": (2 * batch[0, 0, 0, 0] + 1, 80001.0)}
    for mode, values in expected.items():
        program = Program(acl, write_om(precision_mode=mode))
        program.feed(batch)
        program.execute()
        found = program.map()
        assert (found[0] == np.float32(values[0])).all()
        assert (found[1] == values[1]).all()


def test_float16_outputs_hold_the_same_values_in_half_the_bytes(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om(output="float16"))
    batch = batch_of(2)
    program.feed(batch)
    program.execute()
    found = np.frombuffer(program.output(0), np.float16).reshape(batch.shape)
    np.testing.assert_array_equal(found, (2 * batch + 1).astype(np.float16))


def test_aipp_takes_bytes_of_pixels(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om(aipp=IMAGENET))
    mdl, desc = acl.mdl, program.desc
    assert mdl.get_input_dims(desc, 0)[0]["dims"] == [2, 4, 4, 3]
    assert (mdl.get_input_data_type(desc, 0), mdl.get_input_format(desc, 0)) == (4, 1)
    assert mdl.get_input_size_by_index(desc, 0) == 2 * 4 * 4 * 3
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    program.feed(pixels)
    program.execute()
    values = (pixels - np.array(MEANS)) * np.array(SCALES)
    np.testing.assert_allclose(program.map(), 2 * values.transpose(0, 3, 1, 2) + 1, atol=5e-3)


def test_aipp_is_float64_arithmetic_within_float16() -> None:
    """Each constant is within 2⁻¹¹ of itself, each of three steps rounds by 2⁻¹¹ of its result."""
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    settings = om.Aipp(rbuv_swap=False, mean=(3, 0, 250), min=MEANS, var_reci=SCALES)
    found = aipp.apply(settings, pixels).astype(np.float64)
    shifted = pixels - np.array(settings.mean) - np.array(MEANS)
    exact = (shifted * SCALES).transpose(0, 3, 1, 2)
    bound = (np.abs(shifted) + np.array(MEANS)) * SCALES * 3 * 2**-11
    error = np.abs(found - exact)
    assert (error <= bound.transpose(0, 3, 1, 2)).all()
    assert error.max() > 1e-4


def test_aipp_in_numbers() -> None:
    """123.675 acts as 123.6875, 1/58.395 as 0.017120361328125; (200 − 123.6875) × that rounds to 1.306640625."""
    found = aipp.apply(IMAGENET, np.full((1, 1, 1, 3), 200, np.uint8))
    assert found.dtype == np.float16
    assert float(found[0, 0, 0, 0]) == 1.306640625


def test_aipp_swaps_before_it_subtracts() -> None:
    settings = om.Aipp(rbuv_swap=True, mean=(10, 20, 30), min=(0.0, 0.5, 0.0), var_reci=(1.0, 1.0, 0.5))
    found = aipp.apply(settings, np.array([[[[100, 120, 140]]]], np.uint8))
    assert found.ravel().tolist() == [130, 99.5, 35]


def test_gears_and_aipp_together(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om(gears=GEARS, aipp=IMAGENET))
    assert acl.mdl.get_input_dims(program.desc, 0)[0]["dims"] == [-1, 4, 4, 3]
    assert acl.mdl.get_input_size_by_index(program.desc, 0) == 4 * 48
    program.feed(np.zeros((1, 4, 4, 3), np.uint8))
    program.set_gear(1)
    assert program.execute() == 0
    np.testing.assert_allclose(program.map()[0, 0], -2 * MEANS[0] * SCALES[0] + 1, atol=5e-3)


def test_the_board_sleeps_as_long_as_it_is_told(write_om: WriteOm, monkeypatch: pytest.MonkeyPatch) -> None:
    acl = started(Board(latency=Latency(execute_ms=3.0, copy_ms_per_mb=500.0)))
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    program = Program(acl, write_om())
    program.feed(batch_of(2))
    program.execute()
    assert slept == [pytest.approx(2 * LARGE * 500e-9), 0.003]


def test_a_thousand_runs_take_nothing_more(acl: ModuleType, write_om: WriteOm) -> None:
    program = Program(acl, write_om(gears=GEARS))
    before = acl.simulator.used_bytes, acl.simulator.handles
    for turn in range(1000):
        program.feed(batch_of(1, seed=turn % 7))
        assert [program.set_gear(1), program.execute()] == [0, 0]
        program.output(1)
    assert (acl.simulator.used_bytes, acl.simulator.handles) == before
