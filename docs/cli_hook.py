"""A hook of mkdocs: replaces `<!-- commands -->` in reference/cli.md by every command's help, read from the parsers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

from harness.cli import parser

PLACE = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with the commands written out; other pages stay as they are."""
    return markdown.replace(PLACE, "\n".join(_lines(parser(), ""))) if PLACE in markdown else markdown


def _lines(command: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    """A command's heading, description, usage, options and example; then its subcommands."""
    words = command.prog.split()[3:]  # after `python -m harness`
    children = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    if words:
        yield f"{'#' * (1 + len(words))} {' '.join(words)}\n\n{_escaped(command.description or summary)}\n"
    if words and not children:
        yield f"```text\n{' '.join(command.format_usage().removeprefix('usage: ').split())}\n```\n"
        yield "| argument | meaning |\n|---|---|"
        for group in command._action_groups:
            yield from (f"| {_name(action)} | {_meaning(action, command)} |" for action in _shown(group))
        yield f"\n```text\n{command.epilog}\n```\n"
    for action in children:
        summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, child in action.choices.items():
            yield from _lines(child, summaries.get(name, ""))


def _shown(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return [
        action
        for action in group._group_actions
        if action.help != argparse.SUPPRESS and not isinstance(action, hidden)
    ]


def _name(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest)
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"`{value}`"
    return f"`{', '.join(action.option_strings)}`" + ("" if action.nargs == 0 else f" {_escaped(value)}")


def _meaning(action: argparse.Action, command: argparse.ArgumentParser) -> str:
    """The help with the default, as `--help` shows it."""
    return _escaped(command._get_formatter()._expand_help(action)) if action.help else ""


def _escaped(text: str) -> str:
    """As Markdown in a table, with links to the pages that the text names."""
    text = text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"docs/([\w/-]+\.md)", r"[docs/\1](../\1)", text)
