"""The blocks of a MindSpore model-zoo README from records: performance of training, evaluation and inference.

Evaluation rows are from MindSpore backends, inference rows from all others. Values that no record has are absent, with
the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import HarnessError
from harness.machine import Host
from harness.records.record import Record
from harness.tables.grouping import groups, hidden, newest
from harness.tables.summary import unusual
from harness.tables.table import ABSENT, Format, Grid, View
from harness.tables.table import render as render_view

Kind = Literal["training", "evaluation", "inference"]
_TRAINS = ("mindspore", "ascend910")
_AUCS = {"image_auroc": "img_auc", "pixel_auroc": "pixel_auc"}
_DECISIONS = {"pixel_ok": "ok", "pixel_nok": "nok", "pixel_acc": "acc"}
"""Of pixels, as in the SSIM-AE README; shown if the records have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A finished value, or why it is absent."""

    text: str | None
    why_absent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block: its columns and rows."""

    kind: Kind
    subject: str
    """The detector, backbone, data set and suite."""
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell, ...]]
    notes: tuple[str, ...] = ()
    """Older records that are not shown, and each column's detector if there are several."""

    @property
    def title(self) -> str:
        """The kind and the subject."""
        return f"{self.kind.capitalize()} performance: {self.subject}"


def blocks(records: Iterable[Record]) -> tuple[Block, ...]:
    """Three blocks for every detector, backbone, data set and suite.

    Raises:
        HarnessError: there are no records.
    """
    subjects: dict[str, list[Record]] = {}
    for record in records:
        suite = f" (suite {record.case.suite})" if record.case.suite else ""
        name = f"{record.case.detector} {record.case.backbone} on {record.case.dataset}{suite}"
        subjects.setdefault(name, []).append(record)
    if not subjects:
        raise HarnessError("no records to show: bench something first")
    return tuple(block for name, members in subjects.items() for block in _three(name, members))


def _three(name: str, members: Sequence[Record]) -> Iterable[Block]:
    trained = {category: category_records[0] for category, category_records in newest(members).items()}
    by_category = [newest(group) for group in groups(members)]
    measured = [
        {category: category_records[0] for category, category_records in categories.items()}
        for categories in by_category
    ]
    refitted = _refitted([trained, *measured])
    older = [
        (_kind(group), f"{_column(group)}: {category}: {line}")
        for group, categories in zip(measured, by_category, strict=True)
        for category, category_records in categories.items()
        for line in hidden(category_records)
    ]
    rows = _training_rows(name, trained)
    notes = (*(line for _, line in older), *refitted)
    yield Block(kind="training", subject=name, columns=("fit",), rows=rows, notes=notes)
    kinds: tuple[Kind, ...] = ("evaluation", "inference")
    for kind in kinds:
        columns = [group for group in measured if _kind(group) == kind]
        absent: dict[str, tuple[Cell, ...]] = {"Records": (_none_of(kind),)}
        rows = _measured_rows(name, columns, kind) if columns else absent
        yield Block(
            kind=kind,
            subject=name,
            columns=tuple(map(_column, columns)) or ("–",),
            rows=rows,
            notes=(
                *(line for categories, line in older if categories == kind),
                *(refitted if columns else ()),
            ),
        )


Group = Mapping[str, Record]


def _refitted(shown: Sequence[Group]) -> tuple[str, ...]:
    """Say for each category with several fitted detectors which column has which."""
    detectors: dict[str, dict[str, list[str]]] = {}
    for name, group in zip(["the training", *map(_column, shown[1:])], shown, strict=True):
        for category, record in group.items():
            detectors.setdefault(category, {}).setdefault(record.detector_sha256[:12], []).append(name)
    return tuple(
        f"{category} is of several detectors: "
        + "; ".join(f"{detector} in {' and '.join(names)}" for detector, names in columns.items())
        for category, columns in sorted(detectors.items())
        if len(columns) > 1
    )


def _kind(group: Group) -> Kind:
    backend = next(iter(group.values())).case.backend
    return "evaluation" if backend.startswith(_TRAINS) else "inference"


def _none_of(kind: Kind) -> Cell:
    which = "MindSpore" if kind == "evaluation" else "another runtime than MindSpore"
    return Cell(text=None, why_absent=f"there is no record of a backend of {which}")


def _column(group: Group) -> str:
    case = next(iter(group.values())).case
    batch = f"batch {case.batch_size}, {case.threads} threads"
    return ", ".join([f"{case.runner} {case.variant}", batch, *unusual(case)])


def _training_rows(name: str, ours: Group) -> dict[str, tuple[Cell, ...]]:
    no_fit = "the record does not say how the detector was fitted"
    no_training = "fitted without a training by gradient"
    fits: dict[str, Any] = {category: record.fit for category, record in ours.items()}
    trainings = {category: record.training for category, record in ours.items()}
    cells = {
        "Model version": Cell(text=name),
        "Resource": _over(fits, lambda fit: _resource(fit.host), no_fit),
        "Date": _over(fits, lambda fit: fit.finished and fit.finished[:10], no_fit),
        "MindSpore version": _over(fits, lambda fit: fit.software.get("mindspore"), no_fit),
        "Dataset": _over(fits, lambda fit: fit.dataset, no_fit),
        "Training images": _over(fits, lambda fit: fit.images, no_fit),
        "Training parameters": _over(fits, _parameters, no_fit),
        "Epochs": _over(trainings, lambda training: training.get("epochs"), no_training),
        "Steps": _over(trainings, lambda training: training.get("steps"), no_training),
        "First loss": _over(trainings, lambda training: training.get("first_loss"), no_training),
        "Loss": _over(trainings, lambda training: training.get("last_loss"), no_training),
        "Speed (ms/step)": _over(trainings, lambda training: training.get("step_ms"), no_training),
        "Training time (s)": _over(trainings, lambda training: training.get("seconds"), no_training),
        "Total time of the fit (s)": _over(fits, lambda fit: fit.seconds, no_fit),
        "Parameters (M)": _over(trainings, lambda training: _scaled(training.get("parameters")), no_training),
        "Checkpoint (MB)": _over(
            trainings, lambda training: _scaled(training.get("checkpoint_bytes")), no_training
        ),
    }
    return {label: (cell,) for label, cell in cells.items()}


def _over(items: Mapping[str, Any], read: Callable[[Any], Any], why: str) -> Cell:
    """Return one cell for all categories: the common value, or the range.

    `why` explains the cell if no category has a source for it.
    """
    there = [source for source in items.values() if source is not None]
    values = [value for source in there if (value := read(source)) is not None]
    if not values:
        return Cell(text=None, why_absent="the record does not say" if there else why)
    few = f" ({len(values)} of {len(items)} categories)" if len(values) < len(items) else ""
    if len({str(value) for value in values}) == 1:
        return Cell(text=f"{_text(values[0])}{few}")
    if all(isinstance(value, int | float) for value in values):
        return Cell(text=f"{_text(min(values))} to {_text(max(values))}, by category{few}")
    return Cell(text=f"{'; '.join(dict.fromkeys(map(_text, values)))}{few}")


def _parameters(fit: Any) -> str | None:
    """List the settings of a fit that are neither unset nor off."""
    settings = {name: value for name, value in fit.settings.items() if value not in (None, False)}
    return ", ".join(f"{name}={_text(value)}" for name, value in settings.items()) or None


def _scaled(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _resource(host: Host | None) -> str | None:
    if host is None:
        return None
    return f"{host.processor}, {host.cores} cores; memory {host.memory_bytes / 2**30:.0f} GiB; {host.system}"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _measured_rows(name: str, columns: Sequence[Group], kind: Kind) -> dict[str, tuple[Cell, ...]]:
    unmeasured = "nothing was measured"
    measured = [
        {category: record if record.status == "measured" else None for category, record in group.items()}
        for group in columns
    ]

    def row(read: Callable[[Any], Any]) -> tuple[Cell, ...]:
        return tuple(_over(group, read, unmeasured) for group in measured)

    rows = {
        "Model version": tuple(Cell(text=name) for _ in columns),
        "Resource": row(_where),
        "Date": row(lambda record: record.finished[:10]),
        "Runtime": row(_runtime),
        "Dataset": row(lambda record: record.case.dataset),
        "batch_size": row(lambda record: record.case.batch_size),
    }
    for category in sorted({category for group in columns for category in group}):
        rows[f"{category}_auc"] = tuple(_accuracy(group.get(category)) for group in columns)
    rows["Average"] = tuple(_average(group) for group in columns)
    if kind == "inference":
        rows["Speed (ms per image, infer + head)"] = row(lambda record: _median(record, "infer_head"))
        rows["Images per second, all stages"] = row(lambda record: record.images_per_second)
    return rows


def _where(record: Record) -> str | None:
    if record.device is None:
        return None
    mark = " (SIMULATED, not hardware)" if record.device.simulated else ""
    return f"{record.device.device}{mark}; {_resource(record.host)}"


def _runtime(record: Record) -> str | None:
    runtime = record.device.runtime.items() if record.device else ()
    return ", ".join(f"{name} {version}" for name, version in runtime) or None


def _median(record: Record, stage: str) -> float | None:
    return record.latency_ms[stage].p50 if stage in record.latency_ms else None


def _accuracy(record: Record | None) -> Cell:
    if record is None:
        return Cell(text=None, why_absent="no record of this category")
    if record.status != "measured":
        return Cell(text=None, why_absent=f"{record.status}: {record.reason}")
    shown = _shown(record.metrics)
    reasons = [f"{_AUCS[name]} {record.undefined[name]}" for name in _AUCS if name in record.undefined]
    return Cell(text=shown, why_absent="; ".join(reasons) or None)


def _shown(metrics: Mapping[str, float]) -> str | None:
    names = _AUCS | _DECISIONS
    return ", ".join(f"{names[name]}: {metrics[name]:.4f}" for name in names if name in metrics) or None


def _average(group: Group) -> Cell:
    """Return the means over the categories with a value; each says over how many if not over all."""
    parts = []
    for name, label in (_AUCS | _DECISIONS).items():
        values = [record.metrics[name] for record in group.values() if name in record.metrics]
        if values:
            few = f" (of {len(values)})" if len(values) < len(group) else ""
            parts.append(f"{label}: {sum(values) / len(values):.4f}{few}")
    return Cell(text=", ".join(parts)) if parts else Cell(text=None, why_absent="nothing was measured")


def render(shown: Sequence[Block], kind: Format) -> str:
    """Render all blocks; CSV has a line for each value, with the reason if it is missing."""
    view = View(
        grids=tuple(map(_grid, shown)),
        csv_header=["block", "subject", "column", "parameter", "value", "why_absent"],
        csv_rows=[
            [block.kind, block.subject, column, label, cell.text or "", cell.why_absent or ""]
            for block in shown
            for label, cells in block.rows.items()
            for column, cell in zip(block.columns, cells, strict=True)
        ],
        document={
            "blocks": [
                {
                    "kind": block.kind,
                    "subject": block.subject,
                    "columns": list(block.columns),
                    "rows": {
                        label: [{"value": cell.text, "why_absent": cell.why_absent} for cell in cells]
                        for label, cells in block.rows.items()
                    },
                    "notes": list(block.notes),
                }
                for block in shown
            ]
        },
        ascii_json=False,
    )
    return render_view(view, kind)


def _grid(block: Block) -> Grid:
    notes: dict[str, int] = {}
    for cell in (cell for cells in block.rows.values() for cell in cells):
        if cell.why_absent is not None:
            notes.setdefault(cell.why_absent, len(notes) + 1)
    return Grid(
        title=block.title,
        header=("Parameters", *block.columns),
        rows=tuple(
            (label, *(_numbered(cell, notes) for cell in cells)) for label, cells in block.rows.items()
        ),
        notes=(*(f"[{number}] {why}" for why, number in notes.items()), *block.notes),
        numbers_from=len(block.columns) + 1,
    )


def _numbered(cell: Cell, notes: dict[str, int]) -> str:
    value = ABSENT if cell.text is None else cell.text
    return value if cell.why_absent is None else f"{value} [{notes[cell.why_absent]}]"
