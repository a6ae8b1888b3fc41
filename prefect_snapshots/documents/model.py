"""The parts of a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from .texts import Kind, Value

Day = Literal["kept", "pinned", "going", "failed"]
"""The state of a day in a calendar. If several apply, it is the best one."""


Place = tuple[int, int]
"""A node of a graph: the numbers of its layer, and of its place in the layer."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, and the kind of its values."""

    title: str
    kind: Kind = "text"


@dataclass(frozen=True, slots=True)
class Heading:
    """The heading of a new part of a document."""

    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Labels, each with a value and its kind. A value that is None or an empty string is left out."""

    facts: Mapping[str, tuple[Value, Kind]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values. A column without any value is left out.

    Attributes:
        title: What the rows are.
        of: The total number of rows, if these are only the first ones.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    of: int = 0


@dataclass(frozen=True, slots=True)
class Chart:
    """Values in order, as a line or as bars.

    Attributes:
        title: What the values are.
        kind: The kind of the values.
        values: The values. None, NaN and infinities are gaps.
        labels: A label for each value. The first and the last one are written below the chart.
        failed: For bars, the share of each bar that represents failures.
        marked: The position of the best value.
    """

    title: str
    form: Literal["line", "bars"]
    kind: Kind
    values: tuple[float | None, ...]
    labels: tuple[str, ...]
    failed: tuple[float, ...] = ()
    marked: int | None = None


@dataclass(frozen=True, slots=True)
class Curves:
    """Several lines in one chart, to compare them.

    Attributes:
        title: What the values are.
        across: What the lines run over, such as "epoch".
        kind: The kind of the values.
        curves: The points (across, value) of each line, by its name, with `across` rising. All are finite.
    """

    title: str
    across: str
    kind: Kind
    curves: Mapping[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True, slots=True)
class Calendar:
    """Days on which something happened, week by week."""

    title: str
    days: Mapping[date, Day]


@dataclass(frozen=True, slots=True)
class Graph:
    """What was made from what, from the top to the bottom.

    Attributes:
        title: What it shows.
        layers: The nodes of each layer: a name, and what is written below it.
        edges: Pairs of nodes, from origin to result, each with the numbers of its layer and of its place in the layer.
        marked: The node that the graph is about.
    """

    title: str
    layers: tuple[tuple[tuple[str, str], ...], ...]
    edges: tuple[tuple[Place, Place], ...]
    marked: Place


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened: when (UTC), what, and details."""

    when: datetime
    what: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Steps, the latest first."""

    title: str
    steps: tuple[Step, ...]
    of: int = 0
    """The total number of steps, if these are only the first ones."""


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence that a person should read."""

    text: str


Drawing = Chart | Curves | Calendar | Graph
Block = Heading | Facts | Table | Drawing | Timeline | Note


@dataclass(frozen=True, slots=True)
class Document:
    """A report about one thing.

    Attributes:
        title: The title.
        blocks: The content.
        kind: The kind that it describes, such as "backups". Empty for a summary of several kinds.
    """

    title: str
    blocks: tuple[Block, ...]
    kind: str = ""
