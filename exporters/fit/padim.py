"""PaDiM's fit: one pass over the good images, no gradient (Defard et al. 2020, section III-B)."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np

from exporters.fit.gaussian import Factors, GaussianAccumulator, factorise
from exporters.nets.padim import PadimNet
from exporters.nets.resnet import load
from exporters.runtime import mindspore as ms
from harness import machine
from harness.build import FitRequest
from harness.contracts import Images, Learnt
from harness.detector.artifact import HeadSpec
from harness.detector.settings import Padim
from harness.errors import UsageError
from harness.heads.padim import BLOCK_ROWS, OUTPUT
from harness.progress import progress
from harness.types import AnyArray, Float32

EPSILON = 0.01
"""Regularisation of the covariance (section III-B)."""
SIGMA = 4.0
"""Standard deviation of the map's Gaussian blur in pixels (section IV-B)."""
TOLERANCE = 1e-5
"""Relative error of a distance that leaving out directions may cause."""

TOTAL_CHANNELS = {"resnet18": 448, "wide_resnet50_2": 1792, "wide_resnet101_2": 1792}
CHANNELS = {"resnet18": 100, "wide_resnet50_2": 550, "wide_resnet101_2": 550}


def choose_channels(backbone: str, count: int, *, seed: int, draw: str) -> list[int]:
    """Sorted channel indices of the concatenated layers 1-3.

    Args:
        backbone: Decides how many there are to choose from.
        count: How many to choose.
        seed: Seed of the `numpy` draw.
        draw: `numpy`, or `modelzoo` for the draw of the model zoo's PaDiM (Python's generator, seed 1024). The original
            keeps the drawn order; a Mahalanobis distance does not depend on it.

    Raises:
        UsageError: `count` out of range, or a layer left without any channel.
    """
    total = TOTAL_CHANNELS[backbone]
    if not 0 < count <= total:
        raise UsageError(f"--channels {count}: {backbone} has {total} channels in layers 1-3")
    if draw == "modelzoo":
        chosen = sorted(random.Random(1024).sample(range(total), count))  # noqa: S311 - the published draw
    else:
        chosen = sorted(np.random.default_rng(seed).choice(total, count, replace=False).tolist())
    bounds = (0, total // 7, 3 * total // 7, total)  # layers 1, 2, 3 have channels in proportion 1 : 2 : 4
    for layer in range(3):
        if not any(bounds[layer] <= channel < bounds[layer + 1] for channel in chosen):
            raise UsageError(
                f"--channels {count}: the draw left layer{layer + 1} without a channel; ask for more"
            )
    return chosen


def learn(request: FitRequest, weights: Mapping[str, Float32], images: Images, unseen: Images) -> Learnt:
    """Fit the Gaussians of all positions."""
    settings = request.settings
    assert isinstance(settings, Padim)  # noqa: S101 - `harness.detector.settings` pairs them
    crop = settings.crop
    if crop % 16:
        raise UsageError(f"--crop {crop}: PaDiM needs a multiple of 16, where the three layers' grids nest")
    count = settings.channels or CHANNELS[request.backbone]
    channels = choose_channels(request.backbone, count, seed=request.seed, draw=settings.draw)
    net = PadimNet(request.backbone, channels, (crop, crop))
    load(net, weights)

    def run(batch: Float32) -> dict[str, AnyArray]:
        return {OUTPUT: net(ms.Tensor(batch)).asnumpy()}

    side = crop // 4
    gaussians = GaussianAccumulator(side * side, count)
    with progress(f"fit padim {request.category.name}", len(images)) as advance:
        for batch, real in images.batches():
            for embedding in run(batch)[OUTPUT][:real]:
                gaussians.add(embedding.reshape(count, -1))
            advance(real)
    probe, real = next(unseen.batches())
    factors = factorise(
        gaussians,
        run(probe)[OUTPUT][:real].reshape(real, count, -1),
        epsilon=EPSILON,
        tolerance=TOLERANCE,
        block_rows=BLOCK_ROWS,
        threads=machine.usable_cores(),
    )
    parameters = {
        "epsilon": EPSILON,
        "form": factors.form,
        "grid": [side, side],
        "sigma": SIGMA,
        "half_pixel": settings.protocol == "standard",
    }
    return Learnt(
        run=run,
        net=weights,
        state=_state(gaussians, factors, channels),
        head=HeadSpec(name="padim", parameters=parameters | {"map_size": [crop, crop]}),
        report=_report(factors, settings.draw, count),
    )


def _state(gaussians: GaussianAccumulator, factors: Factors, channels: list[int]) -> dict[str, AnyArray]:
    state: dict[str, AnyArray] = {
        "channels": np.array(channels, np.int32),
        "mean": gaussians.mean.astype(np.float32),
        "order": factors.order,
    }
    return state | {f"factor.{index:04}": block for index, block in enumerate(factors.blocks)}


def _report(factors: Factors, draw: str, count: int) -> dict[str, object]:
    return {
        "channels": count,
        "channel_draw": draw,
        "covariance_form": factors.form,
        "covariance_rows": {name: int(getattr(factors.rows, name)()) for name in ("min", "max")}
        | {"mean": round(float(factors.rows.mean()), 1)},
        "subtraction_relative_error": factors.loss,
        "dropped_directions_relative_error": TOLERANCE if factors.form == "complement" else 0.0,
        "state_bytes": int(sum(block.nbytes for block in factors.blocks)),
    }
