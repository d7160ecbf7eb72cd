"""What a run report is made of, and how it becomes one self-contained HTML file.

Every text may come from a report and is untrusted: the template escapes all of it, JSON inside the page can't end its
script element, and a Content-Security-Policy forbids every request, so that the page can't send anything anywhere.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from raymedlt import __version__

ROWS_SHOWN = 500
"""A longer table is cut here; the page says how many rows there are and where all of them lie."""

CONTENT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """A figure that the reader should see first."""

    label: str
    value: str
    hint: str = ""


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class KeyValues:
    """Names and values; a third word in a row is a remark."""

    kind: ClassVar[str] = "key_values"
    rows: Sequence[tuple[str, Any] | tuple[str, Any, str]]
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A table column. `tag` draws a value as a coloured word, `digits` rounds numbers, `wide` is for sentences.

    `tight` keeps a value on one line.
    """

    name: str
    hint: str = ""
    numeric: bool = False
    digits: int = 0
    tag: bool = False
    wide: bool = False
    tight: bool = False

    def show(self, value: Any) -> str:
        """The value as text; nothing for None and NaN."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        return f"{value:,.{self.digits}f}" if self.numeric else str(value)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that can be sorted and filtered; `where` names the file with all rows."""

    kind: ClassVar[str] = "table"
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    where: str = ""
    total: int | None = None

    @property
    def shown(self) -> Sequence[Sequence[Any]]:
        """The rows that fit on the page."""
        return self.rows[:ROWS_SHOWN]

    @property
    def size(self) -> int:
        """Rows there are, on the page or not."""
        return len(self.rows) if self.total is None else self.total


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plotly figure as dictionaries (see figures.py). `height` and `least_width` are in CSS pixels."""

    kind: ClassVar[str] = "figure"
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    caption: str
    height: int = 380
    least_width: int = 0  # a window narrower than this scrolls the figure instead of squeezing it


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A sentence that was added to a text or kept out of it, with its evidence."""

    text: str
    tag: str = ""
    evidence: Sequence[tuple[str, str]] = ()
    refused: bool = False


@dataclass(frozen=True, kw_only=True)
class Example:
    """A text as it was, with sentences that were added or refused."""

    title: str
    original: str
    marked: Sequence[Marked]


@dataclass(frozen=True)
class Examples:
    """Examples, side by side where there is room."""

    kind: ClassVar[str] = "examples"
    examples: Sequence[Example]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG file inside the page. `alt` says in words what it shows; `note` stands under it."""

    png: bytes
    alt: str
    note: str = ""

    @property
    def source(self) -> str:
        """The file as a data: URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Card:
    """Pictures that belong together, side by side; `tag` is a coloured word, `lines` are names and values."""

    title: str
    pictures: Sequence[Picture]
    tag: str = ""
    lines: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Cards of pictures in a grid."""

    kind: ClassVar[str] = "gallery"
    cards: Sequence[Card]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A part of a longer run: a coloured word for its state, figures, and the page that tells more.

    href: relative to the page, or "" where there is no such page yet.
    """

    title: str
    href: str = ""
    tag: str = ""
    text: str = ""
    lines: Sequence[tuple[str, str]] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*)?", self.href):
            raise ValueError(f"a link to {self.href!r}, expected a file below the page's own folder")


@dataclass(frozen=True)
class Steps:
    """Steps in their order, in a grid of cards that lead to their pages."""

    kind: ClassVar[str] = "steps"
    steps: Sequence[Step]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a text. `marks` name how it is drawn; `note` is shown when it is pointed at.

    Marks: same (a dotted line under it), right, partly, wrong (green, yellow, red), missed (a broken line), unsaid
    (pale), plain words in front of pieces (head).
    """

    text: str
    marks: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """An image, if there is one, and texts, side by side: (title, pieces). `tags` are coloured words: (word, mark)."""

    title: str
    texts: Sequence[tuple[str, Sequence[Piece]]]
    picture: Picture | None = None
    tags: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Readings, one under the other, below a legend of what the marks mean."""

    kind: ClassVar[str] = "readings"
    readings: Sequence[Reading]
    legend: Sequence[Piece] = ()


@dataclass(frozen=True)
class Code:
    """Text in a fixed-width face."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Switch:
    """Panels of which one is seen at a time: (label, blocks)."""

    kind: ClassVar[str] = "switch"
    panels: Sequence[tuple[str, Sequence[Block]]]


Block = Paragraph | KeyValues | Table | Figure | Examples | Gallery | Steps | Readings | Code | Switch


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of the page."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """The name that the table of contents links to."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A run report.

    verdict: the outcome in one sentence. resume: the command that goes on with the run. about: a line under the title.
    """

    title: str
    verdict: str
    key_figures: Sequence[KeyFigure] = ()
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()
    config_hash: str = ""
    resume: str = ""
    about: str = ""
    version: str = field(default=__version__)


def render(page: Page) -> str:
    """One HTML file; about 5 MB when it holds a figure (plotly's script is inlined once), else a few kB.

    Raises:
        ValueError: two sections have the same title.
    """
    import jinja2
    from markupsafe import Markup

    anchors = [section.anchor for section in page.sections]
    if len(set(anchors)) != len(anchors):
        raise ValueError("two sections of a page have the same title")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure_json"] = lambda figure: Markup(figure_json(figure))
    numbers = itertools.count(1)
    return environment.get_template("template.html.j2").render(
        page=page,
        policy=CONTENT_POLICY,
        style=Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8")),
        plotly=Markup(_plotly_script()) if any(_has_figure(section.blocks) for section in page.sections) else "",
        next_number=lambda: next(numbers),
    )


def figure_json(figure: Figure) -> str:
    """A figure's data and layout as JSON that can stand inside a script element."""
    text = json.dumps(plain({"data": figure.data, "layout": figure.layout}), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plain(value: Any) -> Any:
    """`value` in JSON's own types: arrays and NumPy numbers become lists and numbers, NaN and infinity null."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return [plain(inner) for inner in value]
    return plain(value.tolist())


def _has_figure(blocks: Sequence[Block]) -> bool:
    return any(
        isinstance(block, Figure)
        or (isinstance(block, Switch) and any(_has_figure(panel) for _, panel in block.panels))
        for block in blocks
    )


def _plotly_script() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script
