"""FastFlow's fit: flows learn the density of good images' features (Yu et al. 2021, section 3.3).

The backbone is frozen and images are not augmented, so the features are computed once, before the training.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from exporters.nets.fastflow import BACKBONE, FastflowNet, Flows, frozen, initial
from exporters.nets.resnet import arrays_of
from exporters.runtime import mindspore as ms
from exporters.runtime import nn
from exporters.train.loop import Task, epochs_of, train
from harness.build import FitRequest
from harness.contracts import Images, Learnt
from harness.detector.artifact import HeadSpec
from harness.detector.settings import Fastflow
from harness.errors import UsageError
from harness.heads.fastflow import OUTPUTS
from harness.types import AnyArray, Float32


class FlowLoss(nn.Cell):
    """Features (N, F) → negative log-likelihood: mean over the rows of Σ ½·z² − log |det|, without its constant.

    A row holds the three layers' features one after another, (C, h, w) each (`_features`).
    """

    def __init__(self, flows: Flows) -> None:
        super().__init__(auto_prefix=False)
        self.flows = flows
        self.shapes = [tuple(flow.weight.shape) for flow in (flows.flow1, flows.flow2, flows.flow3)]
        self.bounds = [0, *np.cumsum([int(np.prod(shape)) for shape in self.shapes]).tolist()]

    def construct(self, features: ms.Tensor) -> ms.Tensor:
        """The loss of a batch."""
        latent, logdet = self.flows(
            self._layer(features, 0), self._layer(features, 1), self._layer(features, 2)
        )
        energy = 0.0
        for z in latent:
            energy = energy + (z * z).sum(axis=(1, 2, 3))
        return (0.5 * energy - logdet).mean()

    def _layer(self, features: ms.Tensor, index: int) -> ms.Tensor:
        return features[:, self.bounds[index] : self.bounds[index + 1]].reshape((-1, *self.shapes[index]))


def learn(request: FitRequest, weights: Mapping[str, Float32], images: Images, unseen: Images) -> Learnt:
    """Train the flows; the rest of an epoch that does not fill a batch is left out."""
    settings = request.settings
    assert isinstance(settings, Fastflow)  # noqa: S101 - `harness.detector.settings` pairs them
    backbone = frozen(request.backbone, weights)
    flows = Flows(_start(settings, backbone.channels, request.seed))
    features, held_out = (_features(backbone, part) for part in (images, unseen))
    log = train(_task(flows, settings, features, held_out, request.seed), request)
    net = FastflowNet(backbone, flows)

    def run(batch: Float32) -> dict[str, AnyArray]:
        return {name: z.asnumpy() for name, z in zip(OUTPUTS, net(ms.Tensor(batch)), strict=True)}

    return Learnt(
        run=run,
        net=arrays_of(flows) | {f"{BACKBONE}.{name}": array for name, array in weights.items()},
        state={},
        head=HeadSpec(name="fastflow", parameters={"map_size": [settings.crop, settings.crop]}),
        report={},
        training=log,
    )


def _task(flows: Flows, settings: Fastflow, features: Float32, unseen: Float32, seed: int) -> Task:
    steps, indices = epochs_of(len(features), settings.batch_size, seed, drop_last=True)
    return Task(
        loss=FlowLoss(flows),
        trained=flows,
        optimiser=optimiser(flows, settings),
        batch=lambda epoch, step: features[indices(epoch, step)],
        steps=steps,
        unseen=unseen,
    )


def optimiser(flows: Flows, settings: Fastflow) -> nn.Optimizer:
    """Adam with the weight decay in the gradient, of all parameters.

    They are given as a group, since MindSpore leaves names with `beta` or `gamma` without decay where they are not.
    """
    return nn.Adam(
        [{"params": flows.trainable_params(), "weight_decay": settings.weight_decay}],
        learning_rate=settings.learning_rate,
    )


def _start(settings: Fastflow, channels: tuple[int, ...], seed: int) -> dict[str, AnyArray]:
    if settings.crop % 16:
        raise UsageError(
            f"--crop {settings.crop}: FastFlow needs a multiple of 16, where the three layers' grids nest"
        )
    if int(channels[0] // 2 * settings.hidden_ratio) < 1:
        raise UsageError(
            f"hidden_ratio {settings.hidden_ratio:g} leaves layer 1's couplings no hidden channel: give at least "
            f"{2 / channels[0]:g}"
        )
    return initial(
        channels,
        settings.crop,
        steps=settings.flow_steps,
        hidden_ratio=settings.hidden_ratio,
        only_3x3=settings.conv3x3_only,
        seed=seed,
    )


def _features(backbone: nn.Cell, images: Images) -> Float32:
    """Per image the three layers' features one after another, (N, F); 1.8 MB a row for ResNet-18 at 256 pixels."""
    rows: Float32 = np.empty((len(images), 0), np.float32)
    done = 0
    for batch, real in images.batches():
        layers = [layer.asnumpy()[:real].reshape(real, -1) for layer in backbone(ms.Tensor(batch))]
        features = np.concatenate(layers, axis=1)
        if done == 0:
            rows = np.empty((len(images), features.shape[1]), np.float32)
        rows[done : done + real] = features
        done += real
    return rows
