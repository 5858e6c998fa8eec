"""Tables from records: one per detector, data set, backend and setting; one row per category, then the mean."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from harness.record import Record
from harness.types import Case

Format = Literal["terminal", "md", "csv", "json"]

METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
LATENCIES = {"p50": "p50 ms", "p90": "p90 ms", "p99": "p99 ms"}
ABSENT = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One category; a value that is missing is explained in `note`."""

    category: str
    status: str
    values: dict[str, float]
    note: str | None


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
    stage: str
    """Which stage the latencies are of."""
    weights: str
    device: str | None
    simulated: bool
    rows: tuple[Row, ...]

    def means(self) -> dict[str, tuple[float, int]]:
        """Column → mean over the rows that have a value, and how many those are."""
        found = {}
        for name in (*METRICS, *LATENCIES, "images_per_second"):
            values = [row.values[name] for row in self.rows if name in row.values]
            if values:
                found[name] = (sum(values) / len(values), len(values))
        return found

    @property
    def title(self) -> str:
        """What was measured, on what."""
        mark = " (SIMULATED, not hardware)" if self.simulated else ""
        return f"{self.detector} {self.backbone} on {self.dataset} · {self.backend}{mark} · {self.variant}"

    @property
    def setting(self) -> str:
        """Under which settings; warm-up and mask threshold where they are not the usual ones."""
        device = f"device {self.device} · " if self.device else ""
        stages = {"total": "decode + preprocess + infer + head", "infer_head": "infer + head"}
        usual = {field.name: field.default for field in msgspec.structs.fields(Case)}
        unusual = "".join(
            f" · {name.replace('_', ' ')} {getattr(self, name)}"
            for name in ("warmup", "mask_threshold")
            if getattr(self, name) != usual[name]
        )
        return (
            f"{device}batch {self.batch_size} · {self.threads} threads · "
            f"ms per image for {stages.get(self.stage, self.stage)}{unusual}"
        )


def tables(records: Iterable[Record], *, stage: str = "total") -> tuple[Table, ...]:
    """Group records into tables; `stage` is one of `harness.record.STAGES`."""
    groups: dict[Case, list[Record]] = {}
    for item in records:
        groups.setdefault(msgspec.structs.replace(item.case, category=""), []).append(item)
    return tuple(_table(group, stage) for group in groups.values())


def _table(group: Sequence[Record], stage: str) -> Table:
    case = group[0].case
    devices = {item.device.device for item in group if item.device}
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
        stage=stage,
        weights=", ".join(sorted({item.weights.source for item in group})),
        device=", ".join(sorted(devices)) or None,
        simulated=any(item.device.simulated for item in group if item.device),
        rows=_rows(group, stage),
    )


def _rows(group: Sequence[Record], stage: str) -> tuple[Row, ...]:
    """One row per category, from its newest record; others, of another detector or other data, are said to be there."""
    rows = []
    for category in sorted({item.case.category for item in group}):
        newest, *others = sorted(
            (item for item in group if item.case.category == category),
            key=lambda item: item.finished,
            reverse=True,
        )
        hidden = tuple(
            f"an older record ({item.finished[:16]}Z) of detector {item.detector_sha256[:12]} is not shown, "
            f"this one is of detector {newest.detector_sha256[:12]}"
            for item in others
        )
        rows.append(_row(newest, stage, hidden))
    return tuple(rows)


def _row(item: Record, stage: str, notes: tuple[str, ...]) -> Row:
    values = {name: item.metrics[name] for name in METRICS if name in item.metrics}
    if stage in item.latency_ms:
        values |= {name: getattr(item.latency_ms[stage], name) for name in LATENCIES}
    if item.images_per_second is not None:
        values["images_per_second"] = item.images_per_second
    reasons = [] if item.status == "measured" else [f"{item.status}: {item.reason}"]
    for why in dict.fromkeys(item.undefined.values()):
        names = [METRICS.get(name, name) for name, reason in item.undefined.items() if reason == why]
        reasons.append(f"{', '.join(names)} undefined: {why}")
    if item.data and item.data.masks_cut:
        reasons.append(
            f"the crop cuts {item.data.masks_cut} of {item.data.defective} masks and empties {item.data.masks_emptied}"
        )
    return Row(
        category=item.case.category,
        status=item.status,
        values=values,
        note="; ".join([*reasons, *notes]) or None,
    )


def render(found: Sequence[Table], kind: Format) -> str:
    """All tables as text."""
    if kind == "json":
        return json.dumps(document(found), indent=1, allow_nan=False)
    if kind == "csv":
        return _csv(found)
    return "\n\n".join(_text(table, "rounded_outline" if kind == "terminal" else "pipe") for table in found)


def document(found: Sequence[Table]) -> dict[str, Any]:
    """All tables as one JSON document."""
    return {
        "tables": [
            {name: getattr(table, name) for name in Table.__slots__ if name != "rows"}
            | {
                "rows": [{name: getattr(row, name) for name in Row.__slots__} for row in table.rows],
                "mean": {
                    name: {"value": value, "over": count, "of": len(table.rows)}
                    for name, (value, count) in table.means().items()
                },
            }
            for table in found
        ]
    }


def _text(table: Table, style: str) -> str:
    from tabulate import tabulate

    marks = {
        row.category: index for index, row in enumerate((row for row in table.rows if row.note), start=1)
    }
    markdown = style == "pipe"
    body = [[_marked(row, marks, markdown=markdown), *_cells(row.values)] for row in table.rows]
    body.append(_mean(table))
    header = ["category", *METRICS.values(), *LATENCIES.values(), "images/s"]
    bold = "**" if markdown else ""
    text = tabulate(body, header, tablefmt=style, disable_numparse=True, colalign=("left", *["right"] * 7))
    if not markdown:
        text = _ruled(text)
    notes = [f"[{marks[row.category]}] {row.category}: {row.note}" for row in table.rows if row.note]
    gap = "\n\n" if markdown else "\n"
    return gap.join([f"{bold}{table.title}{bold}", table.setting, text, *notes])


def _mean(table: Table) -> list[str]:
    """The mean row; a value over fewer categories than the others says over how many."""
    means = table.means()
    most = max((count for _, count in means.values()), default=0)
    label = f"mean of {most}" if most == len(table.rows) else f"mean of {most} (of {len(table.rows)})"
    cells = _cells({name: value for name, (value, _) in means.items()})
    counts = [means.get(name, (0, most))[1] for name in (*METRICS, *LATENCIES, "images_per_second")]
    fewer = [f" (of {count})" if count < most else "" for count in counts]
    return [label, *(cell + mark for cell, mark in zip(cells, fewer, strict=True))]


def _ruled(text: str) -> str:
    """Set the mean off with a line of its own."""
    lines = text.splitlines()
    rule = next((line for line in lines if line.startswith("├")), None)
    if rule is not None:
        lines.insert(-2, rule)
    return "\n".join(lines)


def _marked(row: Row, marks: dict[str, int], *, markdown: bool) -> str:
    category = row.category.replace("|", "\\|") if markdown else row.category
    return f"{category} [{marks[row.category]}]" if row.note else category


def _cells(values: dict[str, float]) -> list[str]:
    cells = [f"{values[name]:.4f}" if name in values else ABSENT for name in METRICS]
    cells += [f"{values[name]:.1f}" if name in values else ABSENT for name in LATENCIES]
    rate = values.get("images_per_second")
    return [*cells, ABSENT if rate is None else f"{rate:.1f}"]


def _csv(found: Sequence[Table]) -> str:
    """One line per category at full precision; an absent value is an empty field with its reason in `note`."""
    keys = [name for name in Table.__slots__ if name != "rows"]
    columns = [*METRICS, *LATENCIES, "images_per_second"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, "category", "status", *columns, "note"])
    for table in found:
        for row in table.rows:
            shared = [getattr(table, key) for key in keys]
            writer.writerow(
                [
                    *shared,
                    row.category,
                    row.status,
                    *(row.values.get(name, "") for name in columns),
                    row.note or "",
                ]
            )
    return text.getvalue().rstrip("\n")
