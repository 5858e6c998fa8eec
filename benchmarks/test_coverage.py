"""How often the intervals of `harness.metrics.intervals` hold the true value: `pytest benchmarks/test_coverage.py -s`.

Image scores are binormal: every image has a standard normal score, the two detectors' correlated by rho, and defective
images lie higher by what gives the AUROC asked for. DeLong alone is the plain a +- 1.96 s, for comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pytest
from tabulate import tabulate

from harness.metrics import pixel_metrics
from harness.metrics.intervals import Interval, auroc_difference, auroc_interval, pixel_differences
from harness.metrics.intervals.images import Placements, placements_of
from harness.types import Bool, Float32

SIMULATIONS = 4000
PIXEL_SIMULATIONS = 400
BOTTLE = (20, 63)
SPLITS = ((100, 100), (100, 300))


@dataclass(kw_only=True)
class Tally:
    """What became of the intervals of one row."""

    truth: float
    count: int = 0
    covered: int = 0
    width: float = 0
    conservative: int = 0
    delong: int = 0

    def add(self, interval: object, placements: Placements | None = None) -> None:
        assert isinstance(interval, Interval)
        self.count += 1
        self.covered += interval.low <= self.truth <= interval.high
        self.width += interval.high - interval.low
        self.conservative += "conservative" in interval.method
        if placements is not None:
            self.delong += abs(interval.estimate - self.truth) <= 1.96 * placements.standard_error

    @property
    def coverage(self) -> float:
        return self.covered / self.count

    def row(self) -> list[str]:
        shares = (self.coverage, self.delong / self.count, self.conservative / self.count)
        return [*(f"{share:.1%}" for share in shares), f"{self.width / self.count:.4f}"]


HEADERS = ("covered", "DeLong alone", "bound used", "mean width")


def binormal(
    split: tuple[int, int], aurocs: tuple[float, float], rho: float, breaks: float = 0
) -> tuple[Tally, Tally]:
    """Intervals of the second AUROC and of the difference; `breaks` of the good images fail in the second."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], split)
    shift = np.outer(labels, [math.sqrt(2) * NormalDist().inv_cdf(auroc) for auroc in aurocs])
    mixing = np.linalg.cholesky(np.array([[1, rho], [rho, 1]]))
    second = aurocs[1] * (1 - breaks)
    alone, paired = Tally(truth=second), Tally(truth=second - aurocs[0])
    for _ in range(SIMULATIONS):
        first, other = np.ascontiguousarray((random.standard_normal(shift.shape) @ mixing.T + shift).T)
        other[(labels == 0) & (random.random(len(labels)) < breaks)] += 100
        placed = placements_of(labels, other)
        alone.add(auroc_interval(labels, other), placed)
        paired.add(auroc_difference(labels, first, other), placed - placements_of(labels, first))
    return alone, paired


def test_single_auroc() -> None:
    rows, found = [], []
    for split in (*SPLITS, BOTTLE):
        for auroc in (0.8, 0.85, 0.9, 0.95, 0.99):
            alone, _ = binormal(split, (auroc, auroc), 0.5)
            rows.append([*split, auroc, *alone.row()])
            found.append((split, auroc, alone.coverage))
    print(f"\nAUROC of one detector, {SIMULATIONS} simulations a row")
    print(tabulate(rows, ("good", "defective", "AUROC", *HEADERS)))
    for split, auroc, coverage in found:
        if split in SPLITS and auroc <= 0.95:
            assert 0.93 <= coverage <= 0.97
        if split == BOTTLE and auroc == 0.99:
            assert coverage >= 0.95


def test_paired_difference() -> None:
    rows, found = [], []
    for split in (*SPLITS, BOTTLE):
        for aurocs in ((0.8, 0.8), (0.9, 0.9), (0.95, 0.9), (0.95, 0.95), (0.99, 0.99)):
            for rho in (0.5, 0.9):
                _, paired = binormal(split, aurocs, rho)
                rows.append([*split, *aurocs, rho, *paired.row()])
                found.append((split, aurocs, paired.coverage))
    print(f"\nAUROC difference of two detectors, {SIMULATIONS} simulations a row")
    print(tabulate(rows, ("good", "defective", "reference", "other", "rho", *HEADERS)))
    for split, aurocs, coverage in found:
        if split in SPLITS and max(aurocs) <= 0.95:
            assert 0.93 <= coverage <= 0.97
        if split == BOTTLE and max(aurocs) == 0.99:
            assert coverage >= 0.95


def test_rare_breaks() -> None:
    rows = []
    for breaks in (0.02, 0.05, 0.1, 0.15):
        _, paired = binormal(BOTTLE, (0.99999, 0.99999), 0.9, breaks)
        rows.append([*BOTTLE, breaks, *paired.row()])
        assert paired.coverage >= 0.95
    print(
        f"\nAUROC difference, some good images break in the other detector, {SIMULATIONS} simulations a row"
    )
    print(tabulate(rows, ("good", "defective", "broken", *HEADERS)))


def pixel_category(
    random: np.random.Generator, split: tuple[int, int], noise: float, breaks: float
) -> tuple[Bool, Float32, Float32]:
    """Masks and maps, 12 x 12: a rectangle whose contrast differs by image; unseen in broken images."""
    masks = np.zeros((sum(split), 12, 12), dtype=np.bool_)
    for mask in masks[split[0] :]:
        top, left, height, width = random.integers(1, 7, size=4)
        mask[top : top + height, left : left + width] = True
    images = (len(masks), 1, 1)
    contrast = random.normal(3, 0.8, size=images) * masks
    base = random.normal(size=masks.shape) + random.normal(scale=0.4, size=images)
    drift = noise * (random.normal(size=masks.shape) + random.normal(size=images))
    other = base + drift + contrast * (random.random(images) >= breaks)
    return masks, (base + contrast).astype(np.float32), other.astype(np.float32)


@pytest.mark.parametrize(
    ("split", "noise", "breaks"),
    [(BOTTLE, 0.3, 0.0), (BOTTLE, 0.05, 0.1), ((100, 100), 0.3, 0.0)],
)
def test_pixel_differences(split: tuple[int, int], noise: float, breaks: float) -> None:
    random = np.random.default_rng(0)
    many = 30_000 // sum(split)
    masks, reference, other = pixel_category(random, (many * split[0], many * split[1]), noise, breaks)
    population = [pixel_metrics(maps, masks).values for maps in (reference, other)]
    tallies = {
        name: Tally(truth=population[1][name] - population[0][name]) for name in ("pixel_auroc", "aupro")
    }
    for seed in range(PIXEL_SIMULATIONS):
        found = pixel_differences(*pixel_category(random, split, noise, breaks), resamples=300, seed=seed)
        for name, tally in tallies.items():
            tally.add(found[name])
    print(f"\nPixel metrics, {PIXEL_SIMULATIONS} simulations, noise {noise}, broken {breaks:.0%}")
    rows = [
        [*split, name, f"{tally.truth:.4f}", f"{tally.coverage:.1%}", *tally.row()[2:]]
        for name, tally in tallies.items()
    ]
    print(
        tabulate(rows, ("good", "defective", "metric", "difference", "covered", "bound used", "mean width"))
    )
    for tally in tallies.values():
        assert tally.coverage >= 0.91
