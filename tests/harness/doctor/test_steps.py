from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import cli, registry
from harness.doctor import smoke_model
from harness.doctor import steps as steps_module
from harness.doctor.steps import Check, Fault, NotChecked, Step
from harness.errors import Unavailable, UsageError
from harness.run import worker

RUNTIME = pytest.mark.skipif(not registry.is_installed("onnxruntime"), reason="onnxruntime is not installed")


def raising(error: Exception) -> Any:
    def ask() -> str:
        raise error

    return ask


def outcomes(steps: list[Step]) -> list[tuple[str, bool | None, str, str]]:
    return [(check.name, check.passed, check.found, check.advice) for check in steps_module.walk(steps)]


def test_a_step_passes_fails_with_advice_or_is_not_checked() -> None:
    steps = [
        Step(name="a", ask=lambda: "there"),
        Step(name="b", ask=raising(Fault("gone", "bring it"))),
        Step(name="c", ask=raising(NotChecked("no way to"))),
        Step(name="d", ask=raising(Unavailable("absent: get it"))),
    ]
    assert outcomes(steps) == [
        ("a", True, "there", ""),
        ("b", False, "gone", "bring it"),
        ("c", None, "no way to", ""),
        ("d", False, "absent: get it", ""),
    ]


def test_what_depends_on_a_step_that_did_not_pass_is_not_made() -> None:
    made: list[str] = []

    def ask(name: str) -> Any:
        def answer() -> str:
            made.append(name)
            return name

        return answer

    steps = [
        Step(name="a", ask=raising(Fault("gone", "bring it"))),
        Step(name="b", ask=ask("b"), needs=("a",)),
        Step(name="c", ask=ask("c"), needs=("b",)),
        Step(name="d", ask=ask("d")),
        Step(name="e", ask=ask("e"), needs=("a", "d", "c")),
    ]
    assert [item[1] for item in outcomes(steps)] == [False, None, None, True, None]
    assert outcomes(steps)[4][2] == "needs a, c"
    assert set(made) == {"d"}


def test_a_defect_of_a_step_is_not_taken_for_a_finding() -> None:
    with pytest.raises(ZeroDivisionError):
        outcomes([Step(name="a", ask=raising(ZeroDivisionError()))])


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (Check(name="acl", passed=True, found="here"), "passed       acl: here"),
        (
            Check(name="acl", passed=None, found="needs x", simulated=True),
            "SIMULATED  not checked  acl: needs x",
        ),
        (
            Check(name="acl", passed=False, found="gone", advice="get it", simulated=True),
            "SIMULATED  FAILED       acl: gone\nSIMULATED               what to do: get it",
        ),
    ],
)
def test_a_check_is_one_line_and_another_for_what_to_do(check: Check, line: str) -> None:
    assert check.line() == line


def test_the_smoke_model_is_valid_onnx_and_computes_what_numpy_does(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    reference = pytest.importorskip("onnx.reference", reason="onnx is not installed")
    detector = smoke_model.write(tmp_path / "smoke")
    model = onnx.load(str(detector.model_file(detector.manifest.variants[0])))
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 11)]
    batch = np.concatenate([smoke_model.images(), 2 * smoke_model.images()])
    (output,) = reference.ReferenceEvaluator(model).run(None, {"image": batch})
    assert smoke_model.difference({"embedding": output}, batch) < 1e-6


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        (lambda right: {"embedding": right}, True),
        (lambda right: {"embedding": right.astype(np.float16).astype(np.float32)}, True),
        (lambda right: {"embedding": right * 1.01}, False),
        (lambda right: {"embedding": np.where(right == right.max(), np.nan, right)}, False),
        (lambda right: {"embedding": right[:, ::-1]}, False),
        (lambda right: {"embedding": right[..., 1:]}, False),
        (lambda right: {"other": right}, False),
        (lambda right: {"embedding": right, "more": right}, False),
        (lambda right: {}, False),  # noqa: ARG005
    ],
)
def test_only_the_right_answer_agrees(change: Any, accepted: bool) -> None:  # noqa: FBT001
    batch = smoke_model.images()
    far = smoke_model.difference(change(smoke_model.expected(batch)), batch)
    if accepted:
        assert "agrees with numpy" in steps_module.agreement(far)
    else:
        with pytest.raises(Fault, match="another result than numpy"):
            steps_module.agreement(far)


@RUNTIME
def test_a_backend_without_steps_of_its_own_runs_the_model() -> None:
    installed, model = steps_module.examine("onnxruntime-cpu")
    assert (installed.passed, model.passed) == (True, True)
    assert "on cpu (onnxruntime" in model.found
    assert not model.simulated


def test_a_backend_that_is_not_here_says_why_and_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        formats = ("onnx",)

        def unavailable(self) -> str:
            return "plug one in"

    monkeypatch.setattr(registry, "backend", lambda _: Absent())
    assert outcomes(list(steps_module._generic("any"))) == [
        ("installed", False, "cannot run here", "plug one in"),
        ("model", None, "needs installed", ""),
    ]


def test_a_format_without_a_trial_model_is_not_called_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        formats = ("mindir",)

        def unavailable(self) -> None:
            return None

    monkeypatch.setattr(registry, "backend", lambda _: Here())
    assert [passed for _, passed, _, _ in outcomes(list(steps_module._generic("any")))] == [True, None]


def test_an_unknown_backend_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="did you mean 'onnxruntime-cpu'"):
        steps_module.examine("onnxruntime_cpu")
    assert cli.main(["doctor", "--backend", "nonsense"]) == 2


def answers(monkeypatch: pytest.MonkeyPatch, *passed: bool | None) -> None:
    def examine(_: str) -> Iterator[Check]:
        for number, outcome in enumerate(passed):
            yield Check(name=f"step {number}", passed=outcome, found="found")

    monkeypatch.setattr(worker, "examine", examine)


@pytest.mark.parametrize(
    ("passed", "code"),
    [((True, True), 0), ((True, False), 3), ((True, None), 3), ((None,), 3), ((), 3)],
)
def test_only_all_passed_is_a_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], passed: Any, code: int
) -> None:
    answers(monkeypatch, *passed)
    assert cli.main(["doctor", "--backend", "any"]) == code
    assert len(capsys.readouterr().out.splitlines()) == len(passed)
    assert cli.main(["doctor", "--backend", "any", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is (code == 0)
    assert [check["passed"] for check in document["checks"]] == list(passed)
    assert [msgspec.convert(check, Check).name for check in document["checks"]] == [
        f"step {number}" for number in range(len(passed))
    ]


@RUNTIME
def test_the_steps_are_made_in_a_process_of_their_own(fakes: Path) -> None:
    assert [check.passed for check in worker.examine("onnxruntime-cpu")] == [True, True]
    assert [check.passed for check in worker.examine("fake-work")] == [True, True]
    assert (fakes / "opened").is_file()


def test_a_driver_that_takes_its_process_down_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os, signal, sys\n"
        "class Backend:\n"
        "    formats, environment, simulated = ('onnx',), {}, False\n"
        "    def unavailable(self):\n"
        "        print('the driver speaks', file=sys.stderr, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    def open(self, artifact, variant, *, threads):\n"
        "        raise AssertionError\n"
        "backend = Backend()\n"
    )
    info = tmp_path / "deadly-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[harness.backends]\ndeadly = deadly:backend\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (check,) = worker.examine("deadly")
    assert check.passed is False
    assert "SIGSEGV" in check.found
    assert "the driver speaks" in check.found
