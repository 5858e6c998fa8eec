"""A training small enough for any test: a few convolutions that learn to halve an image. Needs MindSpore at import."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporters.runtime import mindspore as ms
from exporters.runtime import nn, ops
from exporters.train.loop import Task, epochs_of, train
from harness.build import FitRequest
from harness.contracts import Images, Learnt
from harness.detector.artifact import HeadSpec
from harness.detector.settings import Settings, Stpm, Trained
from harness.heads.graph import MAP, SCORE
from harness.types import AnyArray, Category, Float32

SIDE = 16
ROWS = np.random.default_rng(0).normal(size=(9, 3, SIDE, SIDE)).astype(np.float32)
UNSEEN = np.random.default_rng(1).normal(size=(5, 3, SIDE, SIDE)).astype(np.float32)
SETTINGS = Stpm(resize=SIDE, crop=SIDE, epochs=4, batch_size=4)


class Net(nn.Cell):
    """(N, 3, 16, 16) → (N, 3, 8, 8)."""

    def __init__(self, *, normalised: bool = True) -> None:
        super().__init__()
        self.conv1 = _convolution(3, 4, 0)
        self.norm = nn.BatchNorm2d(4) if normalised else nn.Identity()
        self.conv2 = _convolution(4, 3, 1)
        self.shrink = nn.AvgPool2d(2, 2)

    def construct(self, images: ms.Tensor) -> ms.Tensor:
        """Half the size."""
        return self.shrink(self.conv2(ops.relu(self.norm(self.conv1(images)))))


def _convolution(inputs: int, outputs: int, seed: int) -> nn.Cell:
    drawn = np.random.default_rng(seed).normal(0, 0.2, (outputs, inputs, 3, 3)).astype(np.float32)
    return nn.Conv2d(inputs, outputs, 3, pad_mode="pad", padding=1, weight_init=ms.Tensor(drawn))


class Loss(nn.Cell):
    """Mean squared difference from every second pixel."""

    def __init__(self, net: Net) -> None:
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, images: ms.Tensor) -> ms.Tensor:
        """The loss of a batch."""
        difference = self.net(images) - images[:, :, ::2, ::2]
        return (difference * difference).mean()


def task(
    *,
    rows: Float32 = ROWS,
    batch_size: int = 4,
    net: Net | None = None,
    unseen: Float32 = UNSEEN,
    **changes: Any,
) -> Task:
    """Three steps an epoch: batches of 4, 4 and 1 rows."""
    net = net or Net()
    steps, indices = epochs_of(len(rows), batch_size, 0, drop_last=False)
    parts = {
        "loss": Loss(net),
        "trained": net,
        "optimiser": nn.Adam(net.trainable_params(), learning_rate=0.01, weight_decay=1e-3),
        "batch": lambda epoch, step: rows[indices(epoch, step)],
        "steps": steps,
        "unseen": unseen,
    }
    return Task(**{**parts, **changes})


def request(out: Path, settings: Settings = SETTINGS, **changes: Any) -> FitRequest:
    """A request that nothing but the training looks at."""
    parts = {
        "detector": "stpm",
        "backbone": "resnet18",
        "weights": None,
        "dataset": "data",
        "category": Category(name="widget", root=Path("data/widget"), train=(), test=()),
        "out": out,
        "settings": settings,
    }
    return FitRequest(**{**parts, **changes})


def arrays(cells: Sequence[nn.Cell] | nn.Cell) -> dict[str, AnyArray]:
    """All parameters of a network, or of an optimiser."""
    cells = cells if isinstance(cells, list | tuple) else [cells]
    return {item.name: item.asnumpy().copy() for cell in cells for item in cell.get_parameters()}


def stopping(at: tuple[int, int], how: signal.Signals, **changes: Any) -> Task:
    """The task of `task`, which sends itself a signal as it asks for the batch `at`."""
    plain = task(**changes)

    def batch(epoch: int, step: int) -> Float32:
        if (epoch, step) == at:
            os.kill(os.getpid(), how)
        return plain.batch(epoch, step)

    return task(
        **{**changes, "net": plain.trained, "loss": plain.loss, "optimiser": plain.optimiser, "batch": batch}
    )


def learn(request: FitRequest, weights: Mapping[str, Float32], images: Images, unseen: Images) -> Learnt:
    """A learner of the toy, for `harness.registry.LEARNERS`."""
    del weights
    settings = request.settings
    assert isinstance(settings, Trained)
    net = Net(normalised=False)
    rows = images.tensors()
    if os.environ.get("TOY_RANK_FAILS") == os.environ.get("RANK_ID", "none"):
        raise ZeroDivisionError("the toy broke")
    training = task(rows=rows, batch_size=settings.batch_size, net=net, unseen=unseen.tensors())
    log = train(training, request)

    def run(batch: Float32) -> dict[str, AnyArray]:
        halves = net(ms.Tensor(batch)).asnumpy()
        score_map = np.abs(halves - batch[:, :, ::2, ::2]).mean(axis=1)
        return {MAP: score_map, SCORE: score_map.max(axis=(1, 2))}

    return Learnt(
        run=run,
        net=arrays(net),
        state={},
        head=HeadSpec(name="graph", parameters={"map_size": [SIDE // 2, SIDE // 2]}),
        report={},
        training=log,
    )


class Linear(nn.Cell):
    """(N, 1) → mean(w · x)."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = ms.Parameter(ms.Tensor([weight], ms.float32), name="weight")

    def construct(self, rows: ms.Tensor) -> ms.Tensor:
        """The loss of a batch."""
        return (rows * self.weight).mean()
