from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.records.record import Record
from harness.run import plan
from harness.run.job import decoded
from tests.conftest import Tiny


def test_a_worker_gets_the_planned_job_without_the_training_images(tiny: Tiny, tmp_path: Path) -> None:
    (job,) = plan.plan(tiny.request(tmp_path, save_outputs=True)).jobs
    without_training = dataclasses.replace(job, category=dataclasses.replace(job.category, train=()))
    assert job.category.train
    assert decoded(job.encoded()) == without_training
    assert decoded(job.encoded()).inputs_sha256 == job.inputs_sha256


def test_a_run_from_python_prints_nothing(
    tiny: Tiny, fakes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    del fakes
    request = tiny.request(tmp_path, "fake-work")
    (measured,) = plan.run(plan.plan(request), timeout=60, report=list[Record]().append)
    assert measured.status == "measured"
    assert capfd.readouterr() == ("", "")
