"""A page of blocks, written as HTML or Markdown: one file that needs no others."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

_STYLE = (
    "body{font:15px/1.45 sans-serif;max-width:68em;margin:2em auto;padding:0 1em;color:#202020}"
    "table{border-collapse:collapse;margin:.6em 0}"
    "td,th{border:1px solid #b0b0b0;padding:.25em .6em;text-align:left;vertical-align:top;overflow-wrap:anywhere}"
    "th{background:#f0f0f0}img{max-width:100%;border:1px solid #b0b0b0}figure{margin:1em 0}"
    "@media print{body{margin:0}figure,table{break-inside:avoid}}"
)


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the page's title."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; each row is as long as the header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG with its caption."""

    caption: str
    png: bytes


Block = Heading | Text | Items | Table | Picture


def html_page(blocks: Sequence[Block]) -> str:
    """Return an HTML document that contains its pictures; the first block is its title. All text is escaped."""
    (first, *_) = blocks
    title = _escaped(first.text) if isinstance(first, Heading) else ""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def markdown_page(blocks: Sequence[Block]) -> str:
    """Return Markdown with its pictures as data addresses at the end; markup characters in texts are escaped."""
    pictures = [block for block in blocks if isinstance(block, Picture)]
    body = [
        f"![{_plain(block.caption)}][picture-{pictures.index(block) + 1}]"
        if isinstance(block, Picture)
        else _markdown(block)
        for block in blocks
    ]
    addresses = [f"[picture-{number}]: {_address(block)}" for number, block in enumerate(pictures, start=1)]
    return "\n\n".join([*body, *addresses]) + "\n"


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_escaped(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{_escaped(block.text)}</p>"
    if isinstance(block, Items):
        return f"<ul>{''.join(f'<li>{_escaped(line)}</li>' for line in block.items)}</ul>"
    if isinstance(block, Table):
        rows = [_html_row(block.header, "th"), *(_html_row(row, "td") for row in block.rows)]
        return f"<table>{''.join(rows)}</table>"
    caption = _escaped(block.caption)
    return f'<figure><img alt="{caption}" src="{_address(block)}"><figcaption>{caption}</figcaption></figure>'


def _html_row(cells: Sequence[str], kind: str) -> str:
    return f"<tr>{''.join(f'<{kind}>{_escaped(cell)}</{kind}>' for cell in cells)}</tr>"


def _markdown(block: Heading | Text | Items | Table) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_plain(block.text)}"
    if isinstance(block, Text):
        return _plain(block.text)
    if isinstance(block, Items):
        return "\n".join(f"- {_plain(line)}" for line in block.items)
    rule = f"|{' --- |' * len(block.header)}"
    return "\n".join([_markdown_row(block.header), rule, *map(_markdown_row, block.rows)])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)


def _plain(text: str) -> str:
    """Return the text as one line without markup."""
    return re.sub(r"([\\`*_<>\[\]|&#])", r"\\\1", " ".join(text.split()))


def _address(picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
