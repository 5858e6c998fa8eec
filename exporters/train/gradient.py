"""The gradient of a batch, put together from micro-batches and from the shares of several workers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exporters.runtime import mindspore as ms
from exporters.runtime import nn, ops
from exporters.train.group import Group
from harness.types import AnyArray, Float32

Tensors = tuple[ms.Tensor, ...]


class _AddScaled(nn.Cell):
    """total + weight · items, tensor by tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.enable_tuple_broaden = True  # or a tuple counts as a constant, and every call compiles anew
        self.map = ops.HyperMap()

    def construct(self, total: Tensors, items: Tensors, weight: ms.Tensor) -> Tensors:
        """The new total."""
        added: Tensors = self.map(ops.partial(_add_scaled, weight), total, items)
        return added


def _add_scaled(weight: ms.Tensor, total: ms.Tensor, addend: ms.Tensor) -> ms.Tensor:
    return total + addend * weight


class BatchGradient:
    """Loss and gradient of a batch: Σ_k (n_k / B) · (l_k, g_k) over its micro-batches of n_k of the B rows.

    For a loss that is a mean over rows this is the gradient of the whole batch. It is not for a network with batch
    normalisation, which sees a micro-batch at a time.
    """

    def __init__(
        self, loss: nn.Cell, weights: Sequence[ms.Parameter], *, micro_batch: int, group: Group
    ) -> None:
        def forward(rows: ms.Tensor) -> ms.Tensor:  # a graph can take in neither a lambda nor a dataclass
            return loss(rows)

        self._gradient = ms.value_and_grad(forward, None, weights)
        self._shapes = [(), *(weight.shape for weight in weights)]
        self._micro_batch = micro_batch
        self._group = group
        self._add_scaled = _AddScaled()

    def __call__(self, batch: Float32, *, summed: bool) -> tuple[float, Tensors]:
        """The mean loss over the rows of `batch`, and its gradient; `summed`: the gradient of the sum over the rows."""
        gradient = self._mean(batch)
        gradients = gradient[1:]
        if summed:
            gradients = self._add_scaled(self._zeros()[1:], gradients, _scalar(len(batch)))
        return float(gradient[0].asnumpy()), gradients

    def _mean(self, batch: Float32) -> Tensors:
        own = np.array_split(batch, self._group.size)[self._group.rank]
        if self._group.size == 1 and len(batch) <= self._micro_batch:
            return self._of(batch)
        total = self._zeros()
        for start in range(0, len(own), self._micro_batch):
            rows = own[start : start + self._micro_batch]
            total = self._add_scaled(total, self._of(rows), _scalar(len(rows) / len(batch)))
        return self._group.sum(total)

    def _of(self, rows: AnyArray) -> Tensors:
        loss, gradients = self._gradient(ms.Tensor(np.ascontiguousarray(rows)))
        return (loss, *gradients)

    def _zeros(self) -> Tensors:
        return tuple(ms.Tensor(np.zeros(shape, np.float32)) for shape in self._shapes)


def _scalar(value: float) -> ms.Tensor:
    return ms.Tensor(np.float32(value))
