"""One self-contained HTML page from tables, pictures and text; no JAX, no script."""

import base64
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mimii_jax.report.style import STYLE

_WORDS = re.compile(r"\W*[A-Za-z]")
MARKS = {"▲": ("up", "more, beyond noise"), "▼": ("down", "less, beyond noise")}


@dataclass(frozen=True)
class Table:
    """Cells of text under headings; the first cell of a row is its name."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A PNG file; `alt` says what it shows to those who cannot see it."""

    path: Path
    alt: str
    caption: str


@dataclass(frozen=True)
class Code:
    """A command, or other text in which spaces count."""

    text: str


@dataclass(frozen=True)
class Warned:
    """A paragraph that must not be missed."""

    text: str


Block = str | Table | Picture | Code | Warned


@dataclass(frozen=True)
class Section:
    """A heading, and what stands below it."""

    title: str
    blocks: Sequence[Block]


def page(title: str, lead: Sequence[Block], sections: Sequence[Section]) -> str:
    """The text of a page, with a list of its sections if there are several."""
    names = [f"s{i}" for i in range(len(sections))]
    links = [
        f'<li><a href="#{name}">{escape(section.title)}</a></li>'
        for name, section in zip(names, sections, strict=True)
    ]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>",
        *map(_block, lead),
    ]
    if len(links) > 2:
        parts.append(f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>')
    for name, section in zip(names, sections, strict=True):
        parts.append(f'<section id="{name}"><h2>{escape(section.title)}</h2>')
        parts += [*map(_block, section.blocks), "</section>"]
    return "\n".join([*parts, "</main></body></html>", ""])


def write_page(path: Path, text: str) -> None:
    """Write a page, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        return _picture(block)
    if isinstance(block, Code):
        return f'<pre tabindex="0"><code>{escape(block.text)}</code></pre>'
    if isinstance(block, Warned):
        return f'<p class="warned" role="note">{escape(block.text)}</p>'
    return f"<p>{_text(block)}</p>"


def _table(table: Table) -> str:
    """A table that scrolls within its own box where the screen is narrow."""
    # Columns of words stand to the left, those of numbers to the right.
    kinds = [
        ' class="words"' if any(map(_WORDS.match, column)) else ""
        for column in zip(*table.rows, strict=True)
    ] or [""] * len(table.head)
    head = "".join(
        f'<th scope="col"{kind}>{_text(cell)}</th>' if cell else "<td></td>"
        for cell, kind in zip(table.head, kinds, strict=True)
    )
    rows = [
        f'<tr><th scope="row">{_text(name)}</th>'
        + "".join(
            f"<td{kind}>{_text(cell)}</td>"
            for cell, kind in zip(cells, kinds[1:], strict=True)
        )
        + "</tr>"
        for name, *cells in table.rows
    ]
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in table.notes)
    return (
        f'<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(table.caption)}"><table>'
        f"<caption>{_text(table.caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"{notes}"
    )


def _picture(picture: Picture) -> str:
    """A figure with its file inside the page."""
    data = picture.path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])  # of the PNG header
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return (
        f'<figure><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(picture.caption)}">'
        f'<img src="{source}" width="{width}" height="{height}" '
        # On a phone it is no smaller than its letters can be read at; its box scrolls.
        f'style="--least: {0.6 * width:.0f}px" '
        f'alt="{escape(picture.alt)}"></div>'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
    )


def _text(text: str) -> str:
    """Escaped, with marks that are also read aloud, and `code`."""

    def replace(match: re.Match) -> str:
        name, label = MARKS[match[0]]
        return f'<span class="{name}" role="img" aria-label="{label}">{match[0]}</span>'

    text = re.sub("|".join(MARKS), replace, escape(text))
    return re.sub("`([^`]*)`", r"<code>\1</code>", text)
