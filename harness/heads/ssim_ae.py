"""SSIM-AE's head: structural dissimilarity of an image and its reconstruction (Bergmann et al. 2019, section 3.3).

The residual of a pixel is (1 − SSIM) / 2, from 0 to 1, SSIM being the mean over the channels of

    (2 μx μy + c1) (2 σxy + c2) / ((μx² + μy² + c1) (σx² + σy² + c2))          (Wang et al. 2004, equation 13)

with means, variances and covariance under a Gaussian window around the pixel; the image is reflected about its edges, so
that every pixel has a residual. The image score is the largest residual of the map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.detector.preprocess import Windows
from harness.metrics.decisions import PixelDecisions
from harness.types import AnyArray, Float32, Scores

OUTPUT = "reconstruction"
C1, C2 = 0.01**2, 0.03**2
"""The constants of SSIM for values from 0 to 1."""
TRUNCATE = 3.5
"""Standard deviations the Gaussian window reaches: 11 × 11 pixels for 1.5."""

Float64 = NDArray[np.float64]


class SsimAeParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the manifest says about this head."""

    map_size: tuple[int, int]
    window: int
    """Side of the network's input in pixels."""
    stride: int
    """Pixels between windows; where several cover a pixel, their reconstructions are averaged."""
    sigma: float = 1.5
    """Standard deviation of the Gaussian window in pixels."""
    covariance_factor: float = 1.0
    """Multiplies variances and covariance."""
    quantise: bool = False
    """The reconstruction is cut to 8 bits."""
    border: int = 0
    """So many pixels along the image's edges"""
    border_weight: float = 1.0
    """have their residual multiplied by this."""
    pixel_decisions: PixelDecisions = PixelDecisions()
    """How the decisions at the pixel threshold are measured."""


SEED_PROTOCOL: dict[str, Any] = {
    "sigma": 10.0,
    "covariance_factor": 121 / 120,
    "quantise": True,
    "border": 5,
    "border_weight": 0.2,
    "pixel_decisions": PixelDecisions(opening_radius=4, only_defective=True),
}
"""As the model zoo's script scores: it gives scikit-image sigma = 10 for the window's weights, and win_size = 11, which
then decides nothing but the factor n / (n − 1) of a sample covariance."""


class SsimAeHead:
    """Windows → image and reconstruction → map of residuals → its largest as the image score."""

    scores_input = True

    def __init__(self, parameters: Mapping[str, Any], state: Mapping[str, AnyArray], *, threads: int) -> None:
        del state, threads
        self._spec = msgspec.convert(parameters, SsimAeParameters)
        windows = Windows(size=self._spec.window, stride=self._spec.stride)
        self._origins = windows.origins(*self._spec.map_size)
        self._weights = border_weights(self._spec)
        self._kernel = gaussian_window(self._spec.sigma)

    def __call__(self, batch: AnyArray, outputs: Mapping[str, AnyArray]) -> Scores:
        """Maps (N, H, W) and scores (N,), both float32, of N · windows rows, the windows of one image after another's."""
        if OUTPUT not in outputs:
            raise ValueError(
                f"SSIM-AE scores the output {OUTPUT!r}; the net gave {', '.join(sorted(outputs)) or 'none'}"
            )
        reconstructions = outputs[OUTPUT]
        side, windows = self._spec.window, len(self._origins)
        if reconstructions.shape != batch.shape or batch.shape[2:] != (side, side) or len(batch) % windows:
            raise ValueError(
                f"{OUTPUT} has shape {reconstructions.shape}, its input {batch.shape}; both should be "
                f"({windows} · N, C, {side}, {side})"
            )
        pairs = zip(self._whole(batch), self._whole(reconstructions), strict=True)
        maps = np.stack([self._residual(image, self._rounded(copy)) for image, copy in pairs])
        return Scores(maps=maps, images=maps.max(axis=(1, 2)))

    def _whole(self, rows: AnyArray) -> Iterator[Float64]:
        """Images (C, H, W) put together from their windows, the mean where several cover a pixel."""
        side, count = self._spec.window, len(self._origins)
        cover = np.zeros(self._spec.map_size)
        for top, left in self._origins:
            cover[top : top + side, left : left + side] += 1
        for start in range(0, len(rows), count):
            total = np.zeros((rows.shape[1], *self._spec.map_size))
            for (top, left), row in zip(self._origins, rows[start : start + count], strict=True):
                total[:, top : top + side, left : left + side] += row
            yield total / cover

    def _rounded(self, reconstruction: Float64) -> Float64:
        return np.floor(reconstruction * 255) / 255 if self._spec.quantise else reconstruction

    def _residual(self, image: Float64, reconstruction: Float64) -> Float32:
        """(H, W) of two images (C, H, W)."""
        ssim = np.mean([self._ssim(*planes) for planes in zip(image, reconstruction, strict=True)], axis=0)
        residual: Float32 = ((1 - ssim) / 2 * self._weights).astype(np.float32)
        return residual

    def _ssim(self, x: Float64, y: Float64) -> Float64:
        """In float64: variances are small differences of large sums."""
        mean_x, mean_y, squares, product = (self._blurred(plane) for plane in (x, y, x * x + y * y, x * y))
        factor = self._spec.covariance_factor
        means, covariance = mean_x * mean_y, factor * (product - mean_x * mean_y)
        squared_means = mean_x**2 + mean_y**2
        variances = factor * (squares - squared_means)
        ssim: Float64 = (2 * means + C1) * (2 * covariance + C2) / ((squared_means + C1) * (variances + C2))
        return ssim

    def _blurred(self, plane: Float64) -> Float64:
        blurred: Float64 = cv2.sepFilter2D(
            plane, cv2.CV_64F, self._kernel, self._kernel, borderType=cv2.BORDER_REFLECT
        ).astype(np.float64)
        return blurred


def gaussian_window(sigma: float) -> Float64:
    """Weights of the window along one axis; their sum is 1."""
    offsets = np.arange(-int(TRUNCATE * sigma + 0.5), int(TRUNCATE * sigma + 0.5) + 1)
    weights: Float64 = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    return weights


def border_weights(spec: SsimAeParameters) -> Float64:
    """(H, W): what each residual is multiplied by."""
    weights = np.full(spec.map_size, spec.border_weight)
    height, width = spec.map_size
    weights[spec.border : height - spec.border, spec.border : width - spec.border] = 1
    return weights
