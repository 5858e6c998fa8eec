"""Upsampling and blurring of maps as matrices, the same for every detector, in numpy and in exported graphs."""

from __future__ import annotations

import numpy as np

from harness.types import Float32


def resampling_matrix(
    source: int, target: int, sigma: float, *, truncate: float = 4.0, half_pixel: bool = True
) -> Float32:
    """Bilinear upsampling and Gaussian blur along one axis, as one matrix (target, source); both are linear.

    Half-pixel centres (`align_corners=False`), or without `half_pixel` as MindSpore's `ResizeBilinear`: target pixel i lies
    at i · source / target. The blur is scipy's `gaussian_filter1d`: truncated at `truncate` times sigma, border
    reflected about the edge of the last pixel.
    """
    shift = 0.5 if half_pixel else 0.0
    centre = np.clip((np.arange(target) + shift) * source / target - shift, 0, source - 1)
    low = np.minimum(centre.astype(int), max(source - 2, 0))
    upsample = np.zeros((target, source))
    upsample[np.arange(target), low] += 1 - (centre - low)
    upsample[np.arange(target), np.minimum(low + 1, source - 1)] += centre - low
    if sigma == 0:
        return upsample.astype(np.float32)
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    index = np.mod(np.arange(target)[:, None] + offsets[None], 2 * target)
    index = np.where(index < target, index, 2 * target - 1 - index)
    blur = np.zeros((target, target))
    np.add.at(blur, (np.arange(target)[:, None], index), np.broadcast_to(kernel, index.shape))
    return (blur @ upsample).astype(np.float32)
