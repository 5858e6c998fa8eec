from __future__ import annotations

import dataclasses
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy

from harness import registry
from harness.build import FitRequest
from harness.detector import training_log
from harness.detector.settings import Stpm
from harness.errors import HarnessError
from harness.types import AnyArray, Float32
from tests.conftest import write_category

if TYPE_CHECKING:
    from exporters.train.loop import Task

pytestmark = pytest.mark.mindspore

ROOT = Path(__file__).resolve().parents[3]


def settings(**changes: Any) -> Stpm:
    return Stpm(**{"resize": 16, "crop": 16, "epochs": 4, "batch_size": 4, **changes})


def trained(
    out: Path, task: Task | None = None, wanted: Stpm | None = None, **changes: Any
) -> tuple[training_log.TrainingLog, dict[str, AnyArray]]:
    """The log of the toy's training below `out`, and all that it changed."""
    from exporters.train.loop import train
    from tests.exporters import toy

    task = task or toy.task()
    log = train(task, toy.request(out / "widget", wanted or settings(), **changes))
    return log, toy.arrays([task.trained, task.optimiser])


def equal(one: dict[str, AnyArray], other: dict[str, AnyArray]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(array, other[name]) and array.dtype == other[name].dtype for name, array in one.items()
    )


def checkpoint_of(out: Path) -> Path:
    return out / "widget.training" / "checkpoint.safetensors"


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_log_is_complete(tmp_path: Path) -> None:
    log, _ = trained(tmp_path)
    assert (len(log.losses), len(log.step_ms), len(log.unseen_losses)) == (12, 12, 4)
    assert np.mean(log.losses[-3:]) < np.mean(log.losses[:3])
    assert (log.epochs, log.kept_epoch, log.batch_size, log.micro_batch, log.workers) == (4, 4, 4, None, 1)
    assert log.parameters == 2 * 3 * 4 * 9 + 2 * 4
    assert log.checkpoint_bytes == checkpoint_of(tmp_path).stat().st_size
    assert log.seconds > sum(log.step_ms) / 1e3
    assert (log.device, log.precision, log.start) == ("cpu", "fp32", None)


def test_equal_requests_give_equal_bits(tmp_path: Path) -> None:
    (one, first), (other, second) = (trained(tmp_path / name) for name in ("one", "other"))
    assert equal(first, second)
    assert (one.losses, one.unseen_losses) == (other.losses, other.unseen_losses)


def test_held_out_images_are_scored_in_inference_mode_and_change_nothing(tmp_path: Path) -> None:
    from exporters.runtime import mindspore as ms
    from tests.exporters import toy

    task = toy.task()
    log, arrays = trained(tmp_path, task, settings(micro_batch=2))
    task.loss.set_train(mode=False)
    assert log.unseen_losses[-1] == pytest.approx(float(task.loss(ms.Tensor(toy.UNSEEN)).asnumpy()), rel=1e-5)
    _, others = trained(tmp_path, toy.task(unseen=toy.UNSEEN[:1] * 9), settings(micro_batch=2))
    assert equal(arrays, others)


def test_progress_shows_epoch_loss_and_held_out_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.progress._SECONDS_BETWEEN_LINES", 0.0)
    log, _ = trained(tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[3].startswith(
        f"train stpm widget: 3/12 steps, epoch 1/4, loss {log.losses[2]:.4g}, held out "
    )
    assert (
        f"12/12 steps, epoch 4/4, loss {log.losses[-1]:.4g}, held out {log.unseen_losses[-1]:.4g}"
        in lines[-1]
    )


# --- gradients --------------------------------------------------------------------------------------------------------


def linear(rows: list[float], **changes: Any) -> tuple[float, float, float]:
    """Loss, gradient and new weight after a step of rate 1 on the loss mean(w · x) at w = 10."""
    from exporters.runtime import nn
    from exporters.train.gradient import BatchGradient
    from exporters.train.group import Group
    from tests.exporters.toy import Linear

    cell = Linear(10.0)
    optimiser = nn.SGD(cell.trainable_params(), learning_rate=1.0)
    gradient = BatchGradient(
        cell,
        optimiser.parameters,
        micro_batch=changes.pop("micro_batch"),
        group=changes.pop("group", Group()),
    )
    loss, found = gradient(np.array(rows, np.float32)[:, None], summed=changes.pop("summed", False))
    optimiser(found)
    return loss, float(found[0].asnumpy()[0]), float(cell.weight.asnumpy()[0])


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 9])
def test_the_gradient_of_micro_batches_is_that_of_the_whole_batch(micro_batch: int) -> None:
    assert linear([1, 2, 3, 6], micro_batch=micro_batch) == (30.0, 3.0, 7.0)


@pytest.mark.parametrize("micro_batch", [3, 4])
def test_a_summed_gradient_is_as_many_times_larger_as_there_are_rows_and_the_loss_stays_a_mean(
    micro_batch: int,
) -> None:
    assert linear([1, 2, 3, 6], micro_batch=micro_batch, summed=True) == (30.0, 12.0, -2.0)


def test_micro_batches_train_as_the_whole_batch_does(tmp_path: Path) -> None:
    from tests.exporters import toy

    whole, micro = (
        trained(tmp_path, toy.task(net=toy.Net(normalised=False)), settings(micro_batch=size))
        for size in (None, 1)
    )
    np.testing.assert_allclose(micro[0].losses, whole[0].losses, rtol=1e-4)
    for name, array in whole[1].items():
        np.testing.assert_allclose(micro[1][name], array, atol=1e-5, rtol=1e-3, err_msg=name)
    assert micro[0].micro_batch == 1


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "wanted"),
    [
        ((0, 0), settings()),
        ((1, 2), settings(early_stop=1, micro_batch=2)),  # the epoch's last step, before its held-out loss
        ((3, 1), settings(early_stop=1)),
        ((3, 2), settings(epochs=4)),  # the last step of all
    ],
)
def test_an_interrupted_training_goes_on_with_the_same_bits(
    tmp_path: Path, at: tuple[int, int], wanted: Stpm
) -> None:
    from exporters.errors import Interrupted
    from tests.exporters import toy

    unbroken = trained(tmp_path / "unbroken", wanted=wanted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"and kept; the same command with --resume continues it") as stop:
        trained(tmp_path, toy.stopping(at, signal.SIGINT), wanted)
    epoch, step = divmod(at[0] * 3 + at[1] + 1, 3)
    assert f"after {epoch} of 4 epochs" + (f" and {step} steps" if step else "") in str(stop.value)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = trained(tmp_path, wanted=wanted, resume=True)
    assert equal(resumed[1], unbroken[1])
    for name in ("losses", "unseen_losses", "epochs", "kept_epoch"):
        assert getattr(resumed[0], name) == getattr(unbroken[0], name)


KILLED = """
import signal
from pathlib import Path
from exporters.train.loop import train
from harness.detector.settings import Stpm
from tests.exporters import toy
wanted = Stpm(resize=16, crop=16, epochs=4, batch_size=4, early_stop=2)
train(toy.stopping((2, 1), signal.SIGKILL), toy.request(Path({out!r}), wanted, checkpoint_every={every}))
"""


@pytest.mark.parametrize(("every", "kept"), [(1, 6), (3, None)])
def test_a_killed_training_goes_on_from_its_last_checkpoint_with_the_same_bits(
    tmp_path: Path, every: int, kept: int | None
) -> None:
    from exporters.train import checkpoint
    from tests.exporters import toy

    script = KILLED.format(out=str(tmp_path / "widget"), every=every)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    asked: list[tuple[int, int]] = []
    plain = toy.task()

    def batch(epoch: int, step: int) -> Float32:
        asked.append((epoch, step))
        return plain.batch(epoch, step)

    if kept is None:
        assert not checkpoint_of(tmp_path).exists()
    else:
        assert len(checkpoint.read(checkpoint_of(tmp_path)).losses) == kept
    task = toy.task(net=plain.trained, batch=batch)
    resumed = trained(tmp_path, task, settings(early_stop=2), resume=True)
    assert asked[0] == ((2, 0) if kept else (0, 0))
    unbroken = trained(tmp_path / "unbroken", wanted=settings(early_stop=2))
    assert equal(resumed[1], unbroken[1])
    assert resumed[0].losses == unbroken[0].losses


def test_checkpoints_come_every_so_many_epochs_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters.train import checkpoint

    written: list[Any] = []
    real = checkpoint.write

    def write(path: Path, made: Any) -> None:
        written.append(made)
        real(path, made)

    monkeypatch.setattr(checkpoint, "write", write)
    trained(tmp_path, wanted=settings(epochs=5), checkpoint_every=2)
    assert [(len(made.unseen_losses), made.finished) for made in written] == [
        (2, False),
        (4, False),
        (5, True),
    ]
    assert [path.name for path in checkpoint_of(tmp_path).parent.iterdir()] == ["checkpoint.safetensors"]


def test_a_finished_training_is_taken_over_without_a_step(tmp_path: Path) -> None:
    from tests.exporters import toy

    first, arrays = trained(tmp_path)

    def never(epoch: int, step: int) -> Float32:
        raise AssertionError(f"a step was taken: {epoch}, {step}")

    again, taken = trained(tmp_path, toy.task(batch=never), resume=True)
    assert equal(taken, arrays)
    assert again == first


def test_what_is_taken_over_reaches_a_graph_that_was_compiled_before(tmp_path: Path) -> None:
    from exporters.runtime import mindspore as ms
    from tests.exporters import toy

    first, other = toy.task(), toy.task()
    trained(tmp_path, first)
    other.loss(ms.Tensor(toy.UNSEEN))
    trained(tmp_path, other, resume=True)
    expected = first.loss(ms.Tensor(toy.UNSEEN)).asnumpy()
    np.testing.assert_array_equal(other.loss(ms.Tensor(toy.UNSEEN)).asnumpy(), expected)


def test_without_resume_a_training_starts_over(tmp_path: Path) -> None:
    first = trained(tmp_path)
    again = trained(tmp_path)
    assert equal(again[1], first[1])
    assert len(again[0].losses) == 12


def test_a_second_signal_ends_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.exporters import toy

    plain = toy.task()

    def batch(epoch: int, step: int) -> Float32:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError(f"it went on: {epoch}, {step}")

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, toy.task(net=plain.trained, batch=batch))
    assert "stopping after this step; Ctrl-C again stops at once" in capfd.readouterr().err


def test_time_adds_up_over_an_interruption(tmp_path: Path) -> None:
    from exporters.errors import Interrupted
    from exporters.train import checkpoint
    from tests.exporters import toy

    with pytest.raises(Interrupted):
        trained(tmp_path, toy.stopping((2, 1), signal.SIGTERM))
    before = checkpoint.read(checkpoint_of(tmp_path)).seconds
    log, _ = trained(tmp_path, resume=True)
    assert log.seconds > before + sum(log.step_ms[8:]) / 1e3
    assert log.seconds > sum(log.step_ms) / 1e3


# --- early stopping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "patience", "epochs", "kept"),
    [
        ([3.0, 2.0, 2.0, 2.5, 1.0], 2, 4, 2),  # an equal loss has not fallen
        ([3.0, 2.0, 2.5, 1.0, 1.5], 2, 5, 4),  # the patience begins anew
        ([1.0, 2.0, 0.5, 3.0, 4.0], 1, 2, 1),
        ([5.0, 4.0, 3.0, 2.0, 1.0], 1, 5, 5),
        ([5.0, 4.0, 3.0, 2.0, 2.5], 4, 5, 4),  # the last epoch came first; the best is kept all the same
    ],
)
def test_training_stops_when_the_held_out_loss_no_longer_falls_and_keeps_the_best_epoch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: list[float],
    patience: int,
    epochs: int,
    kept: int,
) -> None:
    from tests.exporters import toy

    monkeypatch.setattr("exporters.train.loop._Training._unseen_loss", scripted(losses))
    task = toy.task()
    log, _ = trained(tmp_path / "stopped", task, settings(epochs=5, early_stop=patience))
    assert (log.epochs, log.kept_epoch, list(log.unseen_losses)) == (epochs, kept, losses[:epochs])
    best = toy.task()
    trained(tmp_path / "best", best, settings(epochs=kept))
    assert equal(toy.arrays(task.trained), toy.arrays(best.trained))


def scripted(losses: list[float]) -> Callable[[Any], float]:
    """A held-out loss that goes by a script."""
    return lambda self: losses[len(self.unseen_losses)]


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_last_checkpoint(
    tmp_path: Path, bad: float
) -> None:
    from exporters.errors import TrainingError
    from exporters.train import checkpoint
    from tests.exporters import toy

    plain = toy.task()
    task = toy.task(
        net=plain.trained, batch=lambda *at: plain.batch(*at) * np.float32(bad if at == (2, 1) else 1)
    )
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf) in epoch 3, step 2 \(.*checkpoint.* keeps"
    ) as error:
        trained(tmp_path, task, checkpoint_every=1)
    assert error.value.exit_code == 3
    assert len(checkpoint.read(checkpoint_of(tmp_path)).losses) == 6


def test_a_held_out_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    from exporters.errors import TrainingError
    from tests.exporters import toy

    unseen = toy.UNSEEN * np.float32(math.nan)
    with pytest.raises(
        TrainingError, match=r"the loss of held-out images is nan in epoch 1, step 3 \(no checkpoint"
    ):
        trained(tmp_path, toy.task(unseen=unseen))


def test_parameters_that_are_not_finite_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exporters.errors import TrainingError
    from exporters.runtime import nn
    from tests.exporters import toy

    monkeypatch.setattr("exporters.train.loop._Training._unseen_loss", scripted([1.0]))
    net = toy.Net(normalised=False)
    rows = toy.ROWS[:4] * np.float32(1e6)
    optimiser = nn.SGD(net.trainable_params(), learning_rate=1e37)
    with pytest.raises(
        TrainingError, match=r"a parameter is no longer finite in epoch 1, step 1 \(no checkpoint"
    ):
        trained(tmp_path, toy.task(net=net, optimiser=optimiser, rows=rows), settings(epochs=1))
    assert not checkpoint_of(tmp_path).exists()


def test_a_checkpoint_of_another_request_is_refused(tmp_path: Path) -> None:
    from exporters.errors import CheckpointError

    trained(tmp_path, digest="one")
    with pytest.raises(CheckpointError, match=r"is of another request .*--force starts over.*--init-from"):
        trained(tmp_path, digest="other", resume=True)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "empty", "pickle", "foreign", "schema", "header", "folder"]
)
def test_a_damaged_or_foreign_checkpoint_is_refused_and_nothing_of_it_is_run(
    tmp_path: Path, damage: str
) -> None:
    from exporters.errors import CheckpointError

    trained(tmp_path)
    path = checkpoint_of(tmp_path)
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(damaged(damage, whole, tmp_path / "run"))
    with pytest.raises(
        CheckpointError, match=r"checkpoint.safetensors: .*; give another file, or start over with"
    ):
        trained(tmp_path, resume=True)
    assert not (tmp_path / "run").exists()


def damaged(how: str, whole: bytes, trap: Path) -> bytes:
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    return {
        "cut": whole[:-7],
        "flipped": bytes(flipped),
        "empty": b"",
        "pickle": pickle.dumps(Bomb(trap)),
        "foreign": safetensors.numpy.save({"conv1.weight": np.zeros(3, np.float32)}),
        "schema": whole.replace(b'schema\\":1', b'schema\\":9'),
        "header": whole.replace(b"arrays_sha256", b"arrays_sha257"),
    }[how]


# --- where a training begins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimised", [True, False])
def test_a_training_begins_with_another_ones_parameters_and_where_it_fits_its_optimiser(
    tmp_path: Path, *, optimised: bool
) -> None:
    from exporters.runtime import nn
    from tests.exporters import toy

    first = toy.task()
    trained(tmp_path / "first", first)
    net = toy.Net()
    kind = nn.Adam if optimised else nn.Momentum
    more = {} if optimised else {"momentum": 0.9}
    optimiser = kind(net.trainable_params(), learning_rate=0.5, **more)
    start = begun(
        toy.request(tmp_path / "widget", init_from=checkpoint_of(tmp_path / "first")), net, optimiser
    )
    assert equal(toy.arrays(net), toy.arrays(first.trained))
    assert (start.file, start.optimiser) == ("checkpoint.safetensors", optimised)
    state, earlier = toy.arrays(optimiser), toy.arrays(first.optimiser)
    assert state["learning_rate"] == 0.5
    if optimised:
        assert equal({**state, "learning_rate": earlier["learning_rate"]}, earlier)


def begun(request: FitRequest, net: Any, optimiser: Any) -> training_log.Start:
    from exporters.train.initialisation import take_over

    assert request.init_from is not None
    return take_over(request.init_from, net, optimiser)


def test_an_artifacts_network_is_taken_over_without_the_parts_that_are_not_trained(tmp_path: Path) -> None:
    from tests.exporters import toy

    donor, net = toy.task(), toy.Net()
    trained(tmp_path, donor)
    renamed = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    stored = {"backbone.conv1.weight": np.ones(2, np.float32)}
    for name, array in toy.arrays(donor.trained).items():
        stem, _, last = name.rpartition(".")
        stored[f"{stem}.{renamed.get(last, last)}"] = array
    safetensors.numpy.save_file(stored, tmp_path / "net.safetensors")
    optimiser = toy.task(net=net).optimiser
    start = begun(toy.request(tmp_path, init_from=tmp_path / "net.safetensors"), net, optimiser)
    assert equal(toy.arrays(net), toy.arrays(donor.trained))
    assert not start.optimiser
    assert start.left_out == ("backbone",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"conv1.weight": None}, "conv1.weight is missing"),
        ({"conv2.more": np.zeros(1, np.float32)}, "conv2.more is unknown"),
        (
            {"conv1.weight": np.zeros((4, 3, 1, 1), np.float32)},
            r"conv1.weight is float32\(4, 3, 1, 1\) in place of float32\(4, 3, 3, 3\)",
        ),
        ({"norm.beta": np.zeros(4, np.float64)}, r"norm.beta is float64\(4,\) in place of float32\(4,\)"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, change: dict[str, AnyArray | None], words: str
) -> None:
    from exporters.errors import CheckpointError
    from tests.exporters import toy

    task = toy.task()
    arrays = {**toy.arrays(task.trained), **change}
    path = tmp_path / "net.safetensors"
    safetensors.numpy.save_file({name: array for name, array in arrays.items() if array is not None}, path)
    before = toy.arrays(task.trained)
    with pytest.raises(CheckpointError, match=f"net.safetensors: not of this network: {words}"):
        trained(tmp_path, task, init_from=path)
    assert equal(toy.arrays(task.trained), before)


# --- as part of a fit -------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FitRequest:
    """A fit of the toy on 9 images, one more held out."""
    from harness import datasets
    from tests.exporters import toy

    monkeypatch.setitem(registry.LEARNERS, "stpm", "tests.exporters.toy:learn")
    write_category(tmp_path / "data" / "widget", side=20, train=10)
    category = datasets.load_category(tmp_path / "data", "widget")
    return toy.request(tmp_path / "made" / "widget", category=category)


def fitted(request: FitRequest, **changes: Any) -> Any:
    from exporters.fit.job import fit

    return fit(dataclasses.replace(request, **changes))[0]


def test_the_record_lies_in_the_artifact_and_a_summary_in_its_manifest(asked: FitRequest) -> None:
    made = fitted(asked)
    log = training_log.read(made.path)
    assert log is not None
    summary = made.manifest.fit_report["training"]
    assert summary == log.summary()
    assert (summary["epochs"], summary["steps"], summary["last_loss"]) == (4, 12, log.losses[-1])
    assert summary["step_ms"] == round(float(np.median(log.step_ms)), 3)
    assert "init_from" not in made.manifest.fit_report


def test_how_a_training_went_is_no_part_of_the_detectors_identity(asked: FitRequest) -> None:
    from harness.detector import artifact

    made = fitted(asked)
    (made.path / training_log.FILE).unlink()
    assert training_log.read(made.path) is None
    assert artifact.read(made.path).manifest.detector_sha256 == made.manifest.detector_sha256


@pytest.mark.parametrize("text", ["{}", '{"schema": 9}', '{"schema": 1, "losses": ["a"]}', "no"])
def test_a_record_is_read_strictly(tmp_path: Path, text: str) -> None:
    (tmp_path / training_log.FILE).write_text(text)
    with pytest.raises(HarnessError, match=r"training.json: .*fit the detector again"):
        training_log.read(tmp_path)


def test_a_training_that_was_left_is_continued_or_thrown_away_only_when_asked(asked: FitRequest) -> None:
    from exporters.errors import CheckpointError

    made = fitted(asked)
    before = made.manifest.net_sha256
    shutil.rmtree(made.path)
    with pytest.raises(
        CheckpointError, match=r"widget.training: .*--resume continues it, --force starts over"
    ):
        fitted(asked)
    half_written = checkpoint_of(asked.out.parent).with_name(".checkpoint.safetensors.abc.part")
    half_written.touch()
    assert fitted(asked, resume=True).manifest.net_sha256 == before
    assert not half_written.exists()
    shutil.rmtree(made.path)
    assert fitted(asked, force=True).manifest.net_sha256 == before


def test_the_digest_covers_what_decides_the_bits_and_not_how_the_work_is_cut(asked: FitRequest) -> None:
    digest = fitted(asked).manifest.request_sha256
    same = fitted(asked, checkpoint_every=3, resume=True, digest="anything")
    assert same.manifest.request_sha256 == digest
    other = fitted(asked, settings=settings(micro_batch=2), force=True)
    assert other.manifest.request_sha256 != digest
    file = checkpoint_of(asked.out.parent)
    copy = file.rename(file.parent.parent / "start.safetensors")
    started = fitted(asked, settings=settings(micro_batch=2), init_from=copy, force=True)
    assert started.manifest.request_sha256 not in (digest, other.manifest.request_sha256)
    assert started.manifest.fit_report["init_from"]["file"] == "start.safetensors"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "mixed"}, "--precision mixed: MindSpore's CPU kernels train in float32 only"),
        ({"settings": settings(workers=3)}, "--workers 3 share every batch evenly: .* not 4"),
        ({"init_from": Path("nowhere")}, "--init-from nowhere: no such file"),
        ({"device": "gpu"}, "--device gpu: MindSpore .* finds none on this machine: .*or with --device cpu"),
        ({"device": "ascend"}, "--device ascend: MindSpore .* finds none on this machine"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(
    asked: FitRequest, changes: dict[str, Any], words: str
) -> None:
    from exporters.fit import job

    for step in (job.fit, job.check):
        with pytest.raises(HarnessError, match=words):
            step(dataclasses.replace(asked, **changes))
    assert not asked.out.parent.exists()


def test_a_detector_that_is_not_trained_cannot_start_from_a_checkpoint(
    request_to_fit: FitRequest, tmp_path: Path
) -> None:
    from exporters.fit import job

    with pytest.raises(HarnessError, match="padim is fitted without a training: leave --init-from"):
        job.check(dataclasses.replace(request_to_fit, init_from=tmp_path))
