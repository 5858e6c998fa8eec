"""Training by gradient: the loop that every trained detector shares."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.runtime import mindspore as ms
from exporters.runtime import nn
from harness.progress import progress
from harness.settings import Trained
from harness.types import FitRequest, Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is trained, and on what."""

    loss: nn.Cell
    """(N, C, H, W) → scalar, the mean over the N rows. Its `set_train` keeps what is frozen in inference mode."""
    trained: nn.Cell
    """The part that learns: a checkpoint holds all its parameters, moving statistics among them."""
    optimiser: nn.Optimizer
    batch: Callable[[int, int], Float32]
    """(epoch, step) → images (N, C, H, W); a pure function, so that a resumed training sees what an unbroken one saw."""
    steps: int
    """Optimiser steps per epoch."""
    unseen: Float32
    """Held-out good images (N, C, H, W): their loss is shown, and stops the training where that was asked for."""
    summed: bool = False
    """The gradient is that of the sum over the batch in place of the mean (seed protocol)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """How a training went; what the model zoo's tables of training performance report."""

    losses: tuple[float, ...]
    """Per optimiser step, mean over its batch."""
    unseen_losses: tuple[float, ...]
    """Per epoch."""
    step_ms: tuple[float, ...]
    epochs: int
    parameters: int
    """Trainable numbers."""
    checkpoint_bytes: int
    seconds: float


def train(task: Task, request: FitRequest) -> TrainingLog:
    """Train in place."""
    settings = request.settings
    assert isinstance(settings, Trained)  # noqa: S101 - only trained detectors have a task
    weights = task.optimiser.parameters

    def forward(images: ms.Tensor) -> ms.Tensor:
        return task.loss(images)

    gradient = ms.value_and_grad(forward, None, weights)
    losses, step_ms = [], []
    started = time.perf_counter()
    task.loss.set_train(mode=True)
    label = f"train {request.detector} {request.category.name}"
    with progress(label, settings.epochs * task.steps, unit="steps") as advance:
        for epoch in range(settings.epochs):
            for step in range(task.steps):
                begin = time.perf_counter_ns()
                loss, gradients = gradient(ms.Tensor(task.batch(epoch, step)))
                task.optimiser(gradients)
                losses.append(float(loss.asnumpy()))
                step_ms.append((time.perf_counter_ns() - begin) / 1e6)
                advance(1)
            print(epoch, np.mean(losses[-task.steps :]), np.median(step_ms), flush=True)  # noqa
    task.loss.set_train(mode=False)
    return TrainingLog(
        losses=tuple(losses),
        unseen_losses=(),
        step_ms=tuple(step_ms),
        epochs=settings.epochs,
        parameters=int(sum(np.prod(item.shape) for item in weights)),
        checkpoint_bytes=0,
        seconds=time.perf_counter() - started,
    )


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
