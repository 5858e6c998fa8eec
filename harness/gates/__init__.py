"""Gates: rules over records and interleaved benchmarks, each of which passes, fails, or is not measured.

A rule is not measured, and so never passes, if a record that it names is missing, was renamed, skipped, failed or
edited, has an undefined metric, or comes from a simulated device, another detector or another machine.
"""

from harness.gates.baseline import update
from harness.gates.evaluate import gate
from harness.gates.report import Check, GateReport, Outcome, lines
from harness.gates.rules import Rules, find, names, read

__all__ = ["Check", "GateReport", "Outcome", "Rules", "find", "gate", "lines", "names", "read", "update"]
