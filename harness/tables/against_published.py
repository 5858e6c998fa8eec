"""Our records beside published tables: ours, theirs, the difference, and where the settings differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import HarnessError
from harness.records.record import Record
from harness.suites import published
from harness.suites.published import ALL, MEAN, Counts, Published, Row, Source
from harness.tables.grouping import groups, hidden, mean, newest, place_of
from harness.tables.summary import Table, table, unusual
from harness.tables.table import Format, Grid, View
from harness.tables.table import render as render_view

_HEADER = ("device", "metric", "category", "ours", "theirs", "ours − theirs")
_OTHER_IMAGES = "≠"
_KEYS = tuple(name for name in Table.__slots__ if name not in ("rows", "stage"))
Pairs = dict[str, dict[tuple[str, str], list[str]]]
"""Setting → (ours, theirs) → the categories with these values."""


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
    if metric not in EQUIVALENTS:
        asked = wanted or (ours and any(row.about == MEAN for row in theirs))
        return [], [(metric, None, "nothing of ours is that")] if asked else []
    equivalent = EQUIVALENTS[metric]
    lines: list[Line] = []
    omitted: list[Omitted] = []
    for name, label, value in wanted:
        mine = equivalent.value(ours[name])
        if mine is None:
            omitted.append((metric, name, equivalent.why_absent(ours[name])))
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
    found = {name: EQUIVALENTS[metric].value(item) for name, item in ours.items()}
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


def differences(
    ours: Mapping[str, Record], source: Source, row: Row, counts: Mapping[str, Counts]
) -> tuple[str, ...]:
    """One line for each thing that differs, ours first; categories are named where it is not so in all of them.

    Args:
        ours: Category → our record.
        source: Theirs.
        row: Any row of the source on the backbone and data set compared with.
        counts: Category → images of the published data set.
    """
    pairs: Pairs = {}
    for category, item in ours.items():
        found = _of_record(item, source, row)
        found |= _of_images(item, counts[category])
        found |= _of_settings(item, source, category)
        for what, (mine, theirs) in found.items():
            if mine != theirs:
                pairs.setdefault(what, {}).setdefault((mine, theirs), []).append(category)
    return (
        *(_difference_line(what, found, len(ours)) for what, found in pairs.items()),
        *_unknown(ours, source),
    )


def same_images(item: Record, counts: Counts) -> bool:
    """Whether the record is of as many good and defective test images as the published data set has."""
    return item.data is not None and (item.data.good, item.data.defective) == (counts.good, counts.defective)


def _difference_line(what: str, pairs: Mapping[tuple[str, str], list[str]], of: int) -> str:
    parts = [
        f"ours {mine}, theirs {theirs}" + (f" ({', '.join(categories)})" if len(categories) < of else "")
        for (mine, theirs), categories in pairs.items()
    ]
    return f"{what}: {'; '.join(parts)}"


def _of_record(item: Record, source: Source, row: Row) -> dict[str, tuple[str, str]]:
    mine = "untrained" if item.weights.source == "random" else item.weights.source
    return {
        "backbone": (item.case.backbone, row.network),
        "weights": (mine, source.weights or "not stated"),
    }


def _of_images(item: Record, counts: Counts) -> dict[str, tuple[str, str]]:
    if item.data is None:
        return {}
    mine = f"{item.data.good} good and {item.data.defective} defective of {item.case.dataset}"
    theirs = f"{counts.good} good and {counts.defective} defective"
    found = {} if same_images(item, counts) else {"test images": (mine, theirs)}
    if item.fit is not None:
        found["training images"] = (str(item.fit.images), str(counts.train))
    return found


def _of_settings(item: Record, source: Source, category: str) -> dict[str, tuple[str, str]]:
    if item.fit is None or not item.fit.settings:
        return {}
    masks = {name: getattr(item.case, name) for name in ("mask_threshold", "mask_resize")}
    mine = {**item.fit.settings, **masks}
    theirs = source.settings_for(category)
    return {name: (_setting_text(mine[name]), _setting_text(theirs[name])) for name in theirs if name in mine}


def _unknown(ours: Mapping[str, Record], source: Source) -> list[str]:
    """What cannot be compared."""
    silent = [name for name, item in ours.items() if item.fit is None or not item.fit.settings]
    lines = [f"settings: ours are not in the records ({', '.join(silent)}); fit again"] if silent else []
    if source.suite is None:
        stated = "no other than these are stated" if source.settings else "the source states none"
        lines.append(f"settings: {stated}")
    return lines


def _setting_text(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalent:
    """Our value for a published metric."""

    value: Callable[[Record], float | None]
    why_absent: Callable[[Record], str] = lambda _: "the record has none"
    """Said of a record without that value."""


def _from_metrics(name: str) -> Equivalent:
    return Equivalent(
        value=lambda record: record.metrics.get(name),
        why_absent=lambda record: record.undefined.get(name, f"the record has no {name}"),
    )


def _score_of(record: Record) -> str | None:
    """Which image score a PatchCore has, by the name of the setting."""
    return record.fit.settings.get("score") if record.fit else None


def _from_image_score(kind: str) -> Equivalent:
    return Equivalent(
        value=lambda record: record.metrics.get("image_auroc") if _score_of(record) == kind else None,
        why_absent=lambda record: f"our image score is {_score_of(record) or 'one the record does not name'}",
    )


def _from_training(name: str, per: float = 1.0) -> Equivalent:
    def value(record: Record) -> float | None:
        found = (record.training or {}).get(name)
        return None if found is None else float(found) / per

    return Equivalent(
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


EQUIVALENTS: dict[str, Equivalent] = {
    "image_auroc": _from_metrics("image_auroc"),
    "image_auroc_max": _from_image_score("max"),
    "image_auroc_top10": _from_image_score("top10"),
    "image_f1_max": _from_metrics("image_f1_max"),
    "pixel_auroc": _from_metrics("pixel_auroc"),
    "pixel_auroc_rounded": _from_metrics("pixel_auroc"),
    "ok_accuracy": _from_metrics("pixel_ok"),
    "ok_accuracy_rounded": _from_metrics("pixel_ok"),
    "nok_accuracy": _from_metrics("pixel_nok"),
    "nok_accuracy_rounded": _from_metrics("pixel_nok"),
    "accuracy": _from_metrics("pixel_acc"),
    "accuracy_rounded": _from_metrics("pixel_acc"),
    "ssim_threshold": Equivalent(value=lambda record: record.thresholds.pixel),
    "latency_ms_per_image": Equivalent(value=_latency_ms),
    "fps": Equivalent(value=_images_per_second),
    "train_ms_per_step": _from_training("step_ms"),
    "train_ms_per_step_median": _from_training("step_ms"),
    "train_loss": _from_training("last_loss"),
    "train_minutes": _from_training("seconds", 60),
    "train_hours": _from_training("seconds", 3600),
    "params_million": _from_training("parameters", 1e6),
    "checkpoint_mb": _from_training("checkpoint_bytes", 1e6),
}
"""Published metric → ours; `ok`, `nok` and `accuracy` of seed 004 are of pixels (results/published/README.md)."""


def render(comparisons: Comparisons, kind: Format) -> str:
    """Render all comparisons; in CSV the settings that differ stand in every line."""
    numbers = (*Line.__slots__, "difference")
    theirs = ("their_source", "their_backbone", "their_device")  # the first of `numbers` is their device
    view = View(
        grids=tuple(map(_grid, comparisons.made)),
        remarks=tuple(f"not compared: {reason}" for reason in comparisons.reasons),
        csv_header=[*_KEYS, *theirs, *numbers[1:], "differences", "notes"],
        csv_rows=[
            [
                *(getattr(item.table, name) for name in _KEYS),
                *(item.source.name, item.backbone),
                *(getattr(line, name) for name in numbers),
                *("; ".join(item.differences), "; ".join(item.notes)),
            ]
            for item in comparisons.made
            for line in item.lines
        ],
        document={
            "comparisons": [_document(item) for item in comparisons.made],
            "not_compared": list(comparisons.reasons),
        },
    )
    return render_view(view, kind)


def _document(item: Comparison) -> dict[str, Any]:
    return {
        "ours": {name: getattr(item.table, name) for name in _KEYS},
        "theirs": {"source": item.source.name, "title": item.source.title, "backbone": item.backbone},
        "lines": [
            {name: getattr(line, name) for name in Line.__slots__} | {"difference": line.difference}
            for line in item.lines
        ],
        "differences": list(item.differences),
        "notes": list(item.notes),
        "left_out": list(item.left_out),
    }


def _grid(item: Comparison) -> Grid:
    rows = tuple(
        (
            line.device,
            line.metric,
            line.category if line.same_images else f"{line.category} {_OTHER_IMAGES}",
            *_numbers(line),
        )
        for line in item.lines
    )
    other = (
        [f"{_OTHER_IMAGES}: of other test images"] if any(not line.same_images for line in item.lines) else []
    )
    return Grid(
        title=item.title,
        header=_HEADER,
        rows=rows,
        notes=(
            *other,
            *(f"differs: {line}" for line in item.differences),
            *(f"note: {line}" for line in item.notes),
            *(f"not compared: {line}" for line in item.left_out),
        ),
        numbers_from=3,
    )


def _numbers(line: Line) -> tuple[str, str, str]:
    """Ours, theirs and the difference: four digits for shares, one for milliseconds."""
    digits = 4 if max(abs(line.ours), abs(line.theirs)) < 10 else 1
    return f"{line.ours:.{digits}f}", f"{line.theirs:.{digits}f}", f"{line.difference:+.{digits}f}"
