"""The published tables as data, and the settings that each source states (results/published)."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness import errors, storage, suites
from harness.detector.settings import settings as settings_of
from harness.errors import HarnessError

COLUMNS = ("source", "model", "backbone", "device", "dataset", "category", "metric", "value")
SOURCES = "sources.toml"
MEAN, ALL = "mean", "all"
"""Stand-ins for a category: the mean over the data set's categories, and a value that holds for each of them."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published number."""

    source: str
    model: str
    backbone: str
    """As published, `wide_resnet50_2 (racm)`; empty for a detector without one."""
    device: str
    dataset: str
    category: str
    """As published, `bottle (README log sample)`; see also `MEAN` and `ALL`."""
    metric: str
    value: float

    @property
    def network(self) -> str:
        """The backbone's name in our records."""
        return self.backbone.partition(" (")[0] or "none"

    @property
    def about(self) -> str:
        """The category's name in our records."""
        return self.category.partition(" (")[0]


class Counts(_Strict, frozen=True, kw_only=True):
    """Images of one category."""

    train: int
    good: int
    defective: int


class Source(_Strict, frozen=True, kw_only=True):
    """The origin of rows and the settings behind them."""

    name: str
    """As in the rows."""
    title: str
    dataset: str | None = None
    """Only the source's rows on this data set; `None` means all."""
    suite: str | None = None
    """The suite with its settings."""
    settings: dict[str, Any] = {}
    """The known settings, if there is no suite."""
    category: dict[str, dict[str, Any]] = {}
    weights: str | None = None
    """The backbone's weights; `None` if not stated."""
    metrics: dict[str, str] = {}
    """A metric's name in the rows → its descriptive name."""
    notes: tuple[str, ...] = ()
    device_notes: dict[str, tuple[str, ...]] = {}

    def settings_for(self, category: str) -> dict[str, Any]:
        """Return the known settings of one category, including masks."""
        if self.suite is None:
            return {**self.settings, **self.category.get(category, {})}
        suite = suites.read(suites.find(self.suite))
        fitted: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(suite.settings_for(category)))
        return {**fitted, "mask_threshold": suite.mask_threshold, "mask_resize": suite.mask_resize}


class _Sources(_Strict, frozen=True, kw_only=True):
    dataset: dict[str, dict[str, Counts]]
    source: tuple[Source, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """All rows, their sources and their data sets."""

    rows: tuple[Row, ...]
    sources: tuple[Source, ...]
    datasets: dict[str, dict[str, Counts]]

    def rows_of(self, source: Source) -> tuple[Row, ...]:
        """The rows of one source."""
        return tuple(row for row in self.rows if _belongs(row, source))


def _belongs(row: Row, source: Source) -> bool:
    return row.source == source.name and source.dataset in (None, row.dataset)


def read(folder: Path | None = None) -> Published:
    """Read the published tables; the shipped ones by default.

    Raises:
        HarnessError: a file is missing or malformed; says where.
    """
    return _read(storage.shipped("published") if folder is None else folder)


@functools.cache
def _read(folder: Path) -> Published:
    rows = tuple(row for file in sorted(folder.glob("*.csv")) for row in _rows(file))
    if not rows:
        raise HarnessError(f"{folder}: no published tables here; install the program again")
    stated = _sources(folder / SOURCES)
    published = Published(rows=rows, sources=stated.source, datasets=stated.dataset)
    _check(published, folder / SOURCES)
    return published


def _rows(file: Path) -> Iterator[Row]:
    """The rows of one detector's file."""
    seen: dict[tuple[str, ...], int] = {}
    with file.open(encoding="utf-8", newline="") as text:
        reader = csv.reader(text, strict=True)
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise HarnessError(f"{file}: line 1: columns {header}, expected {list(COLUMNS)}")
        for fields in reader:
            place = f"{file}: line {reader.line_num}"
            if len(fields) != len(COLUMNS):
                raise HarnessError(f"{place}: {len(fields)} fields, expected {len(COLUMNS)}")
            key = tuple(fields[:-1])
            if key in seen:
                raise HarnessError(f"{place}: the same as line {seen[key]}")
            seen[key] = reader.line_num
            yield _row(fields, place, file.stem)


def _row(fields: list[str], place: str, model: str) -> Row:
    named = dict(zip(COLUMNS, fields, strict=True))
    empty = [name for name, value in named.items() if not value.strip() and name != "backbone"]
    if empty or named["model"] != model:
        raise HarnessError(f"{place}: {', '.join(empty) or 'model'}: expected a value, of model {model}")
    try:
        value = float(named.pop("value"))
    except ValueError as error:
        raise HarnessError(f"{place}: value: {error}") from error
    if not math.isfinite(value):
        raise HarnessError(f"{place}: value: {value} is no number to compare with")
    return Row(**named, value=value)


def _sources(file: Path) -> _Sources:
    try:
        return msgspec.toml.decode(file.read_bytes(), type=_Sources)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise HarnessError(f"{file}: {error}") from error


def _check(published: Published, file: Path) -> None:
    """Check that each row has one source, each source rows, each data set its counts, and each setting its detector."""
    for row in published.rows:
        sources = [source for source in published.sources if _belongs(row, source)]
        if len(sources) != 1:
            raise HarnessError(
                f"{file}: {row.source!r} on {row.dataset} has {len(sources)} sources, expected one"
            )
        if row.dataset not in published.datasets:
            raise HarnessError(f"{file}: no counts of the data set {row.dataset!r}")
    for source in published.sources:
        rows = published.rows_of(source)
        if not rows:
            raise HarnessError(f"{file}: {source.name!r} has no rows")
        if source.suite is not None and source.suite not in suites.names():
            unknown = errors.unknown("suite", source.suite, suites.names())
            raise HarnessError(f"{file}: {source.name!r}: {unknown}")
        for name in {*source.settings, *(name for table in source.category.values() for name in table)}:
            for model in {row.model for row in rows}:
                if name not in type(settings_of(model, {})).__struct_fields__:
                    raise HarnessError(f"{file}: {source.name!r}: {model} has no setting {name!r}")
