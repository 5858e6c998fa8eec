"""MindSpore, imported once and the right way: with the variables its backend declares set before the import."""

from __future__ import annotations

import os

from harness import registry
from harness.errors import MissingExtra

for _name, _value in registry.backend("mindspore-cpu").environment.items():
    os.environ.setdefault(_name, _value)

try:
    import mindspore
    from mindspore import nn, ops
except ImportError as error:
    raise MissingExtra("MindSpore", "mindspore", needed_for="Fitting and exporting") from error

mindspore.set_context(mode=mindspore.GRAPH_MODE)

__all__ = ["mindspore", "nn", "ops"]
