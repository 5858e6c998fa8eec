"""The command line: one module per group of commands. Only it parses arguments, prints and exits."""

from harness.cli.program import main, parser

__all__ = ["main", "parser"]
