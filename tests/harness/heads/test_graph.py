from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.heads.graph import GraphHead

HEAD = GraphHead({"map_size": [4, 5]}, {}, threads=1)
BATCH = np.zeros((2, 3, 4, 5), np.float32)


def test_it_passes_on_what_the_graph_scored() -> None:
    maps, scores = np.arange(40, dtype=np.float32).reshape(2, 4, 5), np.array([7, 8], np.float32)
    given = HEAD(BATCH, {"map": maps, "score": scores})
    np.testing.assert_array_equal(given.maps, maps)
    np.testing.assert_array_equal(given.images, scores)


@pytest.mark.parametrize(
    ("outputs", "what"),
    [
        ({"map": (2, 4, 5)}, "should give map and score; it gave map"),
        ({}, "it gave none"),
        (
            {"map": (2, 5, 4), "score": (2,)},
            r"shapes \(2, 5, 4\) and \(2,\), expected \(2, 4, 5\) and \(2,\)",
        ),
        ({"map": (1, 4, 5), "score": (1,)}, "expected"),
        ({"map": (2, 4, 5), "score": (2, 1)}, "expected"),
    ],
)
def test_what_a_graph_should_not_give_is_refused(outputs: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        HEAD(BATCH, {name: np.zeros(shape, np.float32) for name, shape in outputs.items()})
