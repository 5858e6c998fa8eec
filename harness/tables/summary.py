"""Tables from records: one per detector, data set, backend and setting; one row per category, then the mean."""

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
"""Columns of detectors that are judged by their decisions; other tables do without."""
LATENCIES = {"p50": "p50 ms", "p90": "p90 ms", "p99": "p99 ms"}
_DEVICE = {
    "h2d": "h2d (copies to the device)",
    "compute": "compute (execution on the device)",
    "d2h": "d2h (copies from the device)",
}
TITLES = METRICS | DECISIONS | LATENCIES | {"images_per_second": "images/s"}
"""Every column that a table may have."""
TIMES = (*LATENCIES, "images_per_second")
"""What is of a device and a host, and has no mean over several of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One category; a value that is missing is explained in `note`."""

    category: str
    status: str
    device: str | None
    host: str
    """Name and processor."""
    values: dict[str, float]
    note: str | None

    @property
    def place(self) -> str:
        """Device and host."""
        return f"{self.device or 'unknown'} on {self.host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of one group of records that differ in the category alone."""

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
    """Which stage the latencies are of."""
    weights: str
    device: str | None
    """Of all rows, as are the hosts."""
    host: str
    simulated: bool
    rows: tuple[Row, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values that this table shows."""
        there = {name for row in self.rows for name in row.values}
        return (*METRICS, *(name for name in DECISIONS if name in there), *LATENCIES, "images_per_second")

    @property
    def places(self) -> frozenset[str]:
        """Devices and hosts of the rows that have values."""
        return frozenset(row.place for row in self.rows if row.values)

    def means(self) -> dict[str, tuple[float, int]]:
        """Column → mean over the rows that have a value, and how many those are; times of several places have none."""
        found = {}
        for name in self.columns:
            rows = [row for row in self.rows if name in row.values]
            if rows and (name not in TIMES or len({row.place for row in rows}) == 1):
                found[name] = (mean(name, [row.values[name] for row in rows]), len(rows))
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """Why a mean is missing."""
        missing = {name for row in self.rows for name in row.values} - self.means().keys()
        return ("no mean of times: they are of several devices or hosts",) if missing else ()

    @property
    def title(self) -> str:
        """What was measured, on what."""
        mark = " (SIMULATED, not hardware)" if self.simulated else ""
        suite = f" · suite {self.suite}" if self.suite else ""
        source = f" ({self.source})" if self.source else ""
        ran = f"{self.backend}{source}{mark} · {self.variant}"
        return f"{self.detector} {self.backbone} on {self.dataset}{suite} · {ran}"

    @property
    def setting(self) -> str:
        """Under which settings; hosts where there are several, warm-up and masks where they are not the usual ones."""
        device = f"device {self.device} · " if self.device else ""
        hosts = f"hosts {self.host} · " if len({row.host for row in self.rows}) > 1 else ""
        stages = {**_DEVICE, "total": "decode + preprocess + infer + head", "infer_head": "infer + head"}
        return f"{device}{hosts}batch {self.batch_size} · {self.threads} threads · " + " · ".join(
            [f"ms per image for {stages.get(self.stage, self.stage)}", *unusual(self)]
        )


def unusual(of: Table | Case) -> list[str]:
    """Warm-up and masks where they are not the usual ones."""
    usual = {field.name: field.default for field in msgspec.structs.fields(Case)}
    return [
        f"{name.replace('_', ' ')} {getattr(of, name)}"
        for name in ("warmup", "mask_threshold", "mask_resize")
        if getattr(of, name) != usual[name]
    ]


def tables(records: Iterable[Record], *, stage: str = "total") -> tuple[Table, ...]:
    """Group records into tables; `stage` is one of `harness.records.record.STAGES` and `DEVICE_STAGES`."""
    return tuple(table(group, stage) for group in groups(records))


def table(group: Sequence[Record], stage: str = "total") -> Table:
    """One group as a table."""
    case = group[0].case
    found = newest(group)
    shown = [of[0] for of in found.values()]
    rows = tuple(_row(of[0], stage, hidden(of)) for of in found.values())
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
        weights=", ".join(sorted({item.weights.source for item in shown})),
        device=", ".join(sorted({row.device for row in rows if row.device})) or None,
        host=", ".join(sorted({row.host for row in rows})),
        simulated=any(item.device.simulated for item in shown if item.device),
        rows=rows,
    )


def _row(item: Record, stage: str, notes: tuple[str, ...]) -> Row:
    values = {name: item.metrics[name] for name in (*METRICS, *DECISIONS) if name in item.metrics}
    if stage in item.latency_ms:
        values |= {name: getattr(item.latency_ms[stage], name) for name in LATENCIES}
    if item.images_per_second is not None:
        values["images_per_second"] = item.images_per_second
    reasons = [] if item.status == "measured" else [f"{item.status}: {item.reason}"]
    if item.latency_ms and stage not in item.latency_ms:
        reasons.append(_why_untimed(item, stage))
    for why in dict.fromkeys(item.undefined.values()):
        names = [TITLES.get(name, name) for name, reason in item.undefined.items() if reason == why]
        reasons.append(f"{', '.join(names)} undefined: {why}")
    if item.data and item.data.masks_cut:
        reasons.append(
            f"the crop cuts {item.data.masks_cut} of {item.data.defective} masks and empties {item.data.masks_emptied}"
        )
    elif item.data and item.data.masks_emptied:
        reasons.append(f"resizing empties {item.data.masks_emptied} of {item.data.defective} masks")
    return Row(
        category=item.case.category,
        status=item.status,
        device=item.device.described if item.device else None,
        host=host_of(item),
        values=values,
        note="; ".join([*reasons, *notes]) or None,
    )


def _why_untimed(item: Record, stage: str) -> str:
    """Why a measured record has no times of a stage."""
    if stage in DEVICE_STAGES and "infer" in item.latency_ms:
        return f"no times of {stage}: {item.case.backend} does not give them"
    took = "outputs" if item.source and item.source.outputs_sha256 else "inputs"
    said = item.source.reported_ms.get(stage, {}) if item.source else {}
    reported = ", ".join(f"{name} {value:.4g}" for name, value in said.items())
    more = f"; {item.source.made_by} reports, in ms per run: {reported}" if item.source and reported else ""
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
