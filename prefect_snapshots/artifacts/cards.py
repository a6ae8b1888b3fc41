"""The card of a version: one page of Markdown that says what it is, made from what the version records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..documents import Block, Column, Document, Facts, Table, markdown
from ..documents.texts import Kind, Value
from ..repository.descriptions import Description
from .infos import ArtifactInfo


def card_of(info: ArtifactInfo, about: Description) -> str:
    """Return the card of a version as Markdown.

    The descriptions are Markdown of the user's own, so they are included unchanged. Everything else is escaped.

    Args:
        info: The version.
        about: What is noted about the artifact.
    """
    blocks = markdown(Document(f"{info.name} {info.version}", tuple(_blocks(info, about))))
    title, _, facts = blocks.partition("\n\n")
    texts = [text.strip() for text in (about.description, info.description) if text.strip()]
    # A page of Prefect must not break a size between its number and its unit; a file that people edit may.
    return "\n\n".join([title.replace("## ", "# ", 1), *texts, facts.replace("\N{NO-BREAK SPACE}", " ")])


def _blocks(info: ArtifactInfo, about: Description) -> Iterator[Block]:
    made_by = info.made_by
    facts: dict[str, tuple[Value, Kind]] = {
        "collection": (info.collection, "name"),
        "tags": (", ".join(dict.fromkeys((*about.tags, *info.tags))), "text"),
        "stages": (", ".join(info.aliases), "text"),
        "logged (UTC)": (info.created_at, "time"),
        "expires (UTC)": (info.expiry, "time"),
        "handler": (info.handler or "files", "text"),
        "size": (info.size, "bytes"),
        "needs": (", ".join(f"{package} {version}" for package, version in info.environment.items()), "text"),
    }
    if made_by is not None:
        facts["flow run"] = f"{made_by.flow_run} of {made_by.flow}", "text"
        facts["flow run id"] = made_by.flow_run_id, "name"
        facts["commit"] = (None if made_by.git is None else made_by.git.commit), "name"
        facts["uncommitted changes"] = ("yes" if made_by.git is not None and made_by.git.dirty else None), "text"
    yield Facts(facts)
    inputs = () if made_by is None else made_by.inputs
    yield Table(
        "Made from",
        (Column("kind"), Column("name", "name"), Column("version", "name"), Column("repository")),
        tuple((one.kind, one.name, one.version, one.repository) for one in inputs),
        len(inputs),
    )
    rows = tuple(_flat(info.metadata))
    yield Table("Metrics and other metadata", (Column("key", "name"), Column("value")), rows, len(rows))


def _flat(metadata: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Yield the values of metadata, with the keys of nested dictionaries joined by dots."""
    for key, value in metadata.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
