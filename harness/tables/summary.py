"""The summary: one table for each detector, data set, backend and setting; one row for each category, then the mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from harness.records.record import DEVICE_STAGES, Record
from harness.tables.grouping import groups, hidden, host_of, mean, newest
from harness.tables.table import ABSENT, Format, Grid, View
from harness.tables.table import render as render_view
from harness.types import Case

METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
DECISIONS = {
    "pixel_ok": "pixel ok",
    "pixel_nok": "pixel nok",
    "pixel_acc": "pixel acc",
    "pixel_auc_binary": "pixel AUC binary",
}
"""Columns that are shown only for detectors judged by their decisions."""
LATENCIES = {"p50": "p50 ms", "p90": "p90 ms", "p99": "p99 ms"}
_DEVICE = {
    "h2d": "h2d (copies to the device)",
    "compute": "compute (execution on the device)",
    "d2h": "d2h (copies from the device)",
}
TITLES = METRICS | DECISIONS | LATENCIES | {"images_per_second": "images/s"}
"""All possible columns and their titles."""
TIMES = (*LATENCIES, "images_per_second")
"""Columns that depend on device and machine: they have no mean over several of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One category; `note` explains missing values."""

    category: str
    status: str
    device: str | None
    host: str
    """The machine's name and processor."""
    values: dict[str, float]
    note: str | None

    @property
    def place(self) -> str:
        """Device and machine."""
        return f"{self.device or 'unknown'} on {self.host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of records that differ only in their category."""

    detector: str
    backbone: str
    dataset: str
    backend: str
    variant: str
    batch_size: int
    threads: int
    warmup: int
    mask_threshold: int
    mask_resize: str
    suite: str | None
    source: str | None
    stage: str
    """The latency stage."""
    weights: str
    device: str | None
    """The devices of all rows."""
    host: str
    simulated: bool
    rows: tuple[Row, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the shown columns."""
        there = {name for row in self.rows for name in row.values}
        return (*METRICS, *(name for name in DECISIONS if name in there), *LATENCIES, "images_per_second")

    @property
    def places(self) -> frozenset[str]:
        """Devices and machines of the rows that have values."""
        return frozenset(row.place for row in self.rows if row.values)

    def means(self) -> dict[str, tuple[float, int]]:
        """Map each column to its mean and the number of rows with a value; times from several places have no mean."""
        means = {}
        for name in self.columns:
            rows = [row for row in self.rows if name in row.values]
            if rows and (name not in TIMES or len({row.place for row in rows}) == 1):
                means[name] = (mean(name, [row.values[name] for row in rows]), len(rows))
        return means

    @property
    def notes(self) -> tuple[str, ...]:
        """Why a mean is absent."""
        missing = {name for row in self.rows for name in row.values} - self.means().keys()
        return ("no mean of times: they are of several devices or machines",) if missing else ()

    @property
    def title(self) -> str:
        """The detector, data set, backend and variant."""
        mark = " (SIMULATED, not hardware)" if self.simulated else ""
        suite = f" · suite {self.suite}" if self.suite else ""
        source = f" ({self.source})" if self.source else ""
        ran = f"{self.backend}{source}{mark} · {self.variant}"
        return f"{self.detector} {self.backbone} on {self.dataset}{suite} · {ran}"

    @property
    def setting(self) -> str:
        """The settings: machines if there are several, warm-up and masks if they are not the defaults."""
        device = f"device {self.device} · " if self.device else ""
        hosts = f"hosts {self.host} · " if len({row.host for row in self.rows}) > 1 else ""
        stages = {**_DEVICE, "total": "decode + preprocess + infer + head", "infer_head": "infer + head"}
        return f"{device}{hosts}batch {self.batch_size} · {self.threads} threads · " + " · ".join(
            [f"ms per image for {stages.get(self.stage, self.stage)}", *unusual(self)]
        )


def unusual(settings: Table | Case) -> list[str]:
    """Return warm-up and mask settings that are not the defaults."""
    usual = {field.name: field.default for field in msgspec.structs.fields(Case)}
    return [
        f"{name.replace('_', ' ')} {getattr(settings, name)}"
        for name in ("warmup", "mask_threshold", "mask_resize")
        if getattr(settings, name) != usual[name]
    ]


def tables(records: Iterable[Record], *, stage: str = "total") -> tuple[Table, ...]:
    """Group records into tables; `stage` is one of `harness.records.record.STAGES` and `DEVICE_STAGES`."""
    return tuple(table(group, stage) for group in groups(records))


def table(group: Sequence[Record], stage: str = "total") -> Table:
    """Return the table of one group."""
    case = group[0].case
    by_category = newest(group)
    shown = [category_records[0] for category_records in by_category.values()]
    rows = tuple(
        _row(category_records[0], stage, hidden(category_records))
        for category_records in by_category.values()
    )
    return Table(
        detector=case.detector,
        backbone=case.backbone,
        dataset=case.dataset,
        backend=case.backend,
        variant=case.variant,
        batch_size=case.batch_size,
        threads=case.threads,
        warmup=case.warmup,
        mask_threshold=case.mask_threshold,
        mask_resize=case.mask_resize,
        suite=case.suite,
        source=case.source,
        stage=stage,
        weights=", ".join(sorted({record.weights.source for record in shown})),
        device=", ".join(sorted({row.device for row in rows if row.device})) or None,
        host=", ".join(sorted({row.host for row in rows})),
        simulated=any(record.device.simulated for record in shown if record.device),
        rows=rows,
    )


def _row(record: Record, stage: str, notes: tuple[str, ...]) -> Row:
    values = {name: record.metrics[name] for name in (*METRICS, *DECISIONS) if name in record.metrics}
    if stage in record.latency_ms:
        values |= {name: getattr(record.latency_ms[stage], name) for name in LATENCIES}
    if record.images_per_second is not None:
        values["images_per_second"] = record.images_per_second
    reasons = [] if record.status == "measured" else [f"{record.status}: {record.reason}"]
    if record.latency_ms and stage not in record.latency_ms:
        reasons.append(_why_untimed(record, stage))
    for why in dict.fromkeys(record.undefined.values()):
        names = [TITLES.get(name, name) for name, reason in record.undefined.items() if reason == why]
        reasons.append(f"{', '.join(names)} undefined: {why}")
    if record.data and record.data.masks_cut:
        reasons.append(
            f"the crop cuts {record.data.masks_cut} of {record.data.defective} masks and empties {record.data.masks_emptied}"
        )
    elif record.data and record.data.masks_emptied:
        reasons.append(f"resizing empties {record.data.masks_emptied} of {record.data.defective} masks")
    return Row(
        category=record.case.category,
        status=record.status,
        device=record.device.described if record.device else None,
        host=host_of(record),
        values=values,
        note="; ".join([*reasons, *notes]) or None,
    )


def _why_untimed(record: Record, stage: str) -> str:
    """Say why a measured record has no times of a latency stage."""
    if stage in DEVICE_STAGES and "infer" in record.latency_ms:
        return f"no times of {stage}: {record.case.backend} does not give them"
    took = "outputs" if record.source and record.source.outputs_sha256 else "inputs"
    reported_ms = record.source.reported_ms.get(stage, {}) if record.source else {}
    reported = ", ".join(f"{name} {value:.4g}" for name, value in reported_ms.items())
    more = (
        f"; {record.source.made_by} reports, in ms per run: {reported}" if record.source and reported else ""
    )
    return f"no times of {stage}: not measured here, its {took} came from files{more}"


def render(shown: Sequence[Table], kind: Format) -> str:
    """Render all tables; in CSV a missing value is an empty field with its reason in `note`."""
    keys = [name for name in Table.__slots__ if name != "rows"]
    names = {name for table in shown for name in table.columns}
    columns = [name for name in TITLES if name in names]
    view = View(
        grids=tuple(map(_grid, shown)),
        csv_header=[*keys, "category", "status", *columns, "note"],
        csv_rows=[
            [
                *(getattr(row if key in ("device", "host") else table, key) for key in keys),
                *(row.category, row.status),
                *(row.values.get(name, "") for name in columns),
                row.note or "",
            ]
            for table in shown
            for row in table.rows
        ],
        document={"tables": [_document(table) for table in shown]},
    )
    return render_view(view, kind)


def _document(table: Table) -> dict[str, Any]:
    return {
        **{name: getattr(table, name) for name in Table.__slots__ if name != "rows"},
        "notes": list(table.notes),
        "rows": [{name: getattr(row, name) for name in Row.__slots__} for row in table.rows],
        "mean": {
            name: {"value": value, "over": count, "of": len(table.rows)}
            for name, (value, count) in table.means().items()
        },
    }


def _grid(table: Table) -> Grid:
    noted = {
        row.category: f"[{index}]" for index, row in enumerate((r for r in table.rows if r.note), start=1)
    }
    rows = [
        (
            " ".join([row.category, *([noted[row.category]] if row.note else [])]),
            row.place,
            *_cells(row.values, table.columns),
        )
        for row in table.rows
    ]
    label, *means = _mean_cells(table)
    header = ("category", "measured on", *(TITLES[name] for name in table.columns))
    lines = [header, *rows, (label, "", *means)]
    several = len(table.places) > 1
    header, *rows = lines if several else [(line[0], *line[2:]) for line in lines]
    return Grid(
        title=table.title,
        subtitle=table.setting,
        header=header,
        rows=tuple(rows),
        notes=(
            *table.notes,
            *(f"{noted[row.category]} {row.category}: {row.note}" for row in table.rows if row.note),
        ),
        numbers_from=2 if several else 1,
        last_is_mean=True,
    )


def _mean_cells(table: Table) -> list[str]:
    """Return the mean row; a value over fewer categories than the others says over how many."""
    means = table.means()
    most = max((count for _, count in means.values()), default=0)
    label = f"mean of {most}" if most == len(table.rows) else f"mean of {most} (of {len(table.rows)})"
    cells = _cells({name: value for name, (value, _) in means.items()}, table.columns)
    counts = [means.get(name, (0, most))[1] for name in table.columns]
    fewer = [f" (of {count})" if count < most else "" for count in counts]
    return [label, *(cell + mark for cell, mark in zip(cells, fewer, strict=True))]


def _cells(values: dict[str, float], columns: Sequence[str]) -> list[str]:
    digits = {name: 4 if name in METRICS or name in DECISIONS else 1 for name in columns}
    return [f"{values[name]:.{digits[name]}f}" if name in values else ABSENT for name in columns]
