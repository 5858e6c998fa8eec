"""Metrics of the decisions at a frozen pixel threshold, against the ground truth."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.metrics.evaluation import Metrics, require_maps
from harness.types import Bool, Float32


class PixelDecisions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How decisions are measured; by default every pixel of every image counts as it is decided."""

    opening_radius: int = 0
    """Of the pixels above the threshold, those are called defective that a disk of this radius covers without leaving
    them: a morphological opening."""
    only_defective: bool = False
    """Good images do not count."""


def decision_metrics(
    maps: Float32,
    masks: Bool,
    labels: NDArray[np.integer[Any]],
    threshold: float | None,
    rules: PixelDecisions,
) -> Metrics:
    """How the pixels called defective, above `threshold`, agree with `masks`; both (N, H, W), `labels` (N,).

    `pixel_ok` is the share of the defective pixels that are called so, `pixel_nok` the share of the normal pixels that
    are not, `pixel_acc` the share of all pixels called rightly, `pixel_auc_binary` the area under the ROC curve of the
    decisions, which is the mean of the first two. The pixels of all images are counted together. `ok` and `nok` are the
    model zoo's words, which it also has for shares of images. A share of no pixels is undefined, and so is everything
    without a threshold.

    Raises `ValueError` for wrong shapes or dtypes, `HarnessError` for NaN or infinite scores.
    """
    require_maps(maps, masks)
    if labels.shape != (len(maps),):
        raise ValueError(f"labels {labels.shape} must be ({len(maps)},)")
    if threshold is None:
        names = ("pixel_ok", "pixel_nok", "pixel_acc", "pixel_auc_binary")
        return Metrics(
            values={}, thresholds={}, undefined=dict.fromkeys(names, "no pixel threshold is known")
        )
    hits = defective = cleared = normal = 0
    for score_map, mask, label in zip(maps, masks, labels, strict=True):
        if rules.only_defective and not label:
            continue
        called = opened(score_map.astype(np.float64) > threshold, rules.opening_radius)
        hits += int((called & mask).sum())
        defective += int(mask.sum())
        cleared += int((~called & ~mask).sum())
        normal += int((~mask).sum())
    where = "defective test images" if rules.only_defective else "test images"
    no_defect, no_normal = f"no pixel of the {where} is defective", f"no pixel of the {where} is normal"
    values, undefined = {}, {}
    if defective:
        values["pixel_ok"] = hits / defective
    else:
        undefined["pixel_ok"] = undefined["pixel_auc_binary"] = no_defect
    if normal:
        values["pixel_nok"] = cleared / normal
    else:
        undefined["pixel_nok"] = undefined["pixel_auc_binary"] = no_normal
    if defective + normal:
        values["pixel_acc"] = (hits + cleared) / (defective + normal)
    else:
        undefined["pixel_acc"] = f"the {where} have no pixels"
    if defective and normal:
        values["pixel_auc_binary"] = (values["pixel_ok"] + values["pixel_nok"]) / 2
    return Metrics(values=values, thresholds={}, undefined=undefined)


def opened(called: Bool, radius: int) -> Bool:
    """Morphological opening of (H, W) by the disk of all pixels within `radius`; what lies outside is no obstacle."""
    import cv2

    if radius == 0:
        return called
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    return cv2.morphologyEx(called.astype(np.uint8), cv2.MORPH_OPEN, disk).astype(np.bool_)
