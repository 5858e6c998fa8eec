"""A hook of mkdocs: replaces `<!-- commands -->` in reference/cli.md by every command's help, read from the parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from harness.cli import parser

PLACE = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page's text with the commands written out; other pages as they are."""
    return markdown.replace(PLACE, "\n".join(_lines(parser()))) if PLACE in markdown else markdown


def _lines(command: argparse.ArgumentParser) -> Iterator[str]:
    """A command and, after it, its sub-commands; one with sub-commands alone has no table."""
    children = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    words = command.prog.split()[3:]  # after `python -m harness`
    if words:
        yield f"{'#' * (1 + len(words))} {' '.join(words)}\n"
        yield f"{_escaped(command.description or _help_of.get(command.prog, ''))}\n"
        if not children:
            usage = " ".join(command.format_usage().removeprefix("usage: ").split())
            yield f"```text\n{usage}\n```\n"
    for group in command._action_groups:  # noqa: SLF001
        rows = [action for action in group._group_actions if _is_shown(action)]  # noqa: SLF001
        if rows and words:
            yield (
                ""
                if group.title in {"positional arguments", "options"}
                else f"{_escaped(group.title or '')}:\n"
            )
            yield "| argument | |\n|---|---|"
            yield from (f"| {_name(action)} | {_escaped(_text(action, command))} |" for action in rows)
            yield ""
    if command.epilog and words:
        yield f"```text\n{command.epilog}\n```\n"
    for action in children:
        _help_of.update(
            {f"{action.choices[one.dest].prog}": one.help or "" for one in action._choices_actions}
        )  # noqa: SLF001
        for child in dict.fromkeys(action.choices.values()):
            yield from _lines(child)


_help_of: dict[str, str] = {}


def _is_shown(action: argparse.Action) -> bool:
    hidden = action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction)  # noqa: SLF001
    return not hidden and not isinstance(action, argparse._SubParsersAction)  # noqa: SLF001


def _name(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    shown = action.metavar or ("" if action.choices is None else "\\|".join(map(str, action.choices)))
    value = " ".join(shown) if isinstance(shown, tuple) else str(shown or action.dest)
    return f"`{names or value}`" + (f" {_escaped(value)}" if names and action.nargs != 0 else "")


def _text(action: argparse.Action, command: argparse.ArgumentParser) -> str:
    return (action.help or "") % {"default": action.default, "prog": command.prog, "choices": action.choices}


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ").replace("\\\\|", "\\|")
