"""Families of interchangeable parts: the built-in ones, and those that other distributions add by entry points.

A plug-in is one line in the `pyproject.toml` of another distribution; this project is not edited:

    [project.entry-points."harness.backends"]
    my-npu = "my_package.backend:BACKEND"

| group | the object that the entry point names | contract |
|---|---|---|
| `harness.backends` | a backend | `harness.contracts.Backend` |
| `harness.detectors` | what is fitted, with its settings | `harness.contracts.DetectorPlugin` |
| `harness.heads` | what turns a network's outputs into maps and scores | `harness.contracts.HeadFactory` |
| `harness.datasets` | a layout of images and masks in folders | `harness.datasets.layouts.Layout` |

The entry point's name is the part's name on the command line and in records. `examples/plugin/` is a template.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.errors import DISTRIBUTION, HarnessError, PluginError, UsageError, unknown

Part = TypeVar("Part")
OUR_PACKAGES = ("backends", "exporters")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Names are in file names of records and in `--reference BACKEND:VARIANT`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family(Generic[Part]):
    """The parts of one kind, by name."""

    kind: str
    """What messages call a part, for example `backend`."""
    builtin: Mapping[str, str]
    """Name of each built-in part → `module:object`."""
    group: str
    """The group of the entry points of other distributions."""
    members: tuple[str, ...]
    """Attributes that the contract requires of a plug-in's object."""
    list_command: str = ""
    """The command that prints all names."""

    def names(self) -> tuple[str, ...]:
        """Built-in names in their order, then those of plug-ins, sorted.

        Raises:
            PluginError: a name has characters other than letters, digits, `.`, `_` and `-`.
        """
        points = {point.name: point for point in self._points()}
        for name, point in points.items():
            if not _NAME.fullmatch(name):
                raise PluginError(
                    f"{_distribution(point)} adds a {self.kind} with the name {name!r}: letters, digits, '.', '_' and '-' "
                    "are allowed; rename it, or uninstall the distribution"
                )
        return (*self.builtin, *sorted(points.keys() - self.builtin.keys()))

    def load(self, name: str) -> Part:
        """The part called `name`, imported now.

        Raises:
            PluginError: two distributions have this name, or the plug-in's code fails or does not fit its contract.
            UsageError: an unknown name, with the nearest known ones.
        """
        plugin = self.plugin(name)
        part: Part = resolve(self.kind, name, self.builtin) if plugin is None else plugin
        return part

    def plugin(self, name: str) -> Part | None:
        """The part of another distribution called `name`; `None` for a built-in one. Raises as `load` does."""
        point = self._point(name)
        if point is None:
            return None
        where = f"the {self.kind} {name!r} of {_distribution(point)} (entry point {point.value})"
        try:
            part: Part = point.load()
        except Exception as error:  # a plug-in may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise PluginError(f"{where} cannot be loaded: {reason}; update or uninstall it") from error
        missing = [member for member in self.members if not hasattr(part, member)]
        if missing:
            raise PluginError(f"{where} has no {', '.join(missing)}: see harness/plugins.py for its contract")
        return part

    def distribution(self, name: str) -> str:
        """Name and version of the distribution that adds the plug-in `name`."""
        point = self._point(name)
        assert point is not None  # noqa: S101 - callers have its plug-in
        return _distribution(point)

    def _point(self, name: str) -> EntryPoint | None:
        """The one entry point called `name`, or `None` for a built-in part."""
        points = [point for point in self._points() if point.name == name]
        owners = [*([DISTRIBUTION] if name in self.builtin else ()), *map(_distribution, points)]
        if not owners:
            raise UsageError(unknown(self.kind, name, self.names(), self.list_command))
        if len(owners) > 1:
            raise PluginError(
                f"the {self.kind} {name!r} is in {' and in '.join(owners)}: uninstall one of them"
            )
        return points[0] if points else None

    def _points(self) -> tuple[EntryPoint, ...]:
        return tuple(importlib.metadata.entry_points(group=self.group))


def resolve(family: str, name: str, table: Mapping[str, str], list_command: str = "") -> Any:
    """The built-in object that `table` names.

    Raises:
        HarnessError: another distribution's package hides ours.
        UsageError: an unknown name, with the nearest known ones.
    """
    if name not in table:
        raise UsageError(unknown(family, name, table, list_command))
    return load(table[name])


def load(target: str) -> Any:
    """The object that `target`, `module:name`, names; its module is imported now.

    Raises:
        HarnessError: another distribution's package hides ours.
    """
    module, _, attribute = target.partition(":")
    require_our_package(module)
    return getattr(importlib.import_module(module), attribute)


def require_our_package(module: str) -> None:
    """Raise `HarnessError` if another distribution's `backends` or `exporters` hides ours."""
    package = module.partition(".")[0]
    if package not in OUR_PACKAGES:
        return
    ours = Path(__file__).resolve().parents[1] / package
    folder = Path(str(importlib.import_module(package).__file__)).resolve().parent
    if folder != ours:
        raise HarnessError(
            f"the package {package!r} of another distribution ({folder}) hides ours ({ours}): "
            "use an environment of its own for the harness"
        )


def _distribution(point: EntryPoint) -> str:
    return "an unknown distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"
