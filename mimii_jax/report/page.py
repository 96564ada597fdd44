"""One self-contained HTML page of tables, pictures and text; no script, no JAX."""

import re
import struct
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

PNG = b"\x89PNG\r\n\x1a\n"
_WORDS = re.compile("[A-Za-z]{3}")
_MARKS = {"▲": ("up", "more, beyond noise"), "▼": ("down", "less, beyond noise")}


@dataclass(frozen=True)
class Table:
    """Cells of text under headings; the first cell of a row is its name."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    @property
    def classes(self) -> list[str]:
        """Class of each column: words are aligned left, numbers right."""
        columns = zip(self.head, *self.rows, strict=True)
        return ["words" if any(map(_WORDS.search, c)) else "" for _, *c in columns]


@dataclass(frozen=True)
class Picture:
    """A PNG file; `alt` describes it to those who can't see it."""

    path: Path
    alt: str
    caption: str

    @property
    def png(self) -> tuple[str, int, int]:
        """Base64 of the file; its width and height in pixels, from the header."""
        content = self.path.read_bytes()
        return b64encode(content).decode(), *struct.unpack(">II", content[16:24])


@dataclass(frozen=True)
class Code:
    """A command, or other text in which spaces count."""

    text: str


@dataclass(frozen=True)
class Callout:
    """A highlighted paragraph."""

    text: str


Block = str | Table | Picture | Code | Callout


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: Sequence[Block]


def page(title: str, lead: Sequence[Block], sections: Sequence[Section]) -> bytes:
    """HTML of a page, in UTF-8; three sections or more get a table of contents."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"marked": _marked, "kind": lambda x: type(x).__name__}
    html = Path(__file__).with_name("template.html").read_text(encoding="utf-8")
    template = environment.from_string(html)
    text = template.render(title=title, lead=lead, sections=sections)
    return text.encode(errors="backslashreplace")  # names may be no UTF-8


def _marked(text: str) -> Markup:
    """Escape; make marks of change readable aloud, and `code` code."""
    html = str(escape(text))
    for mark, (name, label) in _MARKS.items():
        span = f'<span class="{name}" role="img" aria-label="{label}">{mark}</span>'
        html = html.replace(mark, span)
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", html))
