"""ONNX models that were not exported here: read, described, and taken over as artifacts that `bench` measures as any other.

`protobuf` reads the file, `graph` what of it matters, `way_in` what it does to the picture first, `recognise` drafts a
`description` of how pictures go in and what comes out, `adopt` makes an artifact of file and description. No ONNX package is needed, and nothing in the file is executed.
"""

from harness.onnx_models.adopt import adopt
from harness.onnx_models.description import Description, declare, read, write
from harness.onnx_models.graph import Graph
from harness.onnx_models.graph import read as read_graph
from harness.onnx_models.recognise import recognise

__all__ = ["Description", "Graph", "adopt", "declare", "read", "read_graph", "recognise", "write"]
