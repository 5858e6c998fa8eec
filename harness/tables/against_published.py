"""Our records beside published tables: ours, theirs, the difference, and where the settings differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.records.record import Record
from harness.suites import published
from harness.suites.published import ALL, MEAN, Counts, Published, Row, Source
from harness.tables.counterparts import COUNTERPARTS
from harness.tables.differences import differences, same_images
from harness.tables.grouping import groups, hidden, mean, newest, place_of
from harness.tables.summary import Table, table, unusual


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One number of ours beside one of theirs."""

    device: str
    """Theirs."""
    metric: str
    """By what it is, where the source's name says less."""
    category: str
    ours: float
    theirs: float
    same_images: bool
    """Whether ours is of as many good and defective test images as the published data set has."""

    @property
    def difference(self) -> float:
        """Ours − theirs."""
        return self.ours - self.theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One of our tables beside one source's."""

    table: Table
    source: Source
    backbone: str
    """Theirs."""
    lines: tuple[Line, ...]
    differences: tuple[str, ...]
    """Where the settings differ, ours first."""
    notes: tuple[str, ...]
    """Which older records of ours are not shown, and what the source's numbers are, and are not."""
    left_out: tuple[str, ...]
    """What the source publishes of our categories and we do not answer, with the reason; categories not measured too."""

    @property
    def title(self) -> str:
        """What is beside what."""
        ours = self.table
        settings = " · ".join([f"batch {ours.batch_size}", f"{ours.threads} threads", *unusual(ours)])
        return f"{ours.title} · {settings} against {self.source.title}, {self.backbone}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """All comparisons that the records allow, and of what else why there is none."""

    made: tuple[Comparison, ...]
    reasons: tuple[str, ...]


_TIMES = ("latency_ms_per_image", "fps")
Omitted = tuple[str, str | None, str]
"""A published metric, the category of ours it is about (none for a mean over categories), and why it is left out."""


def compare(records: Iterable[Record], tables: Published | None = None) -> Comparisons:
    """Compare every group of records with every source that has its detector and one of its categories.

    Of a source, the rows on our backbone; all of them where it has none.

    Raises:
        HarnessError: there is nothing to compare; says why for each group.
    """
    tables = published.read() if tables is None else tables
    made: list[Comparison] = []
    reasons: list[str] = []
    for group in groups(records):
        shown = table(group)
        by_category = newest(group)
        latest = {category: of[0] for category, of in by_category.items()}
        found = [
            _comparison(shown, by_category, source, rows, tables)
            for source in tables.sources
            for rows in _by_backbone(tables.rows_of(source), shown)
        ]
        made += [item for item in found if item.lines]
        empty = [item for item in found if not item.lines and item.left_out]
        reasons += [
            f"{shown.title} against {item.source.title}: {'; '.join(item.left_out)}" for item in empty
        ]
        if not any(item.lines or item.left_out for item in found):
            reasons.append(f"{shown.title}: {_why_none(shown, latest, tables)}")
    if not made:
        raise HarnessError("nothing to compare with the published tables: " + "; ".join(reasons))
    return Comparisons(made=tuple(made), reasons=tuple(reasons))


def _why_none(shown: Table, latest: Mapping[str, Record], tables: Published) -> str:
    unmeasured = [f"{name} {item.status}" for name, item in latest.items() if item.status != "measured"]
    if len(unmeasured) == len(latest):
        return f"nothing was measured ({', '.join(unmeasured)})"
    known = sorted({row.about for row in tables.rows if row.model == shown.detector} - {MEAN, ALL})
    return f"published for {shown.detector} are {', '.join(known) or 'no'} categories, the records are of {', '.join(latest)}"


def _by_backbone(rows: Sequence[Row], shown: Table) -> list[list[Row]]:
    of_detector = [row for row in rows if row.model == shown.detector]
    networks = sorted({row.network for row in of_detector})
    chosen = [shown.backbone] if shown.backbone in networks else networks
    return [[row for row in of_detector if row.network == network] for network in chosen]


def _comparison(
    shown: Table,
    by_category: Mapping[str, Sequence[Record]],
    source: Source,
    rows: Sequence[Row],
    tables: Published,
) -> Comparison:
    counts = tables.datasets[rows[0].dataset]
    measured = {name: of[0] for name, of in by_category.items() if of[0].status == "measured"}
    ours = {name: item for name, item in measured.items() if name in counts}
    missing = [
        f"{name}: {of[0].status}: {of[0].reason}"
        for name, of in by_category.items()
        if measured
        and name not in measured
        and name in counts
        and any(row.about in (name, ALL, MEAN) for row in rows)
    ]
    older = [f"{name}: {line}" for name, of in by_category.items() if name in ours for line in hidden(of)]
    lines: list[Line] = []
    omitted: list[Omitted] = []
    for device, metric in dict.fromkeys((row.device, row.metric) for row in rows):
        theirs = [row for row in rows if (row.device, row.metric) == (device, metric)]
        found, left_out = _lines(source.metrics.get(metric, metric), theirs, ours, counts)
        lines += found
        omitted += left_out
    devices = dict.fromkeys(line.device for line in lines)
    return Comparison(
        table=shown,
        source=source,
        backbone=rows[0].backbone or "none",
        lines=tuple(lines),
        differences=differences(ours, source, rows[0], counts),
        notes=(
            *older,
            *source.notes,
            *(note for device in devices for note in source.device_notes.get(device, ())),
        ),
        left_out=(*missing, *_left_out(omitted)),
    )


def _left_out(omitted: Sequence[Omitted]) -> tuple[str, ...]:
    """One line per reason: the metrics, each with its categories."""
    reasons: dict[str, dict[str, dict[str, None]]] = {}
    for metric, category, why in omitted:
        categories = reasons.setdefault(why, {}).setdefault(metric, {})
        if category is not None:
            categories[category] = None
    return tuple(
        ", ".join(metric + (f" ({', '.join(names)})" if names else "") for metric, names in metrics.items())
        + f": {why}"
        for why, metrics in reasons.items()
    )


def _lines(
    metric: str, theirs: Sequence[Row], ours: Mapping[str, Record], counts: Mapping[str, Counts]
) -> tuple[list[Line], list[Omitted]]:
    """What one metric on one device gives, by category and then in the mean, and what of it is left out."""
    wanted = sorted((name, label, row.value) for row in theirs for label, name in _asked(row, ours))
    if metric not in COUNTERPARTS:
        asked = wanted or (ours and any(row.about == MEAN for row in theirs))
        return [], [(metric, None, "nothing of ours is that")] if asked else []
    counterpart = COUNTERPARTS[metric]
    lines: list[Line] = []
    omitted: list[Omitted] = []
    for name, label, value in wanted:
        mine = counterpart.value(ours[name])
        if mine is None:
            omitted.append((metric, name, counterpart.why_absent(ours[name])))
            continue
        lines.append(
            Line(
                device=theirs[0].device,
                metric=metric,
                category=label,
                ours=mine,
                theirs=value,
                same_images=same_images(ours[name], counts[name]),
            )
        )
    places = {place_of(item) for item in ours.values()}
    means = _mean(metric, theirs, lines, ours, counts)
    if means and metric in _TIMES and len(places) > 1:
        return lines, [*omitted, (metric, None, "no mean, ours are of several devices or hosts")]
    if ours and not wanted and not means and any(row.about == MEAN for row in theirs):
        omitted.append(
            (metric, None, f"published as a mean of {len(counts)} categories, ours are {', '.join(ours)}")
        )
    return [*lines, *means], omitted


def _asked(row: Row, ours: Mapping[str, Record]) -> list[tuple[str, str]]:
    """The label and our category of everything a row is about."""
    if row.about == ALL:
        return [(name, name) for name in ours]
    return [(row.category, row.about)] if row.about in ours else []


def _mean(
    metric: str,
    theirs: Sequence[Row],
    lines: Sequence[Line],
    ours: Mapping[str, Record],
    counts: Mapping[str, Counts],
) -> list[Line]:
    """The published mean where ours has all its categories, else the mean over those in common, if there are several."""
    means = [row.value for row in theirs if row.about == MEAN]
    found = {name: COUNTERPARTS[metric].value(item) for name, item in ours.items()}
    values = {name: value for name, value in found.items() if value is not None}
    singles = [line for line in lines if line.category in ours]
    if means and values.keys() == counts.keys():
        label, mine, other = MEAN, _average(metric, values.values()), means[0]
    elif len(singles) > 1 and all(row.about != ALL for row in theirs):
        label = f"mean of {len(singles)} in common"
        mine, other = (
            _average(metric, [getattr(line, side) for line in singles]) for side in ("ours", "theirs")
        )
    else:
        return []
    same = all(same_images(ours[name], counts[name]) for name in values)
    device = theirs[0].device
    return [Line(device=device, metric=metric, category=label, ours=mine, theirs=other, same_images=same)]


def _average(metric: str, values: Iterable[float]) -> float:
    return mean("images_per_second" if metric == "fps" else metric, list(values))
