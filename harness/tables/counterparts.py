"""What of a record answers to a published metric; a metric that is not here is one nothing of ours answers to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.records.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterpart:
    """Our value for a published metric."""

    value: Callable[[Record], float | None]
    why_absent: Callable[[Record], str] = lambda _: "the record has none"
    """Said of a record without that value."""


def _metric(name: str) -> Counterpart:
    return Counterpart(
        value=lambda record: record.metrics.get(name),
        why_absent=lambda record: record.undefined.get(name, f"the record has no {name}"),
    )


def _score_of(record: Record) -> str | None:
    """Which image score a PatchCore has, by the name of the setting."""
    return record.fit.settings.get("score") if record.fit else None


def _scored(kind: str) -> Counterpart:
    return Counterpart(
        value=lambda record: record.metrics.get("image_auroc") if _score_of(record) == kind else None,
        why_absent=lambda record: f"our image score is {_score_of(record) or 'one the record does not name'}",
    )


def _training(name: str, per: float = 1.0) -> Counterpart:
    def value(record: Record) -> float | None:
        found = (record.training or {}).get(name)
        return None if found is None else float(found) / per

    return Counterpart(
        value=value,
        why_absent=lambda record: (
            "it was fitted without a training by gradient"
            if record.training is None
            else f"the record of the training has no {name}"
        ),
    )


def _latency_ms(record: Record) -> float | None:
    """Of inference and head, which is what the published latencies hold (sources.toml, seed 001)."""
    stage = record.latency_ms.get("infer_head")
    return None if stage is None else stage.mean


def _images_per_second(record: Record) -> float | None:
    milliseconds = _latency_ms(record)
    return None if milliseconds is None else 1e3 / milliseconds


COUNTERPARTS: dict[str, Counterpart] = {
    "image_auroc": _metric("image_auroc"),
    "image_auroc_max": _scored("max"),
    "image_auroc_top10": _scored("top10"),
    "image_f1_max": _metric("image_f1_max"),
    "pixel_auroc": _metric("pixel_auroc"),
    "pixel_auroc_rounded": _metric("pixel_auroc"),
    "ok_accuracy": _metric("pixel_ok"),
    "ok_accuracy_rounded": _metric("pixel_ok"),
    "nok_accuracy": _metric("pixel_nok"),
    "nok_accuracy_rounded": _metric("pixel_nok"),
    "accuracy": _metric("pixel_acc"),
    "accuracy_rounded": _metric("pixel_acc"),
    "ssim_threshold": Counterpart(value=lambda record: record.thresholds.pixel),
    "latency_ms_per_image": Counterpart(value=_latency_ms),
    "fps": Counterpart(value=_images_per_second),
    "train_ms_per_step": _training("step_ms"),
    "train_ms_per_step_median": _training("step_ms"),
    "train_loss": _training("last_loss"),
    "train_minutes": _training("seconds", 60),
    "train_hours": _training("seconds", 3600),
    "params_million": _training("parameters", 1e6),
    "checkpoint_mb": _training("checkpoint_bytes", 1e6),
}
"""Published metric → ours; `ok`, `nok` and `accuracy` of seed 004 are of pixels (results/published/README.md)."""
