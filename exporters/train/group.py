"""Training on several workers: processes that MindSpore's `msrun` starts, each with its share of every batch.

The process that was asked to fit launches them and waits. Each worker (a rank) runs this file as its program: it calls
the same learner with the same request, so that all build the same task; `train` sees that it is in a group. Rank 0
writes the checkpoints, and from the last one the launcher goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from mindspore import communication

from exporters.errors import TrainingError
from exporters.runtime import mindspore as ms
from exporters.runtime import nn, ops
from harness import storage
from harness.types import AnyArray


class _Sum(nn.Cell):
    """The sum over all ranks, tensor by tensor.

    All travel as one vector: several collective operations in a graph run in any order, and each rank in its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enable_tuple_broaden = True
        self.map = ops.HyperMap()
        self.join = ops.Concat()
        self.reduce = ops.AllReduce(ops.ReduceOp.SUM)

    def construct(self, tensors: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, ...]:
        """The sums."""
        vector = self.reduce(self.join(self.map(_as_vector, tensors)))
        sums: tuple[ms.Tensor, ...] = ()
        start = 0
        for tensor in tensors:
            sums += (vector[start : start + tensor.size].reshape(tensor.shape),)
            start += tensor.size
        return sums


def _as_vector(tensor: ms.Tensor) -> ms.Tensor:
    return tensor.reshape((-1,))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The processes that train together, and which of them this is."""

    rank: int = 0
    size: int = 1
    reduce: nn.Cell | None = None

    def sum(self, tensors: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, ...]:
        """The sum over all ranks, tensor by tensor."""
        if self.reduce is None:
            return tensors
        summed: tuple[ms.Tensor, ...] = self.reduce(tensors)
        return summed

    def from_first(self, value: float) -> float:
        """Rank 0's value, as a float32."""
        own = value if self.rank == 0 else 0.0
        return float(self.sum((ms.Tensor(np.array([own], np.float32)),))[0].asnumpy()[0])

    def require_equal(self, arrays: Mapping[str, AnyArray]) -> None:
        """Stop unless every rank calls this with the same bits.

        The digest travels as 16 numbers below 65536, whose sums are exact: when every rank's own are the mean, all are
        the same.

        Raises:
            TrainingError: some rank has others.
        """
        digest = np.frombuffer(bytes.fromhex(storage.sha256_of_arrays(arrays)), np.uint16).astype(np.float32)
        (total,) = self.sum((ms.Tensor(digest),))
        if not np.array_equal(total.asnumpy(), digest * self.size):
            raise TrainingError(
                f"the {self.size} workers' weights differ from each other: nothing was kept of them"
            )


def group() -> Group:
    """The group this process is in; of one, unless it was launched as a rank."""
    if not communication.GlobalComm.INITED:
        return Group()
    return Group(rank=communication.get_rank(), size=communication.get_group_size(), reduce=_Sum())
