"""Static AIPP: pixels to the network's input, in the order and the precision the vendor documents.

Channel swap, then `(x − mean − min) · var_reci` in float16: `min` and `var_reci` are float16 numbers, so is each
step's result. Swapped first, channel `i` of the constants follows the order after the swap (inferred, as is the
rounding of each step).
"""

from __future__ import annotations

import numpy as np

from backends.simulators import om
from harness.types import AnyArray


def apply(settings: om.Aipp, pixels: AnyArray) -> AnyArray:
    """(N, H, W, 3) uint8 → (N, 3, H, W) float16."""
    if settings.rbuv_swap:
        pixels = pixels[..., ::-1]
    mean, low, scale = (
        np.array(values, np.float16) for values in (settings.mean, settings.min, settings.var_reci)
    )
    with np.errstate(over="ignore"):
        values = (pixels.astype(np.float16) - mean - low) * scale
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
