"""An exported file is kept only when it computes what the MindSpore cell computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from exporters.errors import ExportMismatch
from exporters.runtime import mindspore as ms
from harness.types import AnyArray, Float32

TOLERANCE = 1e-4
"""Largest accepted difference, relative to the largest value of the cell's output."""
BATCHES = (1, 3)
"""One image, and a batch that no constant of the graph can have been folded for."""


def agreement(
    cell: Callable[..., ms.Tensor | tuple[ms.Tensor, ...]],
    run: Callable[[Float32], Mapping[str, AnyArray]],
    *,
    shape: tuple[int, int, int],
    outputs: Sequence[str],
    what: str,
) -> dict[str, float]:
    """Largest relative difference between `run` and `cell` per batch size, on seeded normal noise.

    Raises:
        ExportMismatch: a difference over `TOLERANCE`, another shape, or a value that is not finite.
    """
    found = {}
    for batch in BATCHES:
        image = np.random.default_rng(batch).standard_normal((batch, *shape)).astype(np.float32)
        expected = cell(ms.Tensor(image))
        tensors = expected if isinstance(expected, tuple) else (expected,)
        got = run(image)
        worst = 0.0
        for name, tensor in zip(outputs, tensors, strict=True):
            worst = max(
                worst, _difference(got[name], tensor.asnumpy(), f"{what}, output {name}, batch {batch}")
            )
        found[str(batch)] = worst
    return found


def _difference(got: AnyArray, expected: AnyArray, where: str) -> float:
    if got.shape != expected.shape:
        raise ExportMismatch(
            f"{where}: shape {got.shape}, the MindSpore cell gives {expected.shape}; not kept"
        )
    difference = float(np.abs(got - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
    if not difference <= TOLERANCE:  # NaN too
        raise ExportMismatch(
            f"{where}: differs from the MindSpore cell by {difference:.2g} of its largest value "
            f"(accepted: {TOLERANCE:g}); not kept"
        )
    return difference
