"""MindSpore, imported once and the right way.

`import onnx` before `import mindspore` aborts the process under protobuf's C implementation, and oneDNN's AVX-512
dispatch makes some MindSpore builds 20 to 300 times slower; both are settled by variables read at import.
"""

from __future__ import annotations

import os
import tempfile

from harness.errors import MissingExtra

ENVIRONMENT = {
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "GLOG_v": "3",
    "MS_OM_PATH": tempfile.gettempdir(),  # a failed compilation leaves its debris there, not in the user's folder
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

try:
    import mindspore
    from mindspore import nn, ops
except ImportError as error:
    raise MissingExtra("MindSpore", "mindspore", needed_for="Fitting and exporting") from error

mindspore.set_context(mode=mindspore.GRAPH_MODE)

__all__ = ["ENVIRONMENT", "mindspore", "nn", "ops"]
