"""What the adapter refuses before a device is touched, and that a worker can run it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from backends.ascend.adapter import Ascend, family, installed_acl
from backends.errors import BackendError, DeviceMismatch
from backends.simulators.acl import Board, create
from harness import cli, registry
from harness.detector import artifact
from harness.records import record
from tests.backends.ascend.conftest import Maker

ROWS = ("ascend310", "ascend310p", "ascend310b")


@pytest.mark.parametrize("name", ROWS)
def test_without_pyacl_it_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "acl", None)
    backend = registry.backend(name)
    reason = backend.unavailable()
    assert reason is not None
    assert "install the Ascend driver and CANN" in reason
    assert "\n" not in reason


@pytest.mark.parametrize("name", ROWS)
def test_a_simulator_in_the_place_of_pyacl_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "acl", create(Board()))
    with pytest.raises(DeviceMismatch, match="is a simulator: it measures no hardware"):
        installed_acl()
    assert "is a simulator" in str(registry.backend(name).unavailable())


def test_a_module_without_that_mark_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("acl")
    monkeypatch.setitem(sys.modules, "acl", module)
    assert installed_acl() is module


def compiled(setup_variant: artifact.Variant, **changes: object) -> artifact.Variant:
    assert setup_variant.target is not None
    target = msgspec.structs.replace(setup_variant.target, **changes)
    return msgspec.structs.replace(setup_variant, target=target)


def test_a_simulated_om_never_runs_on_hardware_nor_a_real_one_on_the_simulator(make: Maker) -> None:
    setup = make()
    hardware = Ascend(family="Ascend310", load=setup.backend.load)
    with pytest.raises(DeviceMismatch, match="compiled by a simulated atc and does not run on hardware"):
        hardware.open(setup.artifact, setup.variant, threads=1)
    with pytest.raises(DeviceMismatch, match="compiled by a real atc and does not run on the simulator"):
        setup.backend.open(setup.artifact, compiled(setup.variant, simulated=False), threads=1)
    assert setup.acl.simulator.calls == []


@pytest.mark.parametrize("soc", ["Ascend310P3", "Ascend310B4", "Ascend910"])
def test_an_om_for_another_chip_is_refused(make: Maker, soc: str) -> None:
    setup = make()
    with pytest.raises(
        DeviceMismatch, match=f"compiled for {soc}, not for Ascend310; choose another --variant"
    ):
        setup.backend.open(setup.artifact, compiled(setup.variant, soc=soc), threads=1)


def test_an_om_that_does_not_say_for_what_is_refused(make: Maker) -> None:
    setup = make(variant={"target": None})
    with pytest.raises(BackendError, match="does not say what it was compiled for"):
        setup.open()


@pytest.mark.parametrize("soc", ["Ascend310P3", "Ascend910B"])
def test_another_chip_than_the_one_asked_for_is_refused_and_nothing_stays(make: Maker, soc: str) -> None:
    setup = make(soc=soc)
    with pytest.raises(
        DeviceMismatch, match=f"the chip here is {soc}, asked for Ascend310: choose its --backend"
    ):
        setup.open()
    assert str(setup.backend.unavailable()).startswith(f"the chip here is {soc}")
    assert setup.acl.simulator.leaks() == []


def test_a_board_that_works_is_available_and_left_as_it_was(make: Maker) -> None:
    setup = make()
    assert setup.backend.unavailable() is None
    assert setup.acl.simulator.leak_report == []


def test_a_board_without_devices_is_not(make: Maker) -> None:
    setup = make(devices=0)
    reason = setup.backend.unavailable()
    assert reason is not None
    assert setup.acl.simulator.leaks() == []


@pytest.mark.parametrize(
    ("soc", "expected"),
    [
        ("Ascend310", "Ascend310"),
        ("Ascend310P3", "Ascend310P"),
        ("Ascend310B1", "Ascend310B"),
        ("Kirin", "Kirin"),
    ],
)
def test_the_family_is_what_stands_before_the_number(soc: str, expected: str) -> None:
    assert family(soc) == expected


def test_a_worker_measures_it_with_device_times_and_the_mark(make: Maker, tmp_path: Path) -> None:
    setup = make(gears=(1, 4))
    arguments = ["bench", "--artifact", str(setup.artifact.path), "--data", str(make.tiny.data)]
    out = ["--out", str(tmp_path / "results"), "--batch-size", "3"]
    backends = ["--backend", "onnxruntime-cpu", "--backend", "ascend310-simulated"]
    cli.main([*arguments, *out, *backends])
    records = {item.case.backend: item for item in record.read_all(tmp_path / "results")}
    found = records["ascend310-simulated"]
    assert found.status == "measured"
    assert found.device is not None
    assert found.device.simulated
    assert found.device.device == "SIMULATED Ascend310:0"
    assert {"h2d", "compute", "d2h"} <= set(found.latency_ms)
    assert found.metrics["image_auroc"] == pytest.approx(
        records["onnxruntime-cpu"].metrics["image_auroc"], abs=0.1
    )
