"""The file of a gate, read strictly: every rule names its records in full, and the limit of one value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec

from harness import errors, storage
from harness.errors import UsageError
from harness.types import MaskResize

SUFFIX = ".toml"
_KNOWN = ("find", "baseline", "rule")

Name = Annotated[str, msgspec.Meta(min_length=1)]
Limit = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
"""Finite: TOML has `nan` and `inf`, with which a rule would always pass."""
Level = Annotated[float, msgspec.Meta(ge=0.9, le=0.9999)]
ImageMetric = Literal["image_auroc", "image_ap", "image_f1_max"]
PixelMetric = Literal["pixel_auroc", "aupro", "pixel_ap", "pixel_f1_max"]
DecisionMetric = Literal["pixel_ok", "pixel_nok", "pixel_acc", "pixel_auc_binary"]
Compared = Literal["image_auroc", "pixel_auroc", "aupro"]
Size = Literal["peak_memory_bytes", "model_bytes"]
Timing = Literal["latency_ms", "images_per_second", "load_ms", "first_inference_ms"]
Value = Literal[ImageMetric, PixelMetric, DecisionMetric, Size, Timing]
STAGED = ("latency_ms", "images_per_second")
"""Values of one latency stage."""
Stage = Literal["decode", "preprocess", "infer", "head", "infer_head", "total", "h2d", "compute", "d2h"]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Find(_Strict, frozen=True, kw_only=True):
    """The records of a rule: exactly one for each category, or the rule is not measured."""

    detector: Name
    backbone: Name
    dataset: Name
    categories: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    backend: Name
    variant: Name
    suite: str | None = None
    """Absent: records of no suite."""
    source: str | None = None
    """Absent: records whose inputs and outputs did not come from files."""
    mask_threshold: int = 127
    """Absent: the default of `bench`."""
    mask_resize: MaskResize = "nearest"
    """Likewise."""
    batch_size: int | None = None
    """Absent: any, but there may be only one."""
    threads: int | None = None
    """Absent: any, but there may be only one."""
    detector_sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12,64}$")] | None = None
    """The detector's digest, or its beginning; only with a single category, because each category has its own."""


class _Rule(_Strict, frozen=True, kw_only=True):
    name: Name
    """The name in the report; no two rules share one."""
    allow_simulated: bool = False
    """Whether a simulated device counts as measured."""


class Bound(_Rule, frozen=True, kw_only=True, tag="bound", tag_field="kind"):
    """An absolute bound on a value; the limit itself passes."""

    find: Find
    value: Value
    of: Literal["each", "mean"]
    """Judge `each` category, or their `mean`. Images per second are the inverse of the mean time."""
    at_least: Limit | None = None
    at_most: Limit | None = None
    stage: Stage = "total"
    """The latency stage; only for `latency_ms` and `images_per_second`."""
    statistic: Literal["mean", "p50", "p90", "p95", "p99"] = "mean"
    """Over the images of a category; only for `latency_ms`."""


class NonInferior(_Rule, frozen=True, kw_only=True, tag="noninferior", tag_field="kind"):
    """A metric of each category is not worse than the baseline's by more than a margin."""

    find: Find
    metric: Compared
    margin: Annotated[float, msgspec.Meta(gt=0, le=0.5)]
    """The rule passes if the lower bound of the difference lies above -margin."""
    level: Level = 0.95
    """Confidence level of the two-sided interval of the difference."""


class Growth(_Rule, frozen=True, kw_only=True, tag="growth", tag_field="kind"):
    """Memory or model size of each category, as a multiple of the baseline's."""

    find: Find
    value: Size
    at_most: Annotated[float, msgspec.Meta(gt=0, le=1e3)]


class Reference(_Strict, frozen=True, kw_only=True):
    """The reference of a parity rule; everything else is as in `find`."""

    backend: Name
    variant: Name
    source: str | None = None


class Parity(_Rule, frozen=True, kw_only=True, tag="parity", tag_field="kind"):
    """Each category's record agrees with the reference backend's, level by level (`harness.parity`)."""

    find: Find
    reference: Reference
    profile: Literal["float32", "float16", "bfloat16", "int8"] | None = None
    """Tolerances (`harness.parity.PROFILES`); absent: those of the looser of the two records' precisions."""
    margin: Annotated[float, msgspec.Meta(gt=0, le=0.5)] | None = None
    """Also require that no metric loses more than this; absent: not required."""


class Latency(_Rule, frozen=True, kw_only=True, tag="latency", tag_field="kind"):
    """The median time of a benchmark's subject as a multiple of its control's; both are timed in turns, in at least 5 processes.

    The limit is `at_most` × (1 + `minimum_effect`). The rule passes if the whole interval lies below it, and fails if the
    whole interval lies above it; otherwise it is not measured.
    """

    benchmark: Name
    """The test's id, for example `benchmarks/test_ratios.py::test_session`."""
    subject: Name
    control: Name
    at_most: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    minimum_effect: Annotated[float, msgspec.Meta(gt=0, le=10)]
    """The excess over `at_most` that is too small to matter, as a share of it."""
    of: Literal["control", "baseline"] = "control"
    """`control`: subject over control; `baseline`: that ratio over the baseline's ratio on the same machine."""
    level: Level = 0.95


Rule: TypeAlias = Bound | NonInferior | Growth | Parity | Latency


class Rules(_Strict, frozen=True, kw_only=True):
    """The rules of one file."""

    baseline: Path | None = None
    """Folder of the baseline; the file names it relative to itself."""
    rule: tuple[Rule, ...] = ()


def needs_baseline(rule: Rule) -> bool:
    """Whether the rule compares with a baseline."""
    return isinstance(rule, NonInferior | Growth) or (isinstance(rule, Latency) and rule.of == "baseline")


def names() -> tuple[str, ...]:
    """Return the names of the rules that are shipped with the program."""
    return tuple(sorted(path.stem for path in storage.shipped("gates").glob(f"*{SUFFIX}")))


def find(text: str) -> Path:
    """Return the path of the shipped rules called `text`, or `text` as a path of a file.

    Raises:
        UsageError: no such rules.
    """
    path = storage.local_path(text)
    if path.suffix == SUFFIX:
        return path
    if text not in names():
        raise UsageError(f"{errors.unknown('rules', text, names())}; or give the path of a {SUFFIX} file")
    return storage.shipped("gates") / f"{text}{SUFFIX}"


def read(path: Path) -> Rules:
    """Read a file of rules; all rules share the `[find]` at its top.

    Raises:
        UsageError: the file is missing or is not TOML, a key is unknown or missing, or a value is of the wrong type or
            out of range; the message names the place.
    """
    try:
        document = msgspec.toml.decode(path.read_bytes())
        _require_known(document)
        shared = msgspec.convert(document.pop("find", {}), dict[str, Any])
        document["rule"] = msgspec.convert(document.get("rule", []), list[dict[str, Any]])
        for rule in document["rule"]:
            if rule.get("kind") != "latency":  # which has no records
                rule["find"] = shared | msgspec.convert(rule.get("find", {}), dict[str, Any])
        rules = msgspec.convert(document, Rules, dec_hook=lambda _, value: path.parent / value)
        _check(rules)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, msgspec.MsgspecError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from error
    return rules


def _require_known(document: Mapping[str, Any]) -> None:
    for key in document:
        if key not in _KNOWN:
            raise UsageError(errors.unknown("key", key, _KNOWN))


def _cannot_fail(rule: Bound) -> bool:
    """Whether the rule would always pass: no value is negative, and no metric is larger than 1."""
    largest = math.inf if rule.value in (*get_args(Size), *get_args(Timing)) else 1.0
    return (rule.at_least is not None and rule.at_least <= 0) or (
        rule.at_most is not None and rule.at_most >= largest
    )


def _check_bound(rule: Bound, place: str) -> None:
    if (rule.at_least is None) == (rule.at_most is None):
        raise UsageError(f"{place}: give one of at_least and at_most")
    if _cannot_fail(rule):
        raise UsageError(f"{place} cannot fail: every {rule.value} is within its bound")
    if rule.stage != "total" and rule.value not in STAGED:
        raise UsageError(f"{place}: {rule.value} has no stage, only {' and '.join(STAGED)} have one")
    if rule.statistic != "mean" and rule.value != "latency_ms":
        raise UsageError(f"{place}: {rule.value} has no statistic, only latency_ms has one")


def _check(rules: Rules) -> None:
    """Raise `UsageError` for errors that the types alone do not show."""
    seen = set[str]()
    for rule in rules.rule:
        place = f"rule {rule.name!r}"
        if rule.name in seen:
            raise UsageError(f"{place} is there twice: rename one, so that the report can tell them apart")
        seen.add(rule.name)
        if isinstance(rule, Bound):
            _check_bound(rule, place)
        if needs_baseline(rule) and rules.baseline is None:
            raise UsageError(f'{place} compares with a baseline: name its folder, baseline = "baseline"')
        if isinstance(rule, Latency):
            continue
        categories = rule.find.categories
        if len(set(categories)) < len(categories):
            raise UsageError(f"{place}: find.categories names one twice ({', '.join(categories)})")
        if rule.find.detector_sha256 is not None and len(categories) > 1:
            raise UsageError(
                f"{place}: find.detector_sha256 belongs to one category, find.categories names {len(categories)}"
            )
