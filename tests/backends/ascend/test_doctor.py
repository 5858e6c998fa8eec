from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.ascend import adapter, doctor
from backends.ascend.adapter import Ascend
from backends.ascend.runtime import runtime
from harness import build
from harness.detector.artifact import Variant
from harness.doctor import smoke_model
from harness.doctor.steps import Check, walk

pytest.importorskip("onnxruntime", reason="onnxruntime, which computes for the simulator, is not installed")


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Ascend]]:
    """A host with a driver, a toolkit and a simulated board that is taken for hardware."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "davinci0").touch()
    (tmp_path / "dev" / "davinci_manager").touch()
    (tmp_path / "cann").mkdir()
    (tmp_path / "cann" / "version.info").write_text("Version=7.0.0\n")
    (tmp_path / "bin").mkdir()
    program(tmp_path, "echo 'ATC start working now, please wait for a moment.'")
    monkeypatch.setattr(doctor, "NODES", tmp_path / "dev")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "cann"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    loaded = []

    def made(family: str = "Ascend310", change: Callable[[Any], None] = lambda _: None) -> Ascend:
        module = adapter.simulated_acl()
        change(module)
        backend = Ascend(family=family, load=lambda: module)
        loaded.append(backend)
        return backend

    yield made
    for backend in loaded:
        runtime(backend.load).finish()


def program(folder: Path, script: str) -> None:
    atc = folder / "bin" / "atc"
    atc.write_text(f"#!/bin/sh\n{script}\n")
    atc.chmod(0o755)


def checks(backend: Ascend) -> dict[str, Check]:
    return {check.name: check for check in walk(doctor.steps(backend))}


BEFORE_THE_MODEL = ("driver", "toolkit", "acl", "device", "chip", "run mode", "memory", "atc")


def test_every_step_before_the_model_passes_on_a_good_host(board: Any, tmp_path: Path) -> None:
    found = checks(board())
    assert tuple(found) == (*BEFORE_THE_MODEL, "model")
    assert all(found[name].passed for name in BEFORE_THE_MODEL)
    assert found["driver"].found == f"{tmp_path}/dev/davinci0; npu-smi: not on PATH (only needed to look)"
    assert found["toolkit"].found == f"CANN 7.0.0 in {tmp_path}/cann"
    assert found["chip"].found == "Ascend310"
    assert "over PCIe" in found["run mode"].found
    assert found["atc"].found == f"{tmp_path}/bin/atc (of CANN 7.0.0)"


def test_an_atc_that_fails_is_quoted(board: Any) -> None:
    model = checks(board())["model"]
    assert model.passed is False
    assert "cannot be compiled" in model.found
    assert "ATC start working now" in model.advice


def test_without_a_driver_what_to_install_is_said(board: Any, tmp_path: Path) -> None:
    (tmp_path / "dev" / "davinci0").unlink()
    found = checks(board())["driver"]
    assert not found.passed
    assert "no driver is loaded" in found.found
    assert "HwHiAiUser" in found.advice


def test_a_device_the_user_may_not_open_is_named(board: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "davinci0: this user may not open it" in checks(board())["driver"].found


@pytest.mark.parametrize("damage", ["unset", "empty"])
def test_without_a_toolkit_the_later_steps_are_not_made(
    board: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    if damage == "unset":
        monkeypatch.delenv("ASCEND_HOME_PATH")
        monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    else:
        (tmp_path / "cann" / "version.info").unlink()
    found = checks(board())
    assert found["toolkit"].passed is False
    assert "set_env.sh" in found["toolkit"].advice
    assert {found[name].passed for name in (*BEFORE_THE_MODEL[2:], "model")} == {None}


def test_the_wrong_family_is_sent_to_its_backend(board: Any) -> None:
    found = checks(board("Ascend310P"))
    assert found["chip"].found == "Ascend310, which is not of the family Ascend310P"
    assert "ascend310p" in found["chip"].advice
    assert found["model"].found == "needs chip"


@pytest.mark.parametrize(
    ("script", "message"),
    [("exit 127", "status 127: nothing"), ("echo no Python; exit 0", "status 0: no Python")],
)
def test_an_atc_that_does_not_start_is_a_fault(board: Any, tmp_path: Path, script: str, message: str) -> None:
    program(tmp_path, script)
    assert message in checks(board())["atc"].found


def test_without_atc_another_host_may_compile(board: Any, tmp_path: Path) -> None:
    (tmp_path / "bin" / "atc").unlink()
    found = checks(board())
    assert found["atc"].found == "atc is not on PATH"
    assert "compile on another host" in found["atc"].advice
    assert found["memory"].passed


def replaced(call: str, answer: Any) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        part, _, name = call.rpartition(".")
        setattr(getattr(module, part) if part else module, name, lambda *_: answer)

    return change


@pytest.mark.parametrize(
    ("call", "answer", "step", "message"),
    [
        ("rt.get_device_count", (0, 0), "device", "CANN finds no device"),
        (
            "rt.get_device_count",
            (0, 507899),
            "device",
            "acl.rt.get_device_count gave 507899, internal error of the",
        ),
        ("rt.get_run_mode", (7, 0), "run mode", "unknown run mode 7"),
        ("rt.get_mem_info", (0, 100, 0), "memory", "0 of 100 bytes free"),
        ("get_soc_name", None, "chip", "None, which is not of the family"),
    ],
)
def test_what_pyacl_answers_is_judged(board: Any, call: str, answer: Any, step: str, message: str) -> None:
    found = checks(board(change=replaced(call, answer)))
    assert found[step].passed is False
    assert message in found[step].found
    assert found["model"].passed is None


def test_no_device_is_left_set(board: Any) -> None:
    module = adapter.simulated_acl()
    backend = dataclasses.replace(board(), load=lambda: module)
    assert checks(backend)["memory"].passed
    assert module.rt.get_device()[1] != 0
    runtime(backend.load).finish()


def simulated() -> dict[str, Check]:
    backend = adapter.ascend310_simulated
    found = {check.name: check for check in walk(doctor.steps(backend), simulated=True)}
    runtime(backend.load).finish()
    return found


def test_the_simulated_walk_ends_with_a_model_that_ran_and_says_so_on_every_line() -> None:
    found = simulated()
    assert [check.passed for check in found.values()] == [True] * 7
    assert all(check.line().startswith("SIMULATED") for check in found.values())
    assert "agrees with numpy" in found["model"].found
    assert "compute" in found["model"].found


def test_a_card_that_computes_wrongly_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = smoke_model.expected
    monkeypatch.setattr(smoke_model, "expected", lambda batch: 1.1 * right(batch))
    assert "another result than numpy" in simulated()["model"].found


def test_the_model_is_compiled_for_the_chip_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Variant] = []
    export = build.export

    def noted(*args: Any, **settings: Any) -> Variant:
        compiled.append(export(*args, **settings))
        return compiled[0]

    monkeypatch.setattr(build, "export", noted)
    assert simulated()["model"].passed
    assert compiled[0].target is not None
    assert (compiled[0].target.soc, compiled[0].target.simulated) == ("Ascend310", True)
