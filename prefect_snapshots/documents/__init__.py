"""Documents: the content of reports, independent of how they are shown.

A *document* has a title and *blocks*: headings, facts, tables, charts, curves, calendars, timelines and notes. Table
entries and facts are plain values; their *kind* says how to format them. `markdown` renders a document for the Prefect
UI, and `html_page` renders several documents as one self-contained file. Both escape all values, so a value is never
interpreted as markup.

This package knows nothing about repositories or Prefect.
"""

from __future__ import annotations

from .markdown import code, escape, markdown
from .model import (
    Block,
    Calendar,
    Chart,
    Column,
    Curves,
    Day,
    Document,
    Facts,
    Graph,
    Heading,
    Note,
    Place,
    Step,
    Table,
    Timeline,
)
from .page import html_fragment, html_page
from .texts import Link

__all__ = [
    "Block",
    "Calendar",
    "Chart",
    "Column",
    "Curves",
    "Day",
    "Document",
    "Facts",
    "Graph",
    "Heading",
    "Link",
    "Note",
    "Place",
    "Step",
    "Table",
    "Timeline",
    "code",
    "escape",
    "html_fragment",
    "html_page",
    "markdown",
]
