"""Draw charts and calendars as SVG, as one line of text, and as a sentence.

Colours are CSS variables, so that the same drawing works on light and dark pages. An `image` has its own background,
because it cannot know the colours of the page around it. Nothing is expressed by colour alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from html import escape

from typing_extensions import TypeIs

from .model import Calendar, Chart, Curves, Day, Drawing, Graph, Place
from .texts import Kind, count_text, text_of

LIGHT = {
    "page": "#f7f7f5",
    "card": "#ffffff",
    "ink": "#1d1d1b",
    "soft": "#5c5c57",
    "rule": "#deded9",
    "data": "#0f5fa8",
    "best": "#9a4d00",
    "bad": "#b3261e",
    "curve-0": "#0f5fa8",
    "curve-1": "#9a4d00",
    "curve-2": "#00765a",
    "curve-3": "#8b2f8f",
    "curve-4": "#b3261e",
    "curve-5": "#5c5c57",
}
DARK = {
    "page": "#131518",
    "card": "#1b1e22",
    "ink": "#e9e7e2",
    "soft": "#a9abad",
    "rule": "#34383e",
    "data": "#79b8f2",
    "best": "#f2b45c",
    "bad": "#f5998f",
    "curve-0": "#79b8f2",
    "curve-1": "#f2b45c",
    "curve-2": "#4ecb9f",
    "curve-3": "#e29ae6",
    "curve-4": "#f5998f",
    "curve-5": "#a9abad",
}
"""Text has a contrast of 4.5 to 1 or more on the page and on cards, and shapes of 3 to 1 (WCAG 2.2 AA)."""

STYLE = """
svg.chart text{font:12px system-ui,sans-serif;fill:var(--soft)}
svg.chart .grid{stroke:var(--rule)}
svg.chart .line{fill:none;stroke:var(--data);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
svg.chart .data{fill:var(--data)}
svg.chart .bad{fill:var(--bad)}
svg.chart .going{fill:none;stroke:var(--data);stroke-width:1.5}
svg.chart .none{fill:var(--rule)}
svg.chart .hole{fill:var(--card)}
svg.chart .best{fill:var(--best);stroke:var(--card);stroke-width:2}
svg.chart .node{fill:var(--card);stroke:var(--soft)}
svg.chart .edge{fill:none;stroke:var(--data);stroke-width:1.5}
svg.chart text.best{font-weight:600;stroke:none}
svg.chart text.title{font-weight:600;fill:var(--ink)}
"""
"""The style of the classes in a drawing, for pages that define the variables."""

_DASHES = "none", "7 3", "2 3", "9 3 2 3", "4 4", "12 4"
"""How the lines of a comparison differ, beside their colour."""
MOST_CURVES = len(_DASHES)
"""The most lines that can be told apart in one chart."""

WIDTH = 440
_HEIGHT = 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 22, 26
_CELL = 15
_LINE = 18
"""The height of a row of names below a comparison: that of a line of text, and a gap."""
_ACROSS = 3
"""Nodes side by side in a graph: more would leave too little space for their names."""
_CHARACTER = 6.5, 7.3
"""The width of a character in a node, and of a bold one, as fonts without serifs have it on average."""
_NODE = 42
"""The height of a node of a graph, for two lines of text."""
_BETWEEN = 30
"""The space for edges between two rows of a graph."""
_WEEKS = 26
_POINTS = 200
"""The most points of a line. If there are more, only the extremes of equal parts are drawn."""
_PREFIXES = (1e12, " T"), (1e9, " G"), (1e6, " M")
"""For numbers that are too long for the side of a chart. Above 999 T it is their exponent."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARK = 40


def image(block: Drawing) -> str:
    """Return a self-contained drawing with its title and its own background."""
    height = _height(block) + 30
    style = f":root{{{variables(LIGHT)}}}@media(prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}{STYLE}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" width="{WIDTH + 20}" height="{height + 8}" '
        f'viewBox="-10 -30 {WIDTH + 20} {height + 8}"><style>{style}</style>'
        f'<rect x="-10" y="-30" width="{WIDTH + 20}" height="{height + 8}" rx="8" style="fill:var(--card)"/>'
        f'<text class="title" x="4" y="-8">{_text(block.title)}</text>{_shapes(block)}</svg>'
    )


def inline(block: Drawing) -> str:
    """Return a drawing for a page that defines the variables and includes the style."""
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {_height(block)}" role="img" aria-label="{_text(describe(block))}">'
        f"{_shapes(block)}</svg>"
    )


def variables(colours: dict[str, str]) -> str:
    """Return colours as CSS variables."""
    return ";".join(f"--{name}:{colour}" for name, colour in colours.items())


def describe(block: Drawing) -> str:
    """Describe a drawing in one sentence."""
    if isinstance(block, Calendar):
        counts = Counter(block.days.values())
        parts = [f"{count_text(counts[day], 'day')} {_LEGEND[day]}" for day in _LEGEND if counts[day]]
        return f"{block.title}: {', '.join(parts)}, from {min(block.days)} to {max(block.days)}"
    if isinstance(block, Curves):
        lines = (f"{name} {endpoints(points, block.kind)}" for name, points in block.curves.items())
        return f"{block.title} by {block.across}: {'; '.join(lines)}"
    if isinstance(block, Graph):
        nodes = (tuple(" ".join(block.layers[layer][at]) for layer, at in edge) for edge in block.edges)
        return f"{block.title}: {'; '.join(f'{result} from {origin}' for origin, result in nodes)}"
    there = [value for value in block.values if _finite(value)]
    if not there:
        return f"{block.title}: no values"
    first, last = (text_of(value, block.kind) for value in (there[0], there[-1]))
    return f"{block.title}: {count_text(len(there), 'value')}, first {first}, last {last}, {extremes(block)}"


def endpoints(points: Sequence[tuple[float, float]], kind: Kind) -> str:
    """Return the first and the last value of a line, as a string."""
    return f"from {text_of(points[0][1], kind)} to {text_of(points[-1][1], kind)}"


def extremes(chart: Chart) -> str:
    """Return the lowest, the highest and the best value of a chart, as a string."""
    there = [value for value in chart.values if _finite(value)]
    if not there:
        return ""
    best = ""
    if chart.marked is not None:
        best = f", best {text_of(chart.values[chart.marked], chart.kind)} at {chart.labels[chart.marked]}"
    return f"lowest {text_of(min(there), chart.kind)}, highest {text_of(max(there), chart.kind)}{best}"


def sparkline(values: Sequence[float | None]) -> str:
    """Draw values in one line of text, with at most 40 characters.

    Example:
        >>> sparkline([1, 2, 4, 8])
        '▁▂▄█'
    """
    groups = [_mean(part) for part in _parts(values, _SPARK)]
    there = [value for value in groups if value is not None]
    if not there:
        return ""
    low, span = min(there), max(there) - min(there) or 1.0
    return "".join(" " if one is None else _BLOCKS[round((one - low) / span * 7)] for one in groups)


# --- drawing ----------------------------------------------------------------------------------------------------------


def _height(block: Drawing) -> int:
    if isinstance(block, Curves):
        return _HEIGHT + _LINE * math.ceil(len(block.curves) / 2)
    if isinstance(block, Graph):
        rows = sum(math.ceil(len(layer) / _ACROSS) for layer in block.layers)
        return rows * (_NODE + _BETWEEN) - _BETWEEN + 8
    return _HEIGHT if isinstance(block, Chart) else 7 * _CELL + 48


def _shapes(block: Drawing) -> str:
    match block:
        case Chart():
            return "".join(_chart(block))
        case Curves():
            return "".join(_curves(block))
        case Calendar():
            return "".join(_calendar(block))
        case Graph():
            return "".join(_graph(block))


def _chart(chart: Chart) -> Iterator[str]:
    there = [value for value in chart.values if _finite(value)]
    if not there:
        return
    # Of a size, everybody takes the lower end of the axis for zero.
    y, ticks = _scale(min(there) if chart.form == "line" and chart.kind != "bytes" else 0.0, max(there))
    yield from _frame(y, ticks, chart.kind, chart.labels[0], chart.labels[-1] if len(chart.labels) > 1 else "")
    floor, room = _HEIGHT - _BOTTOM, WIDTH - _LEFT - _RIGHT
    if chart.form == "bars":
        step = room / len(chart.values)
        for at, value in enumerate(chart.values):
            wide = min(0.8 * step, 40)
            left = _LEFT + (at + 0.5) * step - wide / 2
            for name, height in (("data", value), ("bad", chart.failed[at] if chart.failed else None)):
                if _finite(height) and height:
                    top = y(height)
                    shape = f'x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{floor - top:.1f}"'
                    yield f'<rect class="{name}" {shape}/>'
        return

    def x_of(at: int) -> float:
        return _LEFT + (at / (len(chart.values) - 1) if len(chart.values) > 1 else 0.5) * room

    runs: list[list[str]] = [[]]
    for at in _thinned(chart.values):
        value = chart.values[at]
        if _finite(value):
            runs[-1].append(f"{x_of(at):.1f},{y(value):.1f}")
        elif runs[-1]:
            runs.append([])
    for run in runs:
        if len(run) > 1:
            yield f'<polyline class="line" points="{" ".join(run)}"/>'
        elif run:
            across, down = run[0].split(",")
            yield f'<circle class="data" cx="{across}" cy="{down}" r="3"/>'
    if chart.marked is not None and _finite(value := chart.values[chart.marked]):
        x = x_of(chart.marked)
        anchor = "start" if x < _LEFT + room / 4 else "end" if x > _LEFT + 3 * room / 4 else "middle"
        yield f'<circle class="best" cx="{x:.1f}" cy="{y(value):.1f}" r="5"/>'
        above = y(value) - 10 if y(value) > _TOP + 8 else y(value) + 19
        place = f'x="{x:.1f}" y="{above:.1f}" text-anchor="{anchor}"'
        yield f'<text class="best" {place}>best {_short(value, chart.kind)}</text>'


def _curves(block: Curves) -> Iterator[str]:
    points = [point for curve in block.curves.values() for point in curve]
    if not points:
        return
    across, values = [point[0] for point in points], [point[1] for point in points]
    y, ticks = _scale(min(values), max(values))
    first, last = min(across), max(across)
    yield from _frame(y, ticks, block.kind, f"{block.across} {_short(first, 'number')}", _short(last, "number"))
    room = WIDTH - _LEFT - _RIGHT
    for at, (name, curve) in enumerate(block.curves.items()):
        kept = [curve[each] for each in _thinned([value for _, value in curve])]
        places = [
            (_LEFT + ((x - first) / (last - first) if last > first else 0.5) * room, y(value)) for x, value in kept
        ]
        style = f"stroke:var(--curve-{at});stroke-dasharray:{_DASHES[at]}"
        drawn = " ".join(f"{x:.1f},{down:.1f}" for x, down in places)
        yield f'<polyline class="line" style="{style}" points="{drawn}"/>'
        if len(places) == 1:
            yield f'<circle style="fill:var(--curve-{at})" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3"/>'
        left, top = 8 + at % 2 * WIDTH / 2, _HEIGHT + 6 + at // 2 * _LINE
        yield f'<line class="line" style="{style}" x1="{left}" x2="{left + 28}" y1="{top}" y2="{top}"/>'
        yield f'<text x="{left + 36}" y="{top + 4}">{_text(_cut(name))}</text>'


def _graph(graph: Graph) -> Iterator[str]:
    places: dict[Place, tuple[float, float]] = {}
    row = 0
    for layer, nodes in enumerate(graph.layers):
        for first in range(0, len(nodes), _ACROSS):
            beside = range(first, min(first + _ACROSS, len(nodes)))
            for at in beside:
                x = WIDTH * (at - first + 0.5) / len(beside)
                places[layer, at] = x, 4 + row * (_NODE + _BETWEEN)
            row += 1
    for origin, result in graph.edges:
        (x, y), (to_x, to_y) = places[origin], places[result]
        y += _NODE
        half = (to_y - y) / 2
        yield f'<path class="edge" d="M{x:.1f} {y}C{x:.1f} {y + half} {to_x:.1f} {to_y - half} {to_x:.1f} {to_y}"/>'
        yield f'<path class="data" d="M{to_x:.1f} {to_y}l-4 -7h8z"/>'
    wide = WIDTH / min(_ACROSS, max(2, *map(len, graph.layers))) - 10
    for (layer, at), (x, y) in places.items():
        name, about = graph.layers[layer][at]
        yield f'<rect class="node" x="{x - wide / 2:.1f}" y="{y}" width="{wide:.1f}" height="{_NODE}" rx="6"/>'
        bold = (layer, at) == graph.marked
        title, most = ' class="title"' * bold, int((wide - 12) / _CHARACTER[bold])
        for text, down in ((name, 17), (about, 33)):
            yield f'<text{title} x="{x:.1f}" y="{y + down}" text-anchor="middle">{_text(_cut(text, most))}</text>'


def _scale(least: float, most: float) -> tuple[Callable[[float], float], list[float]]:
    """Return the function from a value to its height in a drawing, and the values of the grid."""
    low, high, ticks = _axis(least, most)
    return lambda value: _TOP + (high - value) / (high - low) * (_HEIGHT - _BOTTOM - _TOP), ticks


def _frame(
    y: Callable[[float], float], ticks: Sequence[float], kind: Kind, first: str, last: str = ""
) -> Iterator[str]:
    """Yield the grid of a chart, with what is written at it: the values, and the two ends of the horizontal axis."""
    for tick in ticks:
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{_short(tick, kind)}</text>'
    yield f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{_text(_cut(first))}</text>'
    if last:
        yield f'<text x="{WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{_text(_cut(last))}</text>'


_LEGEND: dict[Day, str] = {"kept": "kept", "pinned": "pinned", "going": "will be deleted", "failed": "failed"}


def _calendar(calendar: Calendar) -> Iterator[str]:
    last = max(calendar.days)
    monday = last - timedelta(days=last.weekday())
    begin = max(monday - timedelta(weeks=_WEEKS - 1), min(calendar.days) - timedelta(days=min(calendar.days).weekday()))
    # A short history still covers a quarter of a year, or the calendar would be too small.
    begin = min(begin, monday - timedelta(weeks=12))
    for row, name in ((0, "Mon"), (2, "Wed"), (4, "Fri")):
        yield f'<text x="0" y="{32 + row * _CELL}">{name}</text>'
    weeks = (monday - begin).days // 7 + 1
    before = ""
    for week in range(weeks):
        first = begin + timedelta(weeks=week)
        x = 36 + week * _CELL
        month = f"{first:%b}"
        # The month in which it begins may end too soon for a name before that of the next one.
        if month != before and f"{first + timedelta(weeks=2):%b}" == month:
            yield f'<text x="{x}" y="14">{month}</text>'
        before = month
        for row in range(7):
            day = first + timedelta(days=row)
            if day <= last:
                yield _square(x, 21 + row * _CELL, calendar.days.get(day), day)
    x = 36
    for kind, words in _LEGEND.items():
        yield _square(x, 7 * _CELL + 31, kind, None)
        yield f'<text x="{x + 18}" y="{7 * _CELL + 42}">{words}</text>'
        x += 34 + 7 * len(words)


def _square(x: float, y: float, kind: Day | None, day: date | None) -> str:
    title = f"<title>{day}: {_LEGEND[kind]}</title>" if day and kind else ""
    if kind == "going":
        return f'<rect class="going" x="{x + 1}" y="{y + 1}" width="10" height="10" rx="2">{title}</rect>'
    name = "bad" if kind == "failed" else "data" if kind else "none"
    square = f'<rect class="{name}" x="{x}" y="{y}" width="12" height="12" rx="2">{title}</rect>'
    return square + f'<circle class="hole" cx="{x + 6}" cy="{y + 6}" r="2.5"/>' * (kind == "pinned")


def _axis(least: float, most: float) -> tuple[float, float, list[float]]:
    """Return the lowest and the highest value of an axis, and round values between them."""
    span = (most - least) or abs(most) or 1.0
    rough = span / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(least / step), math.ceil(most / step)
    last += first == last
    return first * step, last * step, [number * step for number in range(first, last + 1)]


def _short(value: float, kind: Kind) -> str:
    if kind != "number" or 1e4 <= abs(value) < 1e6:
        return text_of(value, kind)
    factor, prefix = next(((each, sign) for each, sign in _PREFIXES if abs(value) >= each), (1.0, ""))
    return f"{value / factor:.4g}{prefix}"


def _text(text: str) -> str:
    return escape(text_of(text, "text"))


def _cut(label: str, most: int = 24) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _thinned(values: Sequence[float | None]) -> list[int]:
    """Return the positions of the values to draw."""
    if len(values) <= _POINTS:
        return list(range(len(values)))
    size = math.ceil(2 * len(values) / _POINTS)
    chosen: set[int] = set()
    for start in range(0, len(values), size):
        part = range(start, min(start + size, len(values)))
        there = [(value, at) for at in part if _finite(value := values[at])]
        chosen |= {min(there)[1], max(there)[1]} if there else {start}
    return sorted(chosen)


def _parts(values: Sequence[float | None], most: int) -> Iterator[Sequence[float | None]]:
    size = math.ceil(len(values) / most) or 1
    return (values[start : start + size] for start in range(0, len(values), size))


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if _finite(value)]
    return sum(there) / len(there) if there else None


def _finite(value: float | None) -> TypeIs[float]:
    return value is not None and math.isfinite(value)
