"""Suites: each file holds the settings of one published table."""

from harness.suites.definition import Suite, find, names, read

__all__ = ["Suite", "find", "names", "read"]
