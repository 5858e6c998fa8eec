"""SSIM-AE's fit: an autoencoder learns to reconstruct good images (Bergmann et al. 2019, section 3).

The optimiser is the paper's Adam. Protocol `seed` has the model zoo's: decoupled weight decay and no bias correction,
whose first steps are three times as large, so that the loss easily stays on its first plateau.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from exporters.fit.augment import Augmentation
from exporters.fit.job import preprocessing
from exporters.nets.ssim_ae import SsimAeNet, initial
from exporters.runtime import mindspore as ms
from exporters.runtime import nn
from exporters.train.loop import Task, train
from harness.build import FitRequest
from harness.contracts import Images, Learnt
from harness.detector.artifact import HeadSpec
from harness.detector.preprocess import Preprocessor, Resize
from harness.detector.settings import SsimAe
from harness.errors import UsageError
from harness.heads.ssim_ae import OUTPUT, SEED_PROTOCOL, SsimAeParameters
from harness.types import AnyArray, Float32, Sample, UInt8


class SsimLoss(nn.Cell):
    """(N, C, w, w) → 1 − mean SSIM of the images and their reconstructions: 11 × 11 Gaussian window, sigma 1.5."""

    def __init__(self, net: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.net = net
        self.similarity = nn.SSIM(max_val=1.0, filter_size=11, filter_sigma=1.5, k1=0.01, k2=0.03)

    def construct(self, images: ms.Tensor) -> ms.Tensor:
        """The loss of a batch."""
        return 1.0 - self.similarity(images, self.net(images)).mean()


def learn(request: FitRequest, weights: Mapping[str, Float32], images: Images, unseen: Images) -> Learnt:
    """Train the autoencoder.

    Raises:
        UsageError: mixed precision was asked for, or an epoch is smaller than a batch.
    """
    del weights  # there is no backbone
    settings = request.settings
    assert isinstance(settings, SsimAe)  # noqa: S101 - `harness.detector.settings` pairs them
    if request.precision != "fp32":
        raise UsageError(
            "--precision mixed: SSIM-AE trains in fp32 alone, since float16 loses the variances that SSIM is made of"
        )
    frames = resized_frames(images.samples, settings)
    augmentation = Augmentation(frames=frames, settings=settings, seed=request.seed)
    start = initial(settings.channels, settings.window, settings.latent, seed=request.seed)
    net = SsimAeNet(start, settings.window, exportable=False)
    adam = nn.AdamWeightDecay if settings.protocol == "seed" else nn.Adam
    optimiser = adam(
        net.trainable_params(), learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
    )
    task = Task(
        loss=SsimLoss(net),
        trained=net,
        optimiser=optimiser,
        batch=augmentation.batch,
        steps=augmentation.steps,
        unseen=np.concatenate([unseen.preprocessor.windows(image) for image in unseen.tensors()]),
    )
    log = train(task, request)
    learnt = {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}
    exportable = SsimAeNet(learnt, settings.window, exportable=True)
    exportable.set_train(mode=False)

    def run(batch: Float32) -> dict[str, AnyArray]:
        return {OUTPUT: exportable(ms.Tensor(batch)).asnumpy()}

    return Learnt(
        run=run,
        net=learnt,
        state={},
        head=HeadSpec(name="ssim_ae", parameters=msgspec.to_builtins(_parameters(settings))),
        report={},
        training=log,
        pixel_quantile=settings.percentile / 100,
        pixel_threshold=settings.threshold,
    )


def _parameters(settings: SsimAe) -> SsimAeParameters:
    return SsimAeParameters(
        map_size=(settings.crop, settings.crop),
        window=settings.window,
        stride=settings.stride,
        **(SEED_PROTOCOL if settings.protocol == "seed" else {}),
    )


def resized_frames(samples: Sequence[Sample], settings: SsimAe) -> UInt8:
    """Images (N, resize, resize, C) before their centre is cut out: crops for training come from all over them."""
    steps = preprocessing(settings)
    last = next(index for index, step in enumerate(steps) if isinstance(step, Resize))
    resized = Preprocessor(steps[: last + 1])
    return np.stack([resized.frame(resized.decode(sample.path)) for sample in samples])
