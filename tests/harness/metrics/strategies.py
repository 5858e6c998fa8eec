"""Hypothesis strategies for scores with their ground truth: continuous, and coarse enough to be mostly tied."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from harness.types import Bool, Float32

Pixels = tuple[Float32, Bool]
Images = tuple[Float32, NDArray[np.int64]]

CONTINUOUS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
COARSE = st.integers(-3, 3).map(lambda level: level / 4)


def scores(shape: tuple[int, ...]) -> st.SearchStrategy[Float32]:
    """Finite float32 scores of this shape whose doubles are exact in float32."""
    return st.one_of(
        *(hnp.arrays(np.float32, shape, elements=kind, fill=st.nothing()) for kind in (CONTINUOUS, COARSE))
    )


def truth(dtype: Any, shape: tuple[int, ...]) -> st.SearchStrategy[NDArray[Any]]:
    """Ground truth in which both classes are present."""
    both = hnp.arrays(dtype, shape, elements=st.sampled_from([dtype(0), dtype(1)]), fill=st.nothing())
    return both.filter(lambda array: bool(array.any()) and not array.all())


@st.composite
def images(draw: st.DrawFn) -> Images:
    """Image scores (N,) and labels (N,)."""
    shape = (draw(st.integers(2, 40)),)
    return draw(scores(shape)), draw(truth(np.int64, shape))


@st.composite
def pixels(draw: st.DrawFn) -> Pixels:
    """Anomaly maps and masks, (N, H, W); some masks may be empty."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(2, 7)), draw(st.integers(2, 7)))
    return draw(scores(shape)), draw(truth(np.bool_, shape))
