"""A simulated pyACL: the `acl` module as the vendor documents it, for writing and testing programs without a card.

`create(board)` gives a module with `rt`, `mdl`, `util` and the rest; it is marked `SIMULATED`, and `simulator` says
what was called and what is still alive. It is not the vendor's software, contains nothing of it, and has never been
compared with a device. It was written from the public documents and sources alone (`docs/reference/ascend.md` lists each call
with its evidence); codes of misuse are those of the current CANN source, and older releases may differ.

Simulated: handles as integers, one range per kind; host pointers that are real addresses and device pointers that are
not; device memory with its capacity, filled with 0xCD; copies with bounds and direction; contexts of threads, set and
reset counts, streams, events; models with static batch or batch gears and static AIPP, computed by
`backends.simulators.half`; return codes, messages, the leak report. Work put into a stream is done when somebody
waits for it and not before; on a card it may be done earlier, so a program that forgets to wait may work there.

What only hardware can answer raises `HardwareWouldCrash`, where a device would fault, hang or give wrong numbers.
Where the documents leave room, the stricter reading holds:

- calls other than getters before `init` give 100001; `malloc_host` and the frees need a context; `malloc_host` on the
  SoC gives 207000; a default context belongs to one thread, a model to one context (107004) and at most one stream
  with waiting work (107005); contexts that outlive their device are lost, with what is in them (107002);
- a model for another SoC gives 507008, one of a newer CANN 545001;
- CANN 5.0 has the numpy helpers only, 7.0 both with a warning for these, 8.0 the bytes helpers only (a real 8.0 still
  has both).

Not simulated: image-size and dims gears, shape ranges, dynamic AIPP, crops and colour conversion of static AIPP,
loading with one's own memory, callbacks, profiling, `query_event`, `app_log`; speed, but for `Latency`. A call that is
missing is an `AttributeError`. Constants are missing on purpose: pyACL exports none that a program may rely on.
"""

from __future__ import annotations

from types import ModuleType

from backends.simulators.acl.board import Board, Fault, HardwareWouldCrash, Latency
from backends.simulators.acl.calls import offered
from backends.simulators.acl.copying import Copying
from backends.simulators.acl.datasets import Datasets
from backends.simulators.acl.device import Device
from backends.simulators.acl.models import Models
from backends.simulators.acl.pointers import Pointers
from backends.simulators.acl.state import Simulator
from backends.simulators.acl.streams import Streams

__all__ = ["Board", "Fault", "HardwareWouldCrash", "Latency", "Simulator", "create"]


def create(board: Board) -> ModuleType:
    """A fresh `acl` module over a board in its own process-wide state.

    Raises:
        ValueError: a fault names a call that this board's CANN does not have.
    """
    state = Simulator(board)
    streams, models = Streams(state), Models(state)
    parts = (
        Device(state),
        streams,
        Copying(state, streams),
        Pointers(state),
        models,
        Datasets(state, models, streams),
    )
    acl = ModuleType("acl", "A simulated pyACL.")
    modules = {"": acl}
    for name in ("rt", "mdl", "util"):
        modules[name] = ModuleType(f"acl.{name}")
        setattr(acl, name, modules[name])
    names = set()
    for part in parts:
        for call, method in offered(part, board.cann):
            module, _, function = call.name.rpartition(".")
            setattr(modules[module], function, state.function(call, method))
            names.add(call.name)
    unknown = sorted({fault.call for fault in board.faults} - names)
    if unknown:
        raise ValueError(f"CANN {board.cann} as simulated has no call {', '.join(unknown)}")
    vars(acl).update(SIMULATED=True, simulator=state)
    return acl
