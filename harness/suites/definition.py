"""Reads suite files strictly: an unknown name is refused with its place and the nearest known name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from harness import errors, storage
from harness.detector.settings import Settings
from harness.detector.settings import settings as settings_of
from harness.errors import HarnessError, UsageError
from harness.types import MaskResize

SUFFIX = ".toml"


class Suite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One detector with the settings of one published table."""

    name: str
    """The file's name without its suffix; records hold it."""
    detector: str
    backbone: str
    """`none` for a detector without one."""
    protocol: Literal["standard", "seed"] = "standard"
    categories: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    backends: tuple[str, ...] = ()
    """Empty means every backend of the machine."""
    seed: int = 0
    mask_threshold: Annotated[int, msgspec.Meta(ge=0, le=254)] = 127
    mask_resize: MaskResize = "nearest"
    settings: dict[str, Any] = {}
    """Names are those of `harness.detector.settings`."""
    category: dict[str, dict[str, Any]] = {}
    """Category → settings that apply to it alone."""

    def settings_for(self, category: str) -> Settings:
        """Return all settings of one category with their defaults.

        Raises:
            UsageError: a value of the wrong type or out of range.
        """
        values = {"protocol": self.protocol, **self.settings, **self.category.get(category, {})}
        kind = type(settings_of(self.detector, {}))
        try:
            msgspec.convert(values, kind)  # a file's values have their types, unlike the command line's
        except msgspec.ValidationError as error:
            raise UsageError(f"settings of {category}: {error}") from error
        return settings_of(self.detector, values)


def names() -> tuple[str, ...]:
    """Return the names of the shipped suites."""
    return tuple(sorted(path.stem for path in storage.shipped("suites").glob(f"*{SUFFIX}")))


def find(text: str) -> Path:
    """Return the file of the shipped suite `text`, or the path `text`.

    Raises:
        UsageError: no such suite, or another file that has the name of a shipped suite.
    """
    path = storage.local_path(text)
    if path.suffix != SUFFIX:
        if text not in names():
            raise UsageError(f"{errors.unknown('suite', text, names())}; or give the path of a {SUFFIX} file")
        return storage.shipped("suites") / f"{text}{SUFFIX}"
    if path.stem in names() and path.resolve() != (storage.shipped("suites") / path.name).resolve():
        raise UsageError(
            f"{path}: {path.stem} is a suite of this program; records could not tell them apart: rename the file"
        )
    return path


def read(path: Path) -> Suite:
    """Read a suite.

    Raises:
        UsageError: no file, not TOML, an unknown key or setting, a value of the wrong type or out of range; says where.
    """
    try:
        document = msgspec.toml.decode(path.read_bytes())
        _require_known("key", document, [name for name in Suite.__struct_fields__ if name != "name"])
        suite = msgspec.convert({**document, "name": path.stem}, Suite)
        _check(suite)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); {', '.join(names())} are suites"
        ) from error
    except (UnicodeDecodeError, msgspec.MsgspecError, HarnessError) as error:
        raise UsageError(f"{path}: {error}") from error
    return suite


def _check(suite: Suite) -> None:
    known = type(settings_of(suite.detector, {})).__struct_fields__
    for place, table in {
        "settings": suite.settings,
        **{f"category.{name}": table for name, table in suite.category.items()},
    }.items():
        if "protocol" in table:
            raise UsageError(f"{place}.protocol: the protocol is the whole suite's: write it at the top")
        _require_known(f"setting of {suite.detector}", table, known, place)
    _require_known("category", suite.category, suite.categories, "category")
    if len(set(suite.categories)) < len(suite.categories):
        raise UsageError(f"categories: one is named twice ({', '.join(suite.categories)})")
    if (suite.backbone == "none") != (suite.detector == "ssim_ae"):
        raise UsageError(f"backbone: {suite.detector} with {suite.backbone!r}: only ssim_ae has none")
    for name in suite.categories:
        suite.settings_for(name)


def _require_known(kind: str, table: Mapping[str, Any], known: Iterable[str], place: str = "") -> None:
    names_known = list(known)
    for name in table:
        if name not in names_known:
            where = f"{place}.{name}: " if place else ""
            raise UsageError(where + errors.unknown(kind, name, names_known))
