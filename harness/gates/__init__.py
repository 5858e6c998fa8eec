"""Gates: rules over records and interleaved benchmarks, which pass, fail, or were not measured.

Whatever a rule names and is not there, was renamed, skipped, failed, simulated, undefined, edited, of another detector
or from another host is not measured, which is never a pass.
"""

from harness.gates.baseline import update
from harness.gates.evaluate import gate
from harness.gates.report import Check, GateReport, Outcome, lines
from harness.gates.rules import Rules, find, names, read

__all__ = ["Check", "GateReport", "Outcome", "Rules", "find", "gate", "lines", "names", "read", "update"]
