"""Training by gradient: the loop that every trained detector shares.

What comes next is read off what has been done (losses per step, held-out losses per epoch), so a training goes on from
any step that a checkpoint was written after, with the same bits as one that was never cut short.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.errors import CONTINUES, CheckpointError, Interrupted, TrainingError
from exporters.runtime import mindspore as ms
from exporters.runtime import nn
from exporters.train import checkpoint, initialisation, launch
from exporters.train import group as group_module
from exporters.train.checkpoint import Checkpoint
from exporters.train.gradient import BatchGradient
from exporters.train.interruption import stop_asked
from harness.build import FitRequest
from harness.detector.settings import Trained
from harness.detector.training_log import Start, TrainingLog
from harness.progress import progress
from harness.types import AnyArray, Float32

__all__ = ["Task", "TrainingLog", "epochs_of", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is trained, and on what."""

    loss: nn.Cell
    """Rows of a batch (N, …) → scalar, their mean loss. Its `set_train` keeps what is frozen in inference mode."""
    trained: nn.Cell
    """The part that learns: a checkpoint holds all its parameters, moving statistics among them."""
    optimiser: nn.Optimizer
    batch: Callable[[int, int], Float32]
    """(epoch, step) → rows (N, …); a pure function, so that a resumed training sees what an unbroken one saw."""
    steps: int
    """Optimiser steps per epoch."""
    unseen: Float32
    """Rows of held-out good images: their loss is shown, and stops the training where that was asked for."""
    summed: bool = False
    """The gradient is that of the sum over the batch in place of the mean (seed protocol)."""


def train(task: Task, request: FitRequest) -> TrainingLog:
    """Train in place, on as many workers as the settings ask for.

    Raises:
        CheckpointError: `request.resume` or `request.init_from` names a checkpoint that is damaged or does not fit.
        Interrupted: a signal asked for the end; a checkpoint holds the last step.
        TrainingError: a loss that is not finite, or a worker that failed.
    """
    training = _Training(task, request, group_module.group())
    training.begin()
    workers = training.settings.workers
    if workers == 1 or training.group.size > 1:
        training.go_on()
    elif not training.finished:
        launch.launch(request, workers)
        training.take_over_from_ranks()
    return training.log()


class _Training:
    """A training between its first and its last step."""

    def __init__(self, task: Task, request: FitRequest, group: group_module.Group) -> None:
        settings = request.settings
        assert isinstance(settings, Trained)  # noqa: S101 - only trained detectors have a task
        self.task, self.request, self.settings, self.group = task, request, settings, group
        self.path = checkpoint.folder(request.out) / checkpoint.FILE
        self.losses: list[float] = []
        self.unseen_losses: list[float] = []
        self.step_ms: list[float] = []
        self.best: Mapping[str, AnyArray] = {}
        self.start: Start | None = None
        self.finished = False
        self.seconds = 0.0
        self.since = time.perf_counter()
        self.gradient = BatchGradient(
            _for_precision(task.loss, request.precision),
            task.optimiser.parameters,
            micro_batch=settings.micro_batch or settings.batch_size,
            group=group,
        )

    def begin(self) -> None:
        """Take over what the request says to start from."""
        if self.request.resume and self.path.exists():
            self._restore(checkpoint.read(self.path))
        elif self.request.init_from is not None:
            self.start = initialisation.take_over(
                self.request.init_from, self.task.trained, self.task.optimiser
            )

    def go_on(self) -> None:
        """Train until finished, or asked to stop."""
        left = self.settings.epochs * self.task.steps - len(self.losses)
        label = f"train {self.request.detector} {self.request.category.name}"
        self.task.loss.set_train(mode=True)
        with stop_asked(self.group) as stop_requested, progress(label, left, unit="steps") as advance:
            while not self.finished:
                if len(self.losses) == (len(self.unseen_losses) + 1) * self.task.steps:
                    self._end_epoch()
                    advance(0, self._note())
                else:
                    self._step()
                    advance(1, self._note())
                if stop_requested():
                    if not self.finished:
                        self._save()
                    raise Interrupted(f"training interrupted {self._where()} and kept; {CONTINUES}")
        self.task.loss.set_train(mode=False)

    def take_over_from_ranks(self) -> None:
        """Go on from what the workers' last checkpoint holds."""
        self._restore(checkpoint.read(self.path))
        if not self.finished:
            raise TrainingError(
                f"the workers ended {self._where()}, before the training did; --resume continues"
            )

    def log(self) -> TrainingLog:
        """How it went."""
        return TrainingLog(
            losses=tuple(self.losses),
            unseen_losses=tuple(self.unseen_losses),
            step_ms=tuple(self.step_ms),
            seconds=self.seconds,
            epochs=len(self.unseen_losses),
            kept_epoch=1 + (self._best_epoch() if self.settings.early_stop else len(self.unseen_losses) - 1),
            parameters=int(sum(np.prod(parameter.shape) for parameter in self.task.optimiser.parameters)),
            checkpoint_bytes=self.path.stat().st_size if self.path.exists() else 0,  # rank 0 alone writes it
            batch_size=self.settings.batch_size,
            micro_batch=self.settings.micro_batch,
            workers=self.settings.workers,
            device=self.request.device,
            precision=self.request.precision,
            start=self.start,
        )

    def _step(self) -> None:
        begin = time.perf_counter_ns()
        batch = self.task.batch(*divmod(len(self.losses), self.task.steps))
        loss, gradients = self.gradient(batch, summed=self.task.summed)
        if not math.isfinite(loss):
            raise TrainingError(self._diverged(f"the loss is {loss}", len(self.losses)))
        self.task.optimiser(gradients)
        self.losses.append(loss)
        self.step_ms.append((time.perf_counter_ns() - begin) / 1e6)

    def _end_epoch(self) -> None:
        unseen = self.group.from_first(self._unseen_loss() if self.group.rank == 0 else 0.0)
        if not math.isfinite(unseen):
            raise TrainingError(
                self._diverged(f"the loss of held-out images is {unseen}", len(self.losses) - 1)
            )
        self.unseen_losses.append(unseen)
        epochs, patience = len(self.unseen_losses), self.settings.early_stop
        if patience and self._best_epoch() == epochs - 1:
            self.best = _arrays(self.task.trained)
        stale = patience is not None and epochs - 1 - self._best_epoch() >= patience
        self.finished = epochs == self.settings.epochs or stale
        if self.finished and patience:
            initialisation.assign(self.task.trained, self.best)
            self.best = {}
        if self.finished or epochs % self.request.checkpoint_every == 0:
            self._save()

    def _unseen_loss(self) -> float:
        """Mean loss of the held-out rows, with moving statistics."""
        self.task.loss.set_train(mode=False)
        rows, size = self.task.unseen, self.settings.micro_batch or self.settings.batch_size
        total = 0.0
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            total += len(chunk) * float(self.task.loss(ms.Tensor(chunk)).asnumpy())
        self.task.loss.set_train(mode=True)
        return total / len(rows)

    def _best_epoch(self) -> int:
        """From 0: the first with the lowest held-out loss."""
        return int(np.argmin(self.unseen_losses))

    def _save(self) -> None:
        parameters = _arrays(self.task.trained)
        state = {
            name: parameter.asnumpy()
            for name, parameter in initialisation.state_of(self.task.optimiser).items()
        }
        if not all(np.isfinite(array).all() for array in (*parameters.values(), *state.values())):
            raise TrainingError(self._diverged("a parameter is no longer finite", len(self.losses) - 1))
        if self.group.size > 1:
            trainable = {parameter.name for parameter in self.task.optimiser.parameters}
            self.group.require_equal({name: parameters[name] for name in sorted(trainable)})
        self.seconds += time.perf_counter() - self.since
        self.since = time.perf_counter()
        if self.group.rank == 0:
            checkpoint_now = Checkpoint(
                request=self.request.digest,
                finished=self.finished,
                seconds=self.seconds,
                start=self.start,
                parameters=parameters,
                optimiser=state,
                best=self.best,
                losses=tuple(self.losses),
                unseen_losses=tuple(self.unseen_losses),
                step_ms=tuple(self.step_ms),
            )
            checkpoint.write(self.path, checkpoint_now)

    def _restore(self, saved: Checkpoint) -> None:
        if saved.request != self.request.digest:
            raise CheckpointError(
                f"{self.path} is of another request (images, weights, settings, seed or version differ): --force "
                "starts over, another --out keeps it, --init-from starts from its parameters"
            )
        initialisation.assign(self.task.trained, saved.parameters)
        initialisation.assign_all(initialisation.state_of(self.task.optimiser), saved.optimiser)
        self.losses, self.unseen_losses = list(saved.losses), list(saved.unseen_losses)
        self.step_ms, self.best = list(saved.step_ms), saved.best
        self.finished, self.seconds, self.start = saved.finished, saved.seconds, saved.start

    def _where(self) -> str:
        epoch, step = divmod(len(self.losses), self.task.steps)
        return f"after {epoch} of {self.settings.epochs} epochs" + (f" and {step} steps" if step else "")

    def _diverged(self, what: str, step_index: int) -> str:
        epoch, step = divmod(step_index, self.task.steps)
        kept = f"{self.path} keeps an earlier state" if self.path.exists() else "no checkpoint was written"
        return f"{what} in epoch {epoch + 1}, step {step + 1} ({kept}): try a lower --set learning_rate"

    def _note(self) -> str:
        epoch = -(-len(self.losses) // self.task.steps)
        words = [f"epoch {epoch}/{self.settings.epochs}", f"loss {self.losses[-1]:.4g}"]
        if self.unseen_losses:
            words.append(f"held out {self.unseen_losses[-1]:.4g}")
        return ", ".join(words)


def _arrays(cell: nn.Cell) -> dict[str, AnyArray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in cell.get_parameters()}


def _for_precision(loss: nn.Cell, precision: str) -> nn.Cell:
    """The loss, for `mixed` with its matrix products in float16.

    That form, level O2 without loss scaling, was never run: MindSpore's CPU kernels refuse or are slower.
    """
    return ms.amp.auto_mixed_precision(loss, "O2") if precision == "mixed" else loss


def epochs_of(
    count: int, size: int, seed: int, *, drop_last: bool
) -> tuple[int, Callable[[int, int], NDArray[np.int64]]]:
    """Steps per epoch, and the function (epoch, step) → indices of that step's images, shuffled anew every epoch.

    Args:
        count: How many images there are.
        size: Images per step; all of them where there are fewer.
        seed: Of the shuffling.
        drop_last: Leave out the rest that does not fill a batch.
    """
    size = min(size, count)
    steps = count // size if drop_last else -(-count // size)

    def indices(epoch: int, step: int) -> NDArray[np.int64]:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        return order[step * size : (step + 1) * size]

    return steps, indices
