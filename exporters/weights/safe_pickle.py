"""Pickles read as inert data: things can be named, never imported, called or given state.

The standard library's unpickler imports what a pickle names and calls what it says. This interpreter knows only
the opcodes that state dicts need (the table at the end), and puts a `Call` where a call was asked for. A name that
is not expected is refused the moment it is read, so nothing a file says can run.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, BinaryIO

ORDERED_DICT = "collections.OrderedDict"
_MARK = object()


@dataclass(frozen=True, slots=True)
class Name:
    """A global the pickle names, such as `torch.FloatStorage`; never imported."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call the pickle asks for; never made."""

    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class PersistentId:
    """A reference to something outside the pickle, such as a storage."""

    value: Any


class _Machine:
    def __init__(self, allowed: Collection[str]) -> None:
        self.allowed = allowed
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.persistent: list[PersistentId] = []

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("the pickle takes more from its stack than it holds")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while self.stack and self.stack[-1] is not _MARK:
            items.append(self.stack.pop())
        if not self.stack:
            raise ValueError("the pickle closes a group it never opened")
        self.stack.pop()
        return items[::-1]

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple([self.pop() for _ in range(count)][::-1]))

    def name(self, module: Any, attribute: Any) -> None:
        qualified = f"{module}.{attribute}"
        if qualified not in self.allowed:
            raise ValueError(
                f"the pickle names {qualified[:200]!r}, which weights do not need: refused, nothing was run"
            )
        self.stack.append(Name(qualified))

    def name_from_stack(self) -> None:
        attribute, module = self.pop(), self.pop()
        if not (isinstance(module, str) and isinstance(attribute, str)):
            raise ValueError("the pickle names something by other than text")  # noqa: TRY004 - the file is wrong
        self.name(module, attribute)

    def call(self) -> None:
        arguments, callee = self.pop(), self.pop()
        if not (isinstance(callee, Name) and isinstance(arguments, tuple)):
            raise ValueError("the pickle calls something unnamed")  # noqa: TRY004 - the file is wrong
        if callee.name != ORDERED_DICT:
            self.stack.append(Call(callee.name, arguments))
            return
        self.stack.append({})
        pairs = list(arguments[0]) if arguments and isinstance(arguments[0], list | tuple) else []
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError("an OrderedDict is not made of pairs")
        self.set_items([part for pair in pairs for part in pair])

    def ignore_state(self) -> None:
        # Module versions on a state dict and gradient flags on old parameters: nothing weights need.
        self.pop()
        if not (self.stack and isinstance(self.stack[-1], dict | Call)):
            raise ValueError("the pickle gives state to something without any: refused, nothing was run")

    def set_items(self, flat: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        # Keys are text or numbers: hashing a tuple of shared tuples would take exponential time.
        if not isinstance(target, dict) or len(flat) % 2 or not all(type(k) in (str, int) for k in flat[::2]):
            raise ValueError("the pickle fills a dictionary with something else than text keys and values")
        target.update(zip(flat[::2], flat[1::2], strict=True))

    def append_items(self, items: list[Any]) -> None:
        if not (self.stack and isinstance(self.stack[-1], list)):
            raise ValueError("the pickle appends to something that is no list")
        self.stack[-1].extend(items)

    def remember(self, key: int) -> None:
        if not self.stack:
            raise ValueError("the pickle remembers something it does not hold")
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise ValueError("the pickle recalls something it never remembered")
        self.stack.append(self.memo[key])

    def persistent_id(self) -> None:
        reference = PersistentId(self.pop())
        self.persistent.append(reference)
        self.stack.append(reference)


def read_pickle(file: BinaryIO, allowed: Collection[str]) -> tuple[Any, list[PersistentId]]:
    """Read one pickle from `file`, leaving it just behind; also gives every persistent id it refers to.

    Raises `ValueError` for a name outside `allowed` (`module.attribute`), an opcode that builds or runs anything
    else, and a pickle that is truncated or inconsistent.
    """
    machine = _Machine(allowed)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            break
        if opcode.name not in _ACTIONS:
            raise ValueError(
                f"pickle opcode {opcode.name} is none that weights need: refused, nothing was run"
            )
        _ACTIONS[opcode.name](machine, argument)
    root = machine.pop()
    if machine.stack:
        raise ValueError("the pickle leaves something on its stack")
    return root, machine.persistent


def _qualified_name(machine: _Machine, argument: str) -> None:
    machine.name(*argument.partition(" ")[::2])


_Action = Callable[[_Machine, Any], None]
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
)
_ACTIONS: dict[str, _Action] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda _machine, _argument: None),
    **dict.fromkeys(_LITERALS, lambda machine, argument: machine.stack.append(argument)),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "EMPTY_TUPLE": lambda machine, _: machine.tuple_of(0),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "APPEND": lambda machine, _: machine.append_items([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append_items(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, key: machine.remember(key)),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, key: machine.recall(key)),
    # INST names and calls in one: it is known here so that the refusal says what it names.
    **dict.fromkeys(("GLOBAL", "INST"), _qualified_name),
    "STACK_GLOBAL": lambda machine, _: machine.name_from_stack(),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call()),
    "BUILD": lambda machine, _: machine.ignore_state(),
    "BINPERSID": lambda machine, _: machine.persistent_id(),
}
