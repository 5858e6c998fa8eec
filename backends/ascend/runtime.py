"""pyACL with every return code checked, and the life of AscendCL in this process.

pyACL's handles are plain numbers and its errors are return codes. Here a code other than 0 raises, and what was taken
is noted with the call that gives it back. AscendCL is initialised once per process and finalised at its end; never in a
destructor, whose order at exit is undefined.
"""

from __future__ import annotations

import atexit
import contextlib
import operator
import sys
import threading
from collections.abc import Callable, Iterator
from enum import IntEnum, auto
from typing import Any, Protocol

from backends.ascend import codes
from backends.errors import BackendError


class AclError(BackendError):
    """A pyACL call gave a code other than 0."""

    def __init__(self, call: str, code: int, recent: str | None) -> None:
        detail = f"; the device says: {recent.strip()}" if recent and recent.strip() else ""
        super().__init__(f"acl.{call} gave {code}, {codes.meaning(code)}{detail}")
        self.call = call
        self.code = code


class Acl:
    """The module `acl`, by the kinds of what its functions return."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def do(self, call: str, *arguments: Any) -> Any:
        """Call a function whose last (or only) result is a return code; gives what stands before the code.

        Raises:
            AclError: the code is not 0.
        """
        result = operator.attrgetter(call)(self._module)(*arguments)
        *values, code = result if isinstance(result, tuple) else (result,)
        if code != codes.SUCCESS:
            raise AclError(call, code, self._recent())
        return values[0] if len(values) == 1 else tuple(values)

    def make(self, call: str, *arguments: Any) -> int:
        """Call a constructor that gives a bare handle.

        Raises:
            BackendError: it gave none.
        """
        handle: int | None = self.get(call, *arguments)
        if not handle:
            raise BackendError(f"acl.{call} gave no handle; the device says: {self._recent() or 'nothing'}")
        return handle

    def get(self, call: str, *arguments: Any) -> Any:
        """Call a plain getter, which has no code."""
        return operator.attrgetter(call)(self._module)(*arguments)

    def offers(self, call: str) -> bool:
        """Whether this version of pyACL has the function: the documented way to tell versions apart."""
        try:
            operator.attrgetter(call)(self._module)
        except AttributeError:
            return False
        return True

    def _recent(self) -> str | None:
        text: str | None = self.get("get_recent_err_msg") if self.offers("get_recent_err_msg") else None
        return text


class Stage(IntEnum):
    """The documented order of release."""

    MODEL = auto()
    DESCRIPTION = auto()
    DEVICE_MEMORY = auto()
    BUFFER = auto()
    DATASET = auto()
    HOST_MEMORY = auto()
    STREAM = auto()
    CONTEXT = auto()
    DEVICE = auto()


class Holdings:
    """What was taken from the device and has to be given back."""

    def __init__(self, acl: Acl) -> None:
        self._acl = acl
        self._held: list[tuple[Stage, str, tuple[Any, ...]]] = []

    def add(self, stage: Stage, call: str, *arguments: Any) -> None:
        """Note that `acl.call(*arguments)` gives something back."""
        self._held.append((stage, call, arguments))

    def release(self) -> list[AclError]:
        """Give everything back in the documented order; what fails is tried once more before the next is given back.

        Returns:
            The failures.
        """
        failures = []
        for _, call, arguments in sorted(self._held, key=lambda held: held[0]):
            failures += twice(lambda call=call, arguments=arguments: self._acl.do(call, *arguments))  # type: ignore[misc]
        self._held.clear()
        return failures


def twice(act: Callable[[], object]) -> list[AclError]:
    """Act, and where that fails once more; gives the failures."""
    failures = []
    for _ in range(2):
        try:
            act()
            break
        except AclError as error:
            failures.append(error)
    return failures


class Closable(Protocol):
    """A session that the end of the process has to close."""

    def close(self) -> None:
        """Give everything back."""


class Runtime:
    """AscendCL in this process."""

    def __init__(self, acl: Acl) -> None:
        self.acl = acl
        self._lock = threading.Lock()
        self._started = False
        self._ours = False
        self._open: list[Closable] = []

    def start(self) -> None:
        """Initialise AscendCL unless that was done; `finish` is called at the end of the process.

        Raises:
            AclError: it cannot be initialised.
        """
        with self._lock:
            if self._started:
                return
            try:
                self.acl.do("init")
                self._ours = True
            except AclError as error:
                if error.code != codes.REPEATED_INITIALISE:
                    raise
            self._started = True
            atexit.register(self._finish_at_exit)

    def finish(self) -> None:
        """Close the sessions still open, then finalise AscendCL, if it was we who initialised it.

        Raises:
            BackendError: something could not be given back.
        """
        failures: list[BackendError] = []
        for session in (*self._open,):
            try:
                session.close()
            except BackendError as error:  # noqa: PERF203 - every session gets its turn
                failures.append(error)
        with self._lock:
            if self._started and self._ours:
                failures += twice(lambda: self.acl.do("finalize"))
            self._started = self._ours = False
            atexit.unregister(self._finish_at_exit)
        if failures:
            raise failures[0]

    def _finish_at_exit(self) -> None:
        try:
            self.finish()
        except BackendError as error:
            sys.stderr.write(f"at exit: {error}\n")

    @contextlib.contextmanager
    def taking(self, holdings: Holdings) -> Iterator[None]:
        """Give back what `holdings` has where the block fails, whatever the reason."""
        try:
            yield
        except BaseException:
            holdings.release()
            raise

    def opened(self, session: Closable) -> None:
        """Close `session` at the end of the process, at the latest."""
        self._open.append(session)

    def closed(self, session: Closable) -> None:
        """`session` has given everything back."""
        if session in self._open:
            self._open.remove(session)


Load = Callable[[], Any]
_runtimes: dict[Load, Runtime] = {}


def runtime(load: Load) -> Runtime:
    """The one runtime of this process on the module that `load` gives."""
    if load not in _runtimes:
        _runtimes[load] = Runtime(Acl(load()))
    return _runtimes[load]
