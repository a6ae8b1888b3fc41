"""Render documents as one self-contained HTML file without scripts or requests, for light, dark, print and phones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape

from .charts import DARK, LIGHT, STYLE, inline, variables
from .model import Block, Column, Document, Drawing, Facts, Heading, Note, Table, Timeline
from .texts import Kind, Link, Value, is_numeric, shown_text, text_of

_STYLE = f"""
:root{{color-scheme:light dark;{variables(LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}
@media print{{:root{{color-scheme:light;{variables(LIGHT)};--page:#fff}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif;overflow-wrap:anywhere}}
main,header{{max-width:64rem;margin:auto;padding:0 1.25rem}}
header{{padding-top:2.5rem}}
h1{{font-size:1.75rem;line-height:1.2;margin:0 0 .5rem;letter-spacing:-.01em}}
h2{{font-size:1.35rem;line-height:1.25;margin:0}}
h3{{font-size:1.05rem;margin:2rem 0 .75rem}}
p{{margin:.25rem 0}}
.soft,caption small,dt,.kind,th,.of small,td::before,li.step time{{color:var(--soft)}}
a{{color:var(--data);text-underline-offset:.2em}}
nav ul{{display:flex;flex-wrap:wrap;gap:.35rem 1.25rem;list-style:none;padding:0;margin:1.25rem 0 0}}
section{{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:1.5rem;margin:1.5rem 0}}
.kind{{font-size:.8125rem;letter-spacing:.06em;text-transform:uppercase;margin:0 0 .15rem}}
dl{{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:.9rem 1.25rem;margin:1.1rem 0}}
dt{{font-size:.8125rem}}
dd{{margin:0;font-variant-numeric:tabular-nums}}
dd.number{{font-size:1.25rem;line-height:1.3}}
.charts{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20.5rem),1fr));gap:1.5rem;margin:1.25rem 0}}
figure{{margin:0;max-width:30rem}}
figcaption,caption{{font-weight:600;text-align:left;padding:0 0 .4rem}}
caption small{{font-weight:400;font-size:.8125rem;margin-left:.5rem}}
svg{{display:block;width:100%;height:auto}}
table{{width:100%;border-collapse:collapse;margin:1.5rem 0 0;font-size:.9375rem;font-variant-numeric:tabular-nums}}
th,td{{text-align:left;vertical-align:top;padding:.4rem .75rem .4rem 0;border-bottom:1px solid var(--rule)}}
th{{font-weight:600;font-size:.8125rem}}
tr>:last-child{{padding-right:0}}
.right{{text-align:right;white-space:nowrap}}
time{{white-space:nowrap}}
dd time{{font-size:.9375rem}}
code{{font:.9em ui-monospace,monospace}}
.note{{border-left:3px solid var(--best);padding:.25rem 0 .25rem .75rem;margin:1rem 0}}
ol{{list-style:none;margin:.25rem 0 0;padding:0 0 0 1.1rem;border-left:2px solid var(--rule)}}
.of{{font-weight:600;margin:1.5rem 0 .4rem}}
.of small{{font-weight:400}}
li.step{{position:relative;margin:.7rem 0}}
li.step::before{{content:"";position:absolute;left:-1.5rem;top:.5rem;width:.65rem;height:.65rem;border-radius:50%;background:var(--data)}}
li.step time{{display:block;font-size:.8125rem}}
@media (max-width:40rem){{
main,header{{padding-left:1rem;padding-right:1rem}}
section{{padding:1.1rem}}
table,tbody,tr,td,caption{{display:block}}
thead{{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}}
tr{{border-bottom:1px solid var(--rule);padding:.5rem 0}}
td,td.right{{border:0;padding:.1rem 0;display:flex;justify-content:space-between;gap:1rem;text-align:right}}
td::before{{content:attr(data-title);text-align:left;max-width:45%}}
td>*{{min-width:0}}
td.empty{{display:none}}
}}
@media print{{
body{{font-size:11pt}}
section{{border:0;padding:0;border-radius:0}}
figure,tr,li,dl{{break-inside:avoid}}
h2,h3,caption{{break-after:avoid}}
nav{{display:none}}
}}
{STYLE}"""


def html_page(title: str, documents: Sequence[Document], made_at: datetime) -> str:
    """Render documents as one HTML file.

    Args:
        title: The title of the page.
        documents: The documents. The first one, without a kind, is the introduction.
        made_at: The time to which their content refers.
    """
    parts = [(f"part-{at}", document) for at, document in enumerate(documents) if document.kind]
    links = "".join(f'<li><a href="#{name}">{_text(document.title)}</a></li>' for name, document in parts)
    first = "".join(_body(block for document in documents if not document.kind for block in document.blocks))
    return "\n".join(
        (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline'\">",
            f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
            f"<header><h1>{_text(title)}</h1>",
            f'<p class="soft">As of {_cell(made_at, "time")}. Times are in UTC.</p>{first}',
            f'<nav aria-label="Contents"><ul>{links}</ul></nav></header><main>' if parts else "</header><main>",
            *(_section(name, document) for name, document in parts),
            "</main></body></html>\n",
        )
    )


_FRAGMENT_STYLE = f"""
.prefect-snapshots{{{variables(LIGHT)};color:var(--ink);background:var(--card);padding:.75rem;overflow-wrap:anywhere}}
@media (prefers-color-scheme:dark){{.prefect-snapshots{{{variables(DARK)}}}}}
.prefect-snapshots table{{border-collapse:collapse;font-size:inherit;margin:.75rem 0 0}}
.prefect-snapshots :is(th,td,caption){{text-align:left;padding:.2rem .75rem .2rem 0;color:var(--ink)}}
.prefect-snapshots :is(th,td).right{{text-align:right}}
.prefect-snapshots :is(dt,th){{color:var(--soft);font-weight:400}}
.prefect-snapshots dl{{display:flex;flex-wrap:wrap;gap:.5rem 1.5rem;margin:.5rem 0}}
.prefect-snapshots dd{{margin:0}}
.prefect-snapshots :is(dl>div,figure){{min-width:6rem}}
.prefect-snapshots figure{{display:inline-block;width:26rem;max-width:100%;margin:.5rem 1rem 0 0}}
{STYLE.strip().replace("svg.chart", ".prefect-snapshots svg.chart")}
"""
"""The style of a fragment. Each rule begins with its class, so that it changes nothing else in a notebook."""


def html_fragment(document: Document) -> str:
    """Render a document as HTML that can be put into another page, such as a notebook."""
    body = "".join(_body(iter(document.blocks)))
    head = f"<style>{_FRAGMENT_STYLE}</style><strong>{_text(document.title)}</strong>"
    return f'<div class="prefect-snapshots">{head}{body}</div>'


def _section(name: str, document: Document) -> str:
    head = f'<p class="kind">{_text(document.kind)}</p><h2 id="{name}-title">{_text(document.title)}</h2>'
    body = "".join(_body(iter(document.blocks)))
    return f'<section id="{name}" aria-labelledby="{name}-title">{head}{body}</section>'


def _body(blocks: Iterator[Block]) -> Iterator[str]:
    """Yield the HTML of the blocks. Successive charts are shown side by side if there is space."""
    drawn: list[str] = []
    for block in blocks:
        if isinstance(block, Drawing):
            drawn.append(f"<figure><figcaption>{_text(block.title)}</figcaption>{inline(block)}</figure>")
            continue
        yield from _side_by_side(drawn)
        drawn = []
        yield _plain(block)
    yield from _side_by_side(drawn)


def _side_by_side(drawn: Sequence[str]) -> Iterator[str]:
    if drawn:
        yield f'<div class="charts">{"".join(drawn)}</div>'


def _plain(block: Heading | Facts | Table | Timeline | Note) -> str:
    match block:
        case Heading(text):
            return f"<h3>{_text(text)}</h3>"
        case Note(text):
            return f'<p class="note"><strong>Note:</strong> {_text(text)}</p>'
        case Facts(facts):
            shown = (_fact(word, value, kind) for word, (value, kind) in facts.items() if value not in (None, ""))
            return f"<dl>{''.join(shown)}</dl>"
        case Timeline(title, steps, of):
            items = (
                f'<li class="step">{_cell(step.when, "time")}<strong>{_text(step.what)}</strong>'
                f"{f'<br>{_text(step.about)}' if step.about else ''}</li>"
                for step in steps
            )
            return f'<p class="of">{_titled(title, len(steps), of)}</p><ol>{"".join(items)}</ol>' if steps else ""
        case Table():
            return _table(block) if block.rows else ""


def _fact(word: str, value: Value, kind: Kind) -> str:
    number = ' class="number"' if is_numeric(kind) else ""
    return f"<div><dt>{_text(word)}</dt><dd{number}>{_cell(value, kind)}</dd></div>"


def _table(table: Table) -> str:
    """Return a table. On a phone each row is a card, and the roles keep it a table for screen readers."""
    used = [at for at, _ in enumerate(table.columns) if any(row[at] not in (None, "") for row in table.rows)]
    heads = "".join(
        f'<th scope="col" role="columnheader"{_right(table.columns[at])}>{_text(table.columns[at].title)}</th>'
        for at in used
    )
    rows = (
        f'<tr role="row">{"".join(_table_cell(row[at], table.columns[at]) for at in used)}</tr>' for row in table.rows
    )
    return (
        f'<table role="table"><caption>{_titled(table.title, len(table.rows), table.of)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(rows)}</tbody></table>'
    )


def _table_cell(value: Value, column: Column) -> str:
    names = [name for name, so in (("right", is_numeric(column.kind)), ("empty", value in (None, ""))) if so]
    classes = f' class="{" ".join(names)}"' if names else ""
    return f'<td role="cell" data-title="{_text(column.title)}"{classes}>{_cell(value, column.kind)}</td>'


def _right(column: Column) -> str:
    return ' class="right"' if is_numeric(column.kind) else ""


def _titled(title: str, shown: int, of: int) -> str:
    part = shown_text(shown, of)
    return f"{_text(title)}{f' <small>{part}</small>' if part else ''}"


def _cell(value: Value, kind: Kind) -> str:
    text = _text(text_of(value, kind))
    if isinstance(value, Link) and value.is_safe:
        return f'<a href="{value.url}">{text}</a>'
    if isinstance(value, datetime):
        return f'<time datetime="{value.isoformat()}">{text}</time>'
    return f"<code>{text}</code>" if kind == "name" and text else f"<span>{text}</span>"


def _text(text: str) -> str:
    return escape(text_of(text, "text"))
