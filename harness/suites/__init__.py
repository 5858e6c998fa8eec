"""Suites: the settings that give a published table, in one file; fitted, exported and measured category by category."""

from harness.run.suite import Interrupted, Outcome, run
from harness.run.suite_ready import Ready, Step, SuiteRequest, ready
from harness.suites.definition import Suite, find, names, read

__all__ = [
    "Interrupted",
    "Outcome",
    "Ready",
    "Step",
    "Suite",
    "SuiteRequest",
    "find",
    "names",
    "read",
    "ready",
    "run",
]
