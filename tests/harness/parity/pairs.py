"""Helpers for the tests of parity: changed outputs and records, and the parts of a report."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np

from harness.parity import (
    LevelReport,
    MetricChange,
    PairReport,
    Verdict,
)
from harness.records.record import Record
from tests.harness.record_factory import Outputs, outputs


def verdicts(pair: PairReport) -> dict[str, Verdict]:
    return {level.name: level.verdict for level in pair.levels}


def failing(pair: PairReport) -> set[str]:
    return {name for name, verdict in verdicts(pair).items() if verdict == "failed"}


def messages(pair: PairReport, level: str) -> str:
    return "\n".join(line for report in pair.levels if report.name == level for line in report.messages)


def numbers(pair: PairReport, level: str) -> dict[str, float | int | None]:
    return next(report.numbers for report in pair.levels if report.name == level)


def with_score(base: Outputs, index: int, score: float) -> Outputs:
    scores = base.scores.copy()
    scores[index] = score
    return dataclasses.replace(base, scores=scores)


def with_pixel(base: Outputs, place: tuple[int, ...], value: float) -> Outputs:
    maps = base.maps.copy()
    maps[place] = value
    return dataclasses.replace(base, maps=maps)


def with_stages(record: Record, changed: dict[int, dict[str, str]]) -> Record:
    return msgspec.structs.replace(
        record,
        images=tuple(
            msgspec.structs.replace(image, stages=image.stages | changed.get(index, {}))
            for index, image in enumerate(record.images)
        ),
    )


def level(pair: PairReport, name: str) -> LevelReport:
    return next(report for report in pair.levels if report.name == name)


def change(pair: PairReport, name: str) -> MetricChange:
    return next(change_ for change_ in pair.metrics if change_.name == name)


def noisy(seed: int, shift: float, count: int = 60) -> Outputs:
    """Overlapping scores and maps of `count` good and `count` defective images."""
    random = np.random.default_rng(seed)
    plain = outputs(good=count, defective=count)
    scores = (
        random.normal(size=2 * count) + plain.labels * 2 + shift * plain.labels * random.random(2 * count)
    )
    return dataclasses.replace(plain, scores=scores, maps=plain.maps + plain.masks * np.float32(0.5 + shift))
