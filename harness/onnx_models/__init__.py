"""ONNX models from elsewhere: read, described, and made into artifacts that `bench` measures like any other.

`graph` reads the file, `built_in_steps` finds the preprocessing inside the graph, `recognise` drafts a `description` of
inputs and outputs, `check` says what the description lacks, `adopt` makes an artifact of file and description. Reading
needs the package onnx. Nothing in the file is executed.
"""

from harness.onnx_models.adopt import adopt
from harness.onnx_models.description import Description, declare, read, write
from harness.onnx_models.graph import Graph
from harness.onnx_models.graph import read as read_graph
from harness.onnx_models.recognise import recognise

__all__ = ["Description", "Graph", "adopt", "declare", "read", "read_graph", "recognise", "write"]
