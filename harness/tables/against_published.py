"""Our records against published tables: our value, theirs, the difference, and the settings that differ."""

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
    """A descriptive name, if the source's own says less."""
    category: str
    ours: float
    theirs: float
    same_images: bool
    """Whether both have equal numbers of good and of defective test images."""

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
    """The settings that differ, ours first."""
    notes: tuple[str, ...]
    """Our older records that are not shown, and the source's remarks on its numbers."""
    left_out: tuple[str, ...]
    """Published values without an equivalent of ours and categories not measured, with the reason."""

    @property
    def title(self) -> str:
        """Our table and the source."""
        ours = self.table
        settings = " · ".join([f"batch {ours.batch_size}", f"{ours.threads} threads", *unusual(ours)])
        return f"{ours.title} · {settings} against {self.source.title}, {self.backbone}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """All comparisons that the records allow, and why others are impossible."""

    compared: tuple[Comparison, ...]
    reasons: tuple[str, ...]


_TIMES = ("latency_ms_per_image", "fps")
Omitted = tuple[str, str | None, str]
"""A published metric, our category (`None` for a mean over categories), and why it is left out."""


def compare(records: Iterable[Record], tables: Published | None = None) -> Comparisons:
    """Compare every group of records with every source that has its detector and one of its categories.

    Rows on our backbone are compared; all rows if the source has none on it.

    Raises:
        HarnessError: there is nothing to compare; says why for each group.
    """
    tables = published.read() if tables is None else tables
    comparisons: list[Comparison] = []
    reasons: list[str] = []
    for group in groups(records):
        shown = table(group)
        by_category = newest(group)
        latest = {category: group_records[0] for category, group_records in by_category.items()}
        candidates = [
            _comparison(shown, by_category, source, rows, tables)
            for source in tables.sources
            for rows in _by_backbone(tables.rows_of(source), shown)
        ]
        comparisons += [candidate for candidate in candidates if candidate.lines]
        empty = [candidate for candidate in candidates if not candidate.lines and candidate.left_out]
        reasons += [
            f"{shown.title} against {candidate.source.title}: {'; '.join(candidate.left_out)}"
            for candidate in empty
        ]
        if not any(candidate.lines or candidate.left_out for candidate in candidates):
            reasons.append(f"{shown.title}: {_why_none(shown, latest, tables)}")
    if not comparisons:
        raise HarnessError("nothing to compare with the published tables: " + "; ".join(reasons))
    return Comparisons(compared=tuple(comparisons), reasons=tuple(reasons))


def _why_none(shown: Table, latest: Mapping[str, Record], tables: Published) -> str:
    unmeasured = [f"{name} {record.status}" for name, record in latest.items() if record.status != "measured"]
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
    measured = {
        name: category_records[0]
        for name, category_records in by_category.items()
        if category_records[0].status == "measured"
    }
    ours = {name: record for name, record in measured.items() if name in counts}
    missing = [
        f"{name}: {category_records[0].status}: {category_records[0].reason}"
        for name, category_records in by_category.items()
        if measured
        and name not in measured
        and name in counts
        and any(row.about in (name, ALL, MEAN) for row in rows)
    ]
    older = [
        f"{name}: {line}"
        for name, category_records in by_category.items()
        if name in ours
        for line in hidden(category_records)
    ]
    lines: list[Line] = []
    omitted: list[Omitted] = []
    for device, metric in dict.fromkeys((row.device, row.metric) for row in rows):
        theirs = [row for row in rows if (row.device, row.metric) == (device, metric)]
        metric_lines, left_out = _lines(source.metrics.get(metric, metric), theirs, ours, counts)
        lines += metric_lines
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
    """Return the lines of one metric on one device, categories first, then the mean; and what is left out."""
    requested = sorted((name, label, row.value) for row in theirs for label, name in _asked(row, ours))
    if metric not in EQUIVALENTS:
        is_published = requested or (ours and any(row.about == MEAN for row in theirs))
        return [], [(metric, None, "nothing of ours is that")] if is_published else []
    equivalent = EQUIVALENTS[metric]
    lines: list[Line] = []
    omitted: list[Omitted] = []
    for name, label, value in requested:
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
    places = {place_of(record) for record in ours.values()}
    means = _mean(metric, theirs, lines, ours, counts)
    if means and metric in _TIMES and len(places) > 1:
        return lines, [*omitted, (metric, None, "no mean, ours are of several devices or machines")]
    if ours and not requested and not means and any(row.about == MEAN for row in theirs):
        omitted.append(
            (metric, None, f"published as a mean of {len(counts)} categories, ours are {', '.join(ours)}")
        )
    return [*lines, *means], omitted


def _asked(row: Row, ours: Mapping[str, Record]) -> list[tuple[str, str]]:
    """Return the label and our category for everything that a row covers."""
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
    """Compare the published mean if we have all its categories, else the mean over several common categories."""
    means = [row.value for row in theirs if row.about == MEAN]
    our_values = {name: EQUIVALENTS[metric].value(record) for name, record in ours.items()}
    values = {name: value for name, value in our_values.items() if value is not None}
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
    """Return one line for each setting that differs, ours first; categories are named unless all differ alike.

    Args:
        ours: Category → our record.
        source: The published source.
        row: Any row of the source on the backbone and data set compared with.
        counts: Category → images of the published data set.
    """
    pairs: Pairs = {}
    for category, record in ours.items():
        pairs_by_setting = _of_record(record, source, row)
        pairs_by_setting |= _of_images(record, counts[category])
        pairs_by_setting |= _of_settings(record, source, category)
        for what, (mine, theirs) in pairs_by_setting.items():
            if mine != theirs:
                pairs.setdefault(what, {}).setdefault((mine, theirs), []).append(category)
    return (
        *(_difference_line(what, pairs_by_setting, len(ours)) for what, pairs_by_setting in pairs.items()),
        *_unknown(ours, source),
    )


def same_images(record: Record, counts: Counts) -> bool:
    """Whether the record has as many good and as many defective test images as the published data set."""
    return record.data is not None and (record.data.good, record.data.defective) == (
        counts.good,
        counts.defective,
    )


def _difference_line(what: str, pairs: Mapping[tuple[str, str], list[str]], total: int) -> str:
    parts = [
        f"ours {mine}, theirs {theirs}" + (f" ({', '.join(categories)})" if len(categories) < total else "")
        for (mine, theirs), categories in pairs.items()
    ]
    return f"{what}: {'; '.join(parts)}"


def _of_record(record: Record, source: Source, row: Row) -> dict[str, tuple[str, str]]:
    mine = "untrained" if record.weights.source == "random" else record.weights.source
    return {
        "backbone": (record.case.backbone, row.network),
        "weights": (mine, source.weights or "not stated"),
    }


def _of_images(record: Record, counts: Counts) -> dict[str, tuple[str, str]]:
    if record.data is None:
        return {}
    mine = f"{record.data.good} good and {record.data.defective} defective of {record.case.dataset}"
    theirs = f"{counts.good} good and {counts.defective} defective"
    pairs = {} if same_images(record, counts) else {"test images": (mine, theirs)}
    if record.fit is not None:
        pairs["training images"] = (str(record.fit.images), str(counts.train))
    return pairs


def _of_settings(record: Record, source: Source, category: str) -> dict[str, tuple[str, str]]:
    if record.fit is None or not record.fit.settings:
        return {}
    masks = {name: getattr(record.case, name) for name in ("mask_threshold", "mask_resize")}
    mine = {**record.fit.settings, **masks}
    theirs = source.settings_for(category)
    return {name: (_setting_text(mine[name]), _setting_text(theirs[name])) for name in theirs if name in mine}


def _unknown(ours: Mapping[str, Record], source: Source) -> list[str]:
    """Say which settings cannot be compared."""
    silent = [name for name, record in ours.items() if record.fit is None or not record.fit.settings]
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
    """Explains why a record lacks the value."""


def _from_metrics(name: str) -> Equivalent:
    return Equivalent(
        value=lambda record: record.metrics.get(name),
        why_absent=lambda record: record.undefined.get(name, f"the record has no {name}"),
    )


def _score_of(record: Record) -> str | None:
    """Return the setting that names a PatchCore's image score."""
    return record.fit.settings.get("score") if record.fit else None


def _from_image_score(kind: str) -> Equivalent:
    return Equivalent(
        value=lambda record: record.metrics.get("image_auroc") if _score_of(record) == kind else None,
        why_absent=lambda record: f"our image score is {_score_of(record) or 'one the record does not name'}",
    )


def _from_training(name: str, per: float = 1.0) -> Equivalent:
    def value(record: Record) -> float | None:
        number = (record.training or {}).get(name)
        return None if number is None else float(number) / per

    return Equivalent(
        value=value,
        why_absent=lambda record: (
            "it was fitted without a training by gradient"
            if record.training is None
            else f"the record of the training has no {name}"
        ),
    )


def _latency_ms(record: Record) -> float | None:
    """Return the mean time of inference and head, as published latencies have it (sources.toml, seed 001)."""
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
"""Maps each published metric to our value for it; metrics not listed have no equivalent. `ok`, `nok` and `accuracy` of seed 004 are of pixels (results/published/README.md)."""


def render(comparisons: Comparisons, kind: Format) -> str:
    """Render all comparisons; in CSV the settings that differ stand in every line."""
    numbers = (*Line.__slots__, "difference")
    theirs = ("their_source", "their_backbone", "their_device")  # the first of `numbers` is their device
    view = View(
        grids=tuple(map(_grid, comparisons.compared)),
        remarks=tuple(f"not compared: {reason}" for reason in comparisons.reasons),
        csv_header=[*_KEYS, *theirs, *numbers[1:], "differences", "notes"],
        csv_rows=[
            [
                *(getattr(comparison.table, name) for name in _KEYS),
                *(comparison.source.name, comparison.backbone),
                *(getattr(line, name) for name in numbers),
                *("; ".join(comparison.differences), "; ".join(comparison.notes)),
            ]
            for comparison in comparisons.compared
            for line in comparison.lines
        ],
        document={
            "comparisons": [_document(comparison) for comparison in comparisons.compared],
            "not_compared": list(comparisons.reasons),
        },
    )
    return render_view(view, kind)


def _document(comparison: Comparison) -> dict[str, Any]:
    return {
        "ours": {name: getattr(comparison.table, name) for name in _KEYS},
        "theirs": {
            "source": comparison.source.name,
            "title": comparison.source.title,
            "backbone": comparison.backbone,
        },
        "lines": [
            {name: getattr(line, name) for name in Line.__slots__} | {"difference": line.difference}
            for line in comparison.lines
        ],
        "differences": list(comparison.differences),
        "notes": list(comparison.notes),
        "left_out": list(comparison.left_out),
    }


def _grid(comparison: Comparison) -> Grid:
    rows = tuple(
        (
            line.device,
            line.metric,
            line.category if line.same_images else f"{line.category} {_OTHER_IMAGES}",
            *_numbers(line),
        )
        for line in comparison.lines
    )
    other = (
        [f"{_OTHER_IMAGES}: of other test images"]
        if any(not line.same_images for line in comparison.lines)
        else []
    )
    return Grid(
        title=comparison.title,
        header=_HEADER,
        rows=rows,
        notes=(
            *other,
            *(f"differs: {line}" for line in comparison.differences),
            *(f"note: {line}" for line in comparison.notes),
            *(f"not compared: {line}" for line in comparison.left_out),
        ),
        numbers_from=3,
    )


def _numbers(line: Line) -> tuple[str, str, str]:
    """Ours, theirs and the difference: four digits for shares, one for milliseconds."""
    digits = 4 if max(abs(line.ours), abs(line.theirs)) < 10 else 1
    return f"{line.ours:.{digits}f}", f"{line.theirs:.{digits}f}", f"{line.difference:+.{digits}f}"
