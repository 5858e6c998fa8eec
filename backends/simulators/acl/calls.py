"""How a method of the simulator becomes a function of pyACL: its name, what it gives when it fails, its releases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from backends.simulators.acl.board import Cann

Failed = Callable[[int], object]
_Method = TypeVar("_Method", bound=Callable[..., Any])
_ALL: tuple[Cann, ...] = ("5.0", "7.0", "8.0")


def code_only(code: int) -> object:
    """`ret`."""
    return code


def with_code(*values: object) -> Failed:
    """`(value, …, ret)`."""
    return lambda code: (*values, code)


def bare(value: object) -> Failed:
    """The value alone, for functions that give no code."""
    return lambda _: value


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One function of pyACL."""

    name: str
    failed: Failed
    locked: bool
    """The board does nothing else meanwhile; a slow call locks it for its bookkeeping only."""


_CALLS: dict[Any, tuple[Call, tuple[Cann, ...]]] = {}


def api(
    name: str, failed: Failed = code_only, *, cann: tuple[Cann, ...] = _ALL, locked: bool = True
) -> Callable[[_Method], _Method]:
    """Offer a method as `acl.<name>` in these lines of CANN."""

    def offer(method: _Method) -> _Method:
        _CALLS[method] = Call(name=name, failed=failed, locked=locked), cann
        return method

    return offer


def offered(part: object, cann: Cann) -> Iterator[tuple[Call, Callable[..., Any]]]:
    """What a part of the simulator offers in one line of CANN."""
    for key, method in vars(type(part)).items():
        if callable(method) and method in _CALLS:
            call, lines = _CALLS[method]
            if cann in lines:
                yield call, getattr(part, key)
