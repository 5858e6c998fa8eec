from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import suites
from harness.build import FitRequest
from harness.detector import artifact
from harness.errors import DatasetError, HarnessError
from harness.records import record
from harness.run import suite, suite_ready, worker
from harness.run.interrupted import Interrupted
from harness.run.job import Job
from harness.run.worker import Failure
from tests.harness.run.conftest import SMALL, Bench, pretend


def raises(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_every_category_is_fitted_and_measured_and_its_record_names_the_suite(bench: Bench) -> None:
    text = SMALL.replace(
        "[settings]", 'protocol = "seed"\nmask_resize = "dilated"\nmask_threshold = 9\n[settings]'
    )
    outcome = bench.run(text)
    assert outcome.failures == {}
    assert [(measured.case.category, measured.status) for measured in outcome.records] == [
        ("widget", "measured"),
        ("gadget", "measured"),
    ]
    measured = outcome.records[0]
    assert (measured.case.suite, measured.case.mask_resize, measured.case.mask_threshold) == (
        "small",
        "dilated",
        9,
    )
    assert measured.fit is not None
    assert (measured.fit.settings["protocol"], measured.fit.settings["crop"], measured.fit.seconds) == (
        "seed",
        32,
        1.5,
    )
    assert measured.training == {"epochs": 3}
    assert sorted(record.read_all(bench.out), key=repr) == sorted(outcome.records, key=repr)
    assert bench.reported == list(outcome.records)


def test_a_fit_request_has_all_settings_of_the_suite(bench: Bench) -> None:
    bench.run(SMALL.replace("[settings]", "seed = 7\n[settings]"), categories=("gadget",), device="ascend")
    (request,) = bench.fitted
    assert request == FitRequest(
        detector="padim",
        backbone="resnet18",
        weights=None,
        dataset="data",
        category=request.category,
        out=bench.out / "artifacts" / "small" / "gadget",
        settings=request.settings,
        seed=7,
        device="ascend",
        resume=True,
    )
    assert (request.category.name, request.settings.resize) == ("gadget", 40)


def test_finished_categories_are_neither_fitted_nor_measured_again(bench: Bench, fakes: Path) -> None:
    first = bench.run()
    again = bench.run()
    assert again == first
    assert len(bench.fitted) == 2
    assert (fakes / "opened").read_text().split() == ["work", "work"]
    assert bench.lines[-1] == "gadget: fitted before, exported before, 1 cases measured before, 0 to go"


def test_force_measures_again_but_keeps_a_detector_of_the_same_request(bench: Bench, fakes: Path) -> None:
    bench.run(categories=("widget",))
    bench.run(categories=("widget",), force=True)
    assert len(bench.fitted) == 1
    assert (fakes / "opened").read_text().split() == ["work"] * 2


def test_force_replaces_a_detector_of_another_request(bench: Bench) -> None:
    bench.fit()
    bench.run(SMALL.replace("resize = 40", "resize = 48"), force=True)
    assert [request.force for request in bench.fitted] == [False, False, True, True]
    assert not bench.fitted[-1].resume
    measured = artifact.read(bench.out / "artifacts" / "small" / "widget")
    assert measured.manifest.settings["resize"] == 48


def test_force_does_not_repeat_a_training_that_has_just_failed(bench: Bench) -> None:
    begun = []

    def fail() -> None:
        begun.append("widget")
        raise HarnessError("the loss is not finite")

    bench.faults["widget"] = fail
    assert bench.run(force=True).failures == {"widget": "the loss is not finite"}
    assert begun == ["widget"]
    assert [request.category.name for request in bench.fitted] == ["gadget"]


def test_without_weights_the_detectors_of_an_earlier_run_are_measured(bench: Bench) -> None:
    bench.fit()
    bench.faults["widget"] = raises(AssertionError("a fit was asked for"))
    outcome = bench.run(backends=("fake-chatter",), weights=None)
    assert [measured.case.backend for measured in outcome.records] == ["fake-chatter"] * 2


def test_without_mindspore_the_detectors_of_an_earlier_run_are_measured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fit()
    pretend(monkeypatch, mindspore=False)
    bench.faults["widget"] = raises(AssertionError("a fit was asked for"))
    outcome = bench.run(backends=("fake-chatter",))
    assert [measured.case.backend for measured in outcome.records] == ["fake-chatter"] * 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DatasetError("too few images"), "too few images"),
        (ZeroDivisionError("float division"), "ZeroDivisionError: float division"),
        (MemoryError(), "MemoryError: "),
    ],
)
def test_a_category_that_fails_does_not_stop_the_others(bench: Bench, error: Exception, reason: str) -> None:
    bench.faults["widget"] = raises(error)
    outcome = bench.run()
    assert outcome.failures == {"widget": reason}
    assert [measured.case.category for measured in outcome.records] == ["gadget"]
    assert f"widget: failed: {reason}" in bench.lines


def test_a_case_that_dies_leaves_a_failed_record_and_the_others_continue(bench: Bench) -> None:
    outcome = bench.run(backends=("fake-kill", "fake-work"), categories=("widget",))
    assert [(measured.case.backend, measured.status) for measured in outcome.records] == [
        ("fake-kill", "failed"),
        ("fake-work", "measured"),
    ]


class Stopped(HarnessError):  # noqa: N818 - as its model is named
    """The error of a training that a signal stopped."""

    exit_code = 130


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped("training interrupted at epoch 3 and kept")])
def test_an_interrupted_fit_keeps_finished_categories(bench: Bench, error: BaseException) -> None:
    bench.faults["gadget"] = raises(error)
    with pytest.raises(
        Interrupted,
        match=r"^interrupted: 1 of 2 categories are finished and kept; the same command continues$",
    ):
        bench.run()
    assert [measured.case.category for measured in record.read_all(bench.out)] == ["widget"]
    assert [request.category.name for request in bench.fitted] == ["widget"]


def test_a_category_that_failed_is_not_counted_as_finished(bench: Bench) -> None:
    bench.faults["widget"] = raises(DatasetError("too few images"))
    bench.faults["gadget"] = raises(KeyboardInterrupt())
    with pytest.raises(Interrupted, match=r"^interrupted: 0 of 2 categories"):
        bench.run()


def test_an_interrupted_measurement_keeps_finished_categories(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = worker.start

    def interrupted(job: Job, **settings: Any) -> Path:
        if job.case.category == "gadget":
            raise KeyboardInterrupt
        return start(job, **settings)

    monkeypatch.setattr(worker, "start", interrupted)
    with pytest.raises(Interrupted, match="1 of 2 categories"):
        bench.run()
    assert [measured.case.category for measured in record.read_all(bench.out)] == ["widget"]


def test_a_failed_case_is_tried_again_the_next_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any, **__: Any) -> Path:
        raise Failure("the worker died")

    with monkeypatch.context() as patched:
        patched.setattr(worker, "start", die)
        assert [measured.status for measured in bench.run(categories=("widget",)).records] == ["failed"]
    assert [measured.status for measured in bench.run(categories=("widget",)).records] == ["measured"]
    assert len(bench.fitted) == 1


def test_suites_of_one_folder_are_kept_apart(bench: Bench) -> None:
    first = bench.run(categories=("widget",)).records
    other = bench.root / "other.toml"
    other.write_text(SMALL, encoding="utf-8")
    request = bench.request(categories=("widget",))
    plan = suite_ready.ready(
        suite_ready.SuiteRequest(
            suite=suites.read(other),
            data=request.data,
            weights=request.weights,
            out=request.out,
            categories=("widget",),
        )
    )
    second = suite.run(plan, say=bench.lines.append, report=bench.reported.append).records
    assert [measured.case.suite for measured in (*first, *second)] == ["small", "other"]
    assert first[0].inputs_sha256 != second[0].inputs_sha256
    assert len(record.latest(record.read_all(bench.out))) == 2


@pytest.mark.mindspore
def test_a_suite_fits_exports_and_measures_for_real(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real fit
    from tests.conftest import write_category

    write_category(bench.data / "widget", side=80, train=12)
    write_category(bench.data / "sprocket", side=80, train=2)  # too few to fit on
    text = SMALL.replace("40", "72").replace("32", "64").replace("fake-work", "onnxruntime-cpu")
    text = text.replace("gadget", "sprocket").replace(
        "[settings]", '[settings]\ninterpolation = "pil_lanczos"'
    )
    outcome = bench.run(text)
    (measured,) = outcome.records
    assert (measured.status, measured.case.suite, measured.case.variant) == ("measured", "small", "onnx-fp32")
    assert measured.fit is not None
    assert measured.fit.settings["interpolation"] == "pil_lanczos"
    assert measured.fit.software["mindspore"]
    assert measured.fit.host is not None
    assert list(outcome.failures) == ["sprocket"]
    assert "a fit needs three" in outcome.failures["sprocket"]
    assert bench.run(text).records == (measured,)
