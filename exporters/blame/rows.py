"""The network's inputs that blame looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.blame.nodes.side import Side
from harness.detector.preprocess import Preprocessor
from harness.types import AnyArray, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One input of the network."""

    image: str
    """Name of the image, with the number of the row where it has several."""
    values: AnyArray
    """(1, …); or as often as a fixed batch wants it."""


def rows(side: Side, samples: Sequence[Sample]) -> tuple[Row, ...]:
    """Every input of these images."""
    preprocessor = Preprocessor(side.artifact.manifest.preprocessing, until=side.variant.input_stage)
    found = []
    for sample in samples:
        made = preprocessor.windows(preprocessor.tensor(preprocessor.frame(preprocessor.decode(sample.path))))
        for number, row in enumerate(made):
            name = f"{sample.name} (row {number})" if len(made) > 1 else sample.name
            found.append(Row(image=name, values=repeated(side, row)))
    return tuple(found)


def repeated(side: Side, row: AnyArray) -> AnyArray:
    """One input as a batch of the size that the graph wants."""
    return np.repeat(row[None], side.graph.spec(side.graph.input.name).shape[0] or 1, axis=0)


def chosen(samples: Sequence[Sample], count: int) -> tuple[Sample, ...]:
    """As many, evenly spread."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return tuple(samples[place] for place in places)
