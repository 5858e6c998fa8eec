from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters.train import launch
from harness import datasets, registry
from harness.build import FitRequest
from harness.detector import training_log
from harness.detector.settings import Padim, Stpm
from harness.types import AnyArray
from tests.conftest import write_category

pytestmark = pytest.mark.mindspore

ROOT = Path(__file__).resolve().parents[3]


def settings(**changes: Any) -> Stpm:
    return Stpm(**{"resize": 16, "crop": 16, "epochs": 2, "batch_size": 4, **changes})


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FitRequest:
    """A fit of the toy on 9 images by two workers: batches of 4, 4 and 1, the last of which is one worker's alone."""
    from tests.exporters import toy

    monkeypatch.setitem(registry.LEARNERS, "stpm", "tests.exporters.toy:learn")
    real = launch._command

    def command(workers: int, logs: Path) -> list[str]:
        program = ["python", "-m", "tests.exporters.toy_rank", str(logs / "request.json")]
        return [*real(workers, logs)[:-4], *program]

    monkeypatch.setattr(launch, "_command", command)
    write_category(tmp_path / "data" / "widget", side=20, train=10)
    category = datasets.load_category(tmp_path / "data", "widget")
    return toy.request(tmp_path / "made" / "widget", settings(workers=2), category=category)


def fitted(request: FitRequest, **changes: Any) -> Any:
    from exporters.fit.job import fit

    return fit(dataclasses.replace(request, **changes))[0]


def test_two_workers_train_as_one_process_with_the_same_batches_does(asked: FitRequest) -> None:
    two = fitted(asked)
    (alone,) = (
        fitted(asked, settings=settings(micro_batch=2), out=asked.out.with_name("alone")) for _ in "1"
    )
    for name, array in alone.net().items():
        np.testing.assert_array_equal(two.net()[name], array, err_msg=name)
    logs = [training_log.read(made.path) for made in (two, alone)]
    assert logs[0] is not None
    assert logs[1] is not None
    assert (logs[0].losses, logs[0].unseen_losses) == (logs[1].losses, logs[1].unseen_losses)
    assert (logs[0].workers, logs[1].workers) == (2, 1)
    assert two.manifest.thresholds.image == alone.manifest.thresholds.image


def test_a_worker_that_fails_ends_the_training_with_its_last_words(
    asked: FitRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters.errors import TrainingError

    monkeypatch.setenv("TOY_RANK_FAILS", "1")
    with pytest.raises(TrainingError, match=r"worker 1: .*ZeroDivisionError: the toy broke") as error:
        fitted(asked)
    assert "worker 0" not in str(error.value)
    assert f"logs in {asked.out.parent}" in str(error.value)
    assert not asked.out.exists()


def test_a_killed_launcher_leaves_no_worker_behind(asked: FitRequest, tmp_path: Path) -> None:
    from exporters.train import launch

    (tmp_path / "request.json").write_bytes(launch.encode(asked))
    script = f"""
import sys
from pathlib import Path
from exporters.fit import rank
from exporters.train import launch
launch.launch(rank.decode(Path({str(tmp_path / "request.json")!r}).read_bytes()), 2)
"""
    launcher = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    marker = str(asked.out.parent / "widget.training" / "ranks" / "request.json")
    workers = wait_for(lambda: running(marker) if len(running(marker)) >= 3 else [])
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    assert workers
    assert wait_for(lambda: not running(marker))


def running(marker: str) -> list[int]:
    """Processes with `marker` among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def wait_for(what: Any) -> Any:
    for _ in range(600):
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come about in a minute")


class FakeSum:
    """Another rank that has `other`, in the place of the reduction."""

    def __init__(self, other: AnyArray) -> None:
        self.other = other

    def __call__(self, tensors: Any) -> Any:
        from exporters.runtime import mindspore as ms

        return tuple(ms.Tensor(tensor.asnumpy() + self.other) for tensor in tensors)


def test_weights_that_differ_between_workers_are_noticed() -> None:
    from exporters.errors import TrainingError
    from exporters.train.group import Group
    from harness import storage

    weights = {"w": np.arange(4, dtype=np.float32)}
    digest = np.frombuffer(bytes.fromhex(storage.sha256_of_arrays(weights)), np.uint16).astype(np.float32)
    Group(rank=0, size=2, reduce=FakeSum(digest)).require_equal(weights)
    changed = {"w": np.nextafter(weights["w"], np.float32(9))}
    with pytest.raises(TrainingError, match="the 2 workers' weights differ from each other"):
        Group(rank=0, size=2, reduce=FakeSum(digest)).require_equal(changed)


@pytest.mark.parametrize(("rank", "expected"), [(0, 2.5), (1, 0.5)])
def test_what_the_first_worker_found_counts_for_all(rank: int, expected: float) -> None:
    from exporters.train.group import Group

    others = np.array([0.0 if rank == 0 else 0.5], np.float32)
    assert Group(rank=rank, size=2, reduce=FakeSum(others)).from_first(2.5) == expected


@pytest.mark.parametrize("wanted", [settings(workers=4, early_stop=3), Padim(resize=72, crop=64)])
def test_a_request_reaches_a_worker_as_it_was_made(request_to_fit: FitRequest, wanted: Any) -> None:
    from exporters.fit.rank import decode
    from exporters.train.launch import encode

    detector = "padim" if isinstance(wanted, Padim) else "stpm"
    request = dataclasses.replace(
        request_to_fit,
        detector=detector,
        settings=wanted,
        weights=Path("w.pth"),
        init_from=Path("größe.safetensors"),
        resume=True,
        digest="d",
    )
    assert decode(encode(request)) == request
    assert decode(encode(request_to_fit)) == request_to_fit
