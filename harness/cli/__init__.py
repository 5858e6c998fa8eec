"""The command line: a module for each group of commands, with what they take and what they do.

They gather what a command needs, call the engine and print.
"""

from harness.cli.program import main, parser

__all__ = ["main", "parser"]
