"""What an opened OM computes, in which runs, at what times; and what it refuses."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from backends.ascend.session import AscendSession
from backends.errors import BackendError
from backends.simulators import om
from backends.simulators.acl import Latency
from harness.detector.artifact import TensorSpec
from tests.backends.ascend.conftest import EMBEDDING, HALF, IMAGE, Maker, images, output

FLAVOURS = [(cann, mode) for cann in ("5.0", "7.0", "8.0") for mode in (0, 1)]


@pytest.mark.parametrize(("cann", "run_mode"), FLAVOURS)
@pytest.mark.parametrize(("gears", "batch"), [((), 1), ((), 4), ((1, 4, 8), 1)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_of_any_number_get_their_outputs_on_every_cann_and_in_both_run_modes(
    make: Maker, cann: str, run_mode: int, gears: tuple[int, ...], batch: int, dtype: om.DType
) -> None:
    setup = make(gears=gears, batch=batch, dtype=dtype, cann=cann, run_mode=run_mode)
    session = setup.open()
    for count in (1, 3, 8, 11, 1):
        rows = images(count, seed=count)
        found = session.run(rows)
        assert list(found) == ["embedding"]
        assert found["embedding"].dtype == np.float32
        assert found["embedding"].shape == (count, *EMBEDDING)
        np.testing.assert_allclose(found["embedding"], setup.expected(rows), rtol=0, atol=HALF)
    session.close()
    assert setup.finish() == []


def test_the_device_computes_in_float16_and_gives_float32(make: Maker) -> None:
    setup = make()
    rows = images(1)
    found = setup.open().run(rows)["embedding"]
    difference = np.abs(found - setup.expected(rows)).max()
    assert 1e-5 < difference < HALF
    np.testing.assert_array_equal(found, found.astype(np.float16).astype(np.float32))
    setup.finish()


@pytest.mark.parametrize(
    ("rows", "gears"),
    [(1, [1]), (2, [4]), (4, [4]), (5, [8]), (8, [8]), (9, [8, 1]), (13, [8, 8]), (16, [8, 8])],
)
def test_each_run_has_the_smallest_gear_that_takes_the_rest(make: Maker, rows: int, gears: list[int]) -> None:
    setup = make(gears=(1, 4, 8))
    session = setup.open()
    asked: list[int] = []
    set_gear = session._model.set_gear

    def remember(batch: int) -> None:
        asked.append(batch)
        set_gear(batch)

    session._model.set_gear = remember  # type: ignore[method-assign]
    session.run(images(rows))
    assert asked == gears
    setup.finish()


def test_a_later_run_does_not_change_what_an_earlier_one_gave(make: Maker) -> None:
    for cann in ("5.0", "8.0"):
        setup = make(cann=cann, batch=2)
        session = setup.open()
        first = session.run(images(2, seed=1))["embedding"]
        kept = first.copy()
        session.run(images(2, seed=2))
        np.testing.assert_array_equal(first, kept)
        setup.finish()


@pytest.mark.parametrize(("cann", "run_mode"), FLAVOURS)
def test_several_outputs_each_have_their_own_values(make: Maker, cann: str, run_mode: int) -> None:
    setup = make(
        onnx=doubling(),
        header={
            "inputs": (om.Tensor(name="image", dtype="float32", shape=(2, *IMAGE)),),
            "outputs": tuple(
                om.Tensor(name=f"node:{index}:{name}", dtype="float32", shape=(2, *IMAGE))
                for index, name in enumerate(("doubled", "negated"))
            ),
        },
        # The manifest may name them in another order.
        variant={
            "outputs": tuple(output(name=name, shape=(None, *IMAGE)) for name in ("negated", "doubled"))
        },
        cann=cann,
        run_mode=run_mode,
    )
    rows = images(3).astype(np.float16).astype(np.float32)
    found = setup.open().run(rows)
    np.testing.assert_array_equal(found["doubled"], 2 * rows)
    np.testing.assert_array_equal(found["negated"], -rows)
    assert setup.finish() == []


def doubling() -> bytes:
    """An ONNX model with two outputs: twice the image, and minus the image."""
    from onnx import helper

    image = helper.make_tensor_value_info("image", 1, ["batch", *IMAGE])
    outputs = [helper.make_tensor_value_info(name, 1, ["batch", *IMAGE]) for name in ("doubled", "negated")]
    nodes = [
        helper.make_node("Add", ["image", "image"], ["doubled"]),
        helper.make_node("Neg", ["image"], ["negated"]),
    ]
    graph = helper.make_graph(nodes, "doubling", [image], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    serialised: bytes = model.SerializeToString()
    return serialised


@pytest.mark.parametrize("cann", ["5.0", "8.0"])
def test_rows_that_do_not_lie_one_after_the_other_in_memory_arrive_in_order(make: Maker, cann: str) -> None:
    setup = make(cann=cann, batch=2)
    rows = np.asfortranarray(images(2))
    np.testing.assert_allclose(setup.open().run(rows)["embedding"], setup.expected(rows), rtol=0, atol=HALF)
    setup.finish()


def test_a_batch_that_is_not_full_is_filled_up_with_its_last_row(make: Maker) -> None:
    setup = make(batch=4)
    session = setup.open()
    sent: list[Any] = []
    payload = session._transfer.payload

    def remember(rows: Any) -> Any:
        sent.append(rows)
        return payload(rows)

    session._transfer.payload = remember  # type: ignore[method-assign]
    rows = images(6)
    session.run(rows)
    np.testing.assert_array_equal(np.concatenate(sent), rows[[0, 1, 2, 3, 4, 5, 5, 5]])
    setup.finish()


def test_times_are_those_of_copies_and_of_the_run_apart(make: Maker) -> None:
    setup = make(gears=(1, 2), latency=Latency(execute_ms=30, copy_ms_per_mb=1000))
    session = setup.open()
    assert dict(session.device_ms) == {}
    session.run(images(2))
    times = session.device_ms
    assert set(times) == {"h2d", "compute", "d2h"}
    megabytes = {"h2d": 2 * 4 * 3 * 32 * 32 / 1e6, "d2h": 2 * 4 * 6 * 8 * 8 / 1e6}
    assert times["compute"] >= 30
    assert times["h2d"] >= 1000 * megabytes["h2d"]
    assert times["d2h"] >= 1000 * megabytes["d2h"]
    session.run(images(4))
    assert session.device_ms["compute"] >= 60  # of the last call, all its runs
    setup.finish()


def test_two_sessions_take_turns_in_one_thread(make: Maker) -> None:
    setup = make()
    first, second = setup.open(), setup.open()
    for count in (1, 2):
        for session in (first, second):
            rows = images(count, seed=count)
            np.testing.assert_allclose(
                session.run(rows)["embedding"], setup.expected(rows), rtol=0, atol=HALF
            )
    first.close()
    np.testing.assert_allclose(second.run(rows)["embedding"], setup.expected(rows), rtol=0, atol=HALF)
    second.close()
    assert setup.finish() == []


def test_sessions_in_threads_of_their_own_and_a_session_handed_over(make: Maker) -> None:
    setup = make(gears=(1, 4))
    failures: list[BaseException] = []

    def work(session: AscendSession, seed: int) -> None:
        try:
            for index in range(20):
                rows = images(1 + index % 4, seed=seed + index)
                found = session.run(rows)["embedding"]
                np.testing.assert_allclose(found, setup.expected(rows), rtol=0, atol=HALF)
            session.close()
        except BaseException as error:  # noqa: BLE001 - asserted below
            failures.append(error)

    handed_over = setup.open()
    threads = [
        threading.Thread(target=lambda: work(setup.open(), 100)),
        threading.Thread(target=lambda: work(setup.open(), 200)),
        threading.Thread(target=work, args=(handed_over, 300)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert setup.finish() == []


def test_ten_thousand_runs_hold_no_more_than_one(make: Maker) -> None:
    setup = make(gears=(1, 2))
    session = setup.open()
    rows = images(2)
    session.run(rows)
    simulator = setup.acl.simulator
    held = (simulator.used_bytes, simulator.handles)
    for index in range(10_000):
        session.run(rows[: 1 + index % 2])
    assert (simulator.used_bytes, simulator.handles) == held
    session.close()
    assert setup.finish() == []


def test_an_image_with_static_aipp_goes_in_as_bytes(make: Maker) -> None:
    mean, deviation = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    aipp = om.Aipp(
        rbuv_swap=False, mean=(0, 0, 0), min=tuple(mean.tolist()), var_reci=tuple((1 / deviation).tolist())
    )
    setup = make(
        batch=2,
        header={"aipp": aipp, "inputs": (om.Tensor(name="image", dtype="uint8", shape=(2, 32, 32, 3)),)},
        variant={
            "input": TensorSpec(name="image", dtype="uint8", shape=(None, 32, 32, 3)),
            "input_stage": "crop",
        },
    )
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    session = setup.open()
    normalised = ((frames - mean) / deviation).transpose(0, 3, 1, 2).astype(np.float32)
    found = session.run(frames)["embedding"]
    np.testing.assert_allclose(found, setup.expected(normalised), rtol=0, atol=1e-2)
    with pytest.raises(BackendError, match="takes rows of uint8"):
        session.run(normalised)
    setup.finish()


@pytest.mark.parametrize(
    "batch",
    [images(1).astype(np.float64), images(1)[:, :, :-1], images(1).astype(np.uint8), images(0)],
    ids=["float64", "narrow", "uint8", "none"],
)
def test_a_batch_of_another_type_or_shape_is_refused(make: Maker, batch: Any) -> None:
    setup = make()
    session = setup.open()
    with pytest.raises(BackendError, match=r"the OM takes rows of float32 \(3, 32, 32\), got"):
        session.run(batch)
    setup.finish()


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            {"outputs": (output(shape=(None, 6, 8, 9)),)},
            r"output 'embedding' of the OM has the shape \(1, 6, 8, 8\)",
        ),
        ({"outputs": (output(), output(name="more"))}, "1 outputs, the manifest says 1 and 2"),
        (
            {"input": TensorSpec(name="image", dtype="float32", shape=(None, 3, 32, 31))},
            r"manifest says .image., float32 \(None, 3, 32, 31\)",
        ),
        (
            {"input": TensorSpec(name="image", dtype="uint8", shape=(None, *IMAGE))},
            "manifest says .image., uint8",
        ),
    ],
)
def test_an_om_that_is_not_what_the_manifest_says_is_refused(
    make: Maker, variant: dict[str, Any], message: str
) -> None:
    setup = make(variant=variant)
    with pytest.raises(BackendError, match=message):
        setup.open()
    assert setup.finish() == []


def test_an_output_by_an_older_name_is_taken_by_its_place(make: Maker) -> None:
    session = make(variant={"outputs": (output(name="features"),)}).open()
    assert list(session.run(images(1))) == ["features"]
    session.close()


def test_a_closed_session_closes_once(make: Maker) -> None:
    setup = make()
    session = setup.open()
    session.close()
    calls = len(setup.acl.simulator.calls)
    session.close()
    assert len(setup.acl.simulator.calls) == calls
    assert setup.finish() == []


def test_a_record_can_say_what_ran(make: Maker) -> None:
    setup = make(gears=(1, 4), cann="8.0", run_mode=0)
    report = setup.open().report
    assert report.device == "SIMULATED Ascend310:0"
    assert report.simulated
    assert report.runtime == {"acl": "simulated", "compiled by CANN": "5.0"}
    assert report.options == {
        "precision_mode": "force_fp16",
        "soc": "Ascend310",
        "compiled for": "Ascend310",
        "run_mode": "device",
        "pointers": "bytes",
        "batches": "1, 4 (a rest is filled up with its last row)",
    }
    setup.finish()
