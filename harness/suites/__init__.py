"""Suites: the settings that give a published table, in one file; fitted, exported and measured category by category."""

from harness.suites.definition import Suite, find, names, read
from harness.suites.ready import Ready, Step, SuiteRequest, ready
from harness.suites.run import Interrupted, Outcome, run

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
