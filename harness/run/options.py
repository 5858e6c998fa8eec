"""How cases are run: what the requests of all commands share."""

from __future__ import annotations

from dataclasses import dataclass

from harness.types import MaskResize


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How each case is run."""

    batch_size: int = 1
    """Images per run of the network."""
    threads: int = 1
    """Cores that each worker is pinned to."""
    warmup: int = 3
    """Untimed runs of each batch shape before the timed ones."""
    timeout: float = 600.0
    """Seconds without any event after which a worker is killed."""
    mask_threshold: int = 127
    """A mask pixel is defective if its grey value, 0 to 255, is greater."""
    mask_resize: MaskResize = "nearest"
    force: bool = False
    """Measure finished cases again."""
