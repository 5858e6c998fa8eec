"""A detector in numpy: how far each pixel is from the mean of the good images, in standard deviations."""

import numpy as np

from harness.contracts import COPY, DetectorPlugin, Learnt
from harness.detector.artifact import HeadSpec
from harness.detector.settings import Settings
from harness.types import Scores


class MeanImageSettings(Settings, frozen=True, kw_only=True):
    resize: int = 64
    crop: int = 64
    floor: float = 0.1
    """Smallest standard deviation to divide by, in the units of the network's input."""


def learn(images, settings, *, seed, held_out):
    pixels = images.tensors().astype(np.float64)  # (N, C, H, W)
    deviation = np.maximum(pixels.std(axis=0), settings.floor)
    return Learnt(
        head=HeadSpec(name="mean-image", parameters={}),
        state={
            "mean": pixels.mean(axis=0).astype(np.float32),
            "deviation": deviation.astype(np.float32),
        },
        report={"images_averaged": len(images)},
    )


class MeanImageHead:
    scores_input = False  # it scores the network's output, so a backend's faults show

    def __init__(self, parameters, state, *, threads):
        self.mean, self.deviation = state["mean"], state["deviation"]

    def __call__(self, batch, outputs):
        distances = np.abs(outputs[COPY] - self.mean) / self.deviation  # (N, C, H, W)
        maps = distances.mean(axis=1, dtype=np.float32)
        largest = np.sort(maps.reshape(len(maps), -1), axis=1)[:, -10:]
        return Scores(maps=maps, images=largest.mean(axis=1, dtype=np.float32))


DETECTOR = DetectorPlugin(learn=learn, settings=MeanImageSettings)
