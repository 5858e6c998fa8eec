"""FastFlow's head: how unlikely each position's latent variables are (Yu et al. 2021, section 3.4).

A flow turns the features of good images into standard normal z. Per layer, p = exp(−½ · mean over the channels of z²),
the likelihood without its constant, brought to the power 1 / C; the map is the mean over the three layers of −p,
upsampled bilinearly, from −1 to 0. The paper names no image score; it is the map's largest value, as in anomalib.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from harness.heads.resampling import resampling_matrix
from harness.types import AnyArray, Float32, Scores

OUTPUTS = ("z1", "z2", "z3")
"""One per layer, (N, C, H / s, W / s) with"""
STRIDES = (4, 8, 16)


class FastflowParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the manifest says about this head."""

    map_size: tuple[int, int]


class FastflowHead:
    """z of three layers → −p per position → mean of the bilinear maps at input size → largest value."""

    scores_input = False

    def __init__(self, parameters: Mapping[str, Any], state: Mapping[str, AnyArray], *, threads: int) -> None:
        del state, threads
        height, width = msgspec.convert(parameters, FastflowParameters).map_size
        self._grids = [(height // stride, width // stride) for stride in STRIDES]
        self._rows = [resampling_matrix(grid[0], height, 0.0) for grid in self._grids]
        self._columns = [resampling_matrix(grid[1], width, 0.0).T for grid in self._grids]

    def __call__(self, batch: AnyArray, outputs: Mapping[str, AnyArray]) -> Scores:
        """Maps (N, H, W) and scores (N,), both float32, from −1 to 0."""
        missing = set(OUTPUTS) - outputs.keys()
        if missing:
            raise ValueError(
                f"FastFlow scores the outputs {', '.join(OUTPUTS)}; the net gave {', '.join(sorted(outputs)) or 'none'}"
            )
        maps = np.mean(
            [self._map(index, len(batch), outputs[name]) for index, name in enumerate(OUTPUTS)], axis=0
        )
        return Scores(maps=maps, images=maps.max(axis=(1, 2)))

    def _map(self, layer: int, count: int, z: AnyArray) -> Float32:
        height, width = self._grids[layer]
        if z.ndim != 4 or (len(z), *z.shape[2:]) != (count, height, width):
            raise ValueError(
                f"{OUTPUTS[layer]} has shape {z.shape}, expected ({count}, C, {height}, {width})"
            )
        upsampled: Float32 = np.matmul(np.matmul(self._rows[layer], -likelihood(z)), self._columns[layer])
        return upsampled


def likelihood(z: AnyArray) -> Float32:
    """Per position, (N, h, w), the p of z (N, C, h, w); NaN where z is infinite: that is an overflow, and no defect."""
    energy = np.square(z, dtype=np.float64).mean(axis=1)
    energy[np.isinf(energy)] = np.nan
    probability: Float32 = np.exp(-0.5 * energy).astype(np.float32)
    return probability
