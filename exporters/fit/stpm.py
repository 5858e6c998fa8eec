"""STPM's training: the student learns to say what the teacher says of good images (Wang et al. 2021, sections 3 and 4).

The loss is the paper's: the mean over the images and, per layer, over the positions. The original scripts (protocol
`seed`) take the sum over the batch, and the authors' own code the mean of twice this, all at the learning rate 0.4. It
matters little, since a batch norm after every convolution makes the student blind to the size of its kernels: after 40
steps of 32 images of 128 pixels (MVTec AD's bottle), image and pixel AUROC are 0.99 and 0.98 with the mean, 0.99 and 0.97
with the sum.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from exporters.nets.resnet import arrays_of, load
from exporters.nets.stpm import StpmLoss, StpmNet, initial_student
from exporters.runtime import mindspore as ms
from exporters.runtime import nn
from exporters.train.loop import Task, epochs_of, train
from harness.build import FitRequest
from harness.contracts import Images, Learnt
from harness.detector.artifact import HeadSpec
from harness.detector.settings import Stpm
from harness.errors import UsageError
from harness.heads.stpm import STUDENT, TEACHER
from harness.types import AnyArray, Float32

SMALLEST_CROP = 32
"""Below, layer 3 has a single position, and a batch of one image no variance to normalise by."""


def learn(request: FitRequest, weights: Mapping[str, Float32], images: Images, unseen: Images) -> Learnt:
    """Train the student; the rest of an epoch that does not fill a batch is a smaller batch.

    Gradient accumulation and data parallelism are not exact here: the batch normalisations see what is computed at once.
    """
    settings = request.settings
    assert isinstance(settings, Stpm)  # noqa: S101 - `harness.detector.settings` pairs them
    if settings.crop < SMALLEST_CROP:
        raise UsageError(f"--crop {settings.crop}: STPM needs at least {SMALLEST_CROP} pixels")
    net = StpmNet(request.backbone, settings.protocol)
    load(net.teacher, weights, prefix="teacher.")
    load(net.student, initial_student(request.backbone, request.seed), prefix="student.")

    def run(batch: Float32) -> dict[str, AnyArray]:
        features = net(ms.Tensor(batch))
        return {name: feature.asnumpy() for name, feature in zip((*STUDENT, *TEACHER), features, strict=True)}

    task = _task(net, settings, images.tensors(), unseen.tensors(), request.seed)
    log = train(task, request)
    net.set_train(mode=False)
    grids = [[-(-settings.crop // stride)] * 2 for stride in (4, 8, 16)]
    parameters = {"protocol": settings.protocol, "grids": grids, "map_size": [settings.crop] * 2}
    return Learnt(
        run=run,
        net=arrays_of(net),
        state={},
        head=HeadSpec(name="stpm", parameters=parameters),
        report={"protocol": settings.protocol, "steps_per_epoch": task.steps},
        training=log,
    )


def _task(net: StpmNet, settings: Stpm, tensors: Float32, unseen: Float32, seed: int) -> Task:
    steps, indices = epochs_of(len(tensors), settings.batch_size, seed, drop_last=False)
    return Task(
        loss=StpmLoss(net, settings.protocol),
        trained=net.student,
        optimiser=optimiser(net.student, settings),
        batch=lambda epoch, step: np.ascontiguousarray(tensors[indices(epoch, step)]),
        steps=steps,
        unseen=unseen,
        summed=settings.protocol == "seed",
    )


def optimiser(student: nn.Cell, settings: Stpm) -> nn.Optimizer:
    """Stochastic gradient descent with Nesterov's momentum.

    The parameters are given as a group, since MindSpore leaves `gamma` and `beta` without weight decay where they are
    not; the authors' code and the original scripts decay all of them.
    """
    return nn.SGD(
        [{"params": student.trainable_params(), "weight_decay": settings.weight_decay}],
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
    )
