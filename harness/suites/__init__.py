"""Suites: the settings that give a published table, in one file."""

from harness.suites.definition import Suite, find, names, read

__all__ = ["Suite", "find", "names", "read"]
