"""The report on an artifact: its versions, its stages, and who moved them when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ..artifacts import ArtifactInfo, ArtifactRegistry, LineageStep, Release
from ..artifacts.history import Move
from ..documents import Block, Chart, Column, Facts, Graph, Step, Table, Timeline
from ..documents.texts import Kind, Link, Value, metadata_text
from ..repository.descriptions import NOTHING
from ..repository.provenance import MadeBy, Origin

_NODES = 20
"""How many versions the picture of a lineage shows, beside the one that it is about."""
_DRAWN = 60
"""How many of the latest versions a chart shows: more bars would be thinner than a pixel on a page of Prefect."""


def about_version(info: ArtifactInfo) -> dict[str, tuple[Value, Kind]]:
    """Return the facts of one version."""
    source = info.source or {}
    origin = source.get("snapshot") or source.get("version")
    return {
        "handler": (info.handler or "files", "text"),
        "size": (info.size, "bytes"),
        "written": (info.written, "bytes"),
        "from": (f"{origin} of {source.get('name')} in {source.get('url')}" if origin else None, "name"),
        "expires (UTC)": (info.expiry, "time"),
        **_made_by(info.made_by),
        "tags": (", ".join(info.tags) or None, "text"),
        "description": (info.description or None, "text"),
        **{f"metadata {key}": (str(value), "text") for key, value in info.metadata.items()},
    }


def _made_by(made_by: MadeBy | None) -> dict[str, tuple[Value, Kind]]:
    if made_by is None:
        return {}
    return {
        "flow run": (f"{made_by.flow_run} of {made_by.flow}", "text"),
        "commit": (None if made_by.git is None else str(made_by.git), "name"),
    }


def about_lineage(
    info: ArtifactInfo, steps: Sequence[LineageStep], link: Callable[[LineageStep], str | None], listed: int
) -> Iterator[Block]:
    """Describe what a version was made from, and what was made from it.

    Args:
        info: The version.
        steps: Its lineage.
        link: A function that returns the URL of the page about a step, or None.
        listed: The most rows of each table.
    """
    if steps:
        yield _graph(info, steps)
    columns = Column("step", "number"), Column("kind"), Column("name"), Column("version", "name"), Column("flow run")
    for title, side in ("Made from", -1), ("Used by", 1):
        rows = [step for step in steps if step.distance * side > 0]
        rows.sort(key=lambda step: abs(step.distance))
        yield Table(
            title,
            (*columns, Column("repository")),
            tuple(
                (
                    abs(step.distance),
                    step.kind,
                    Link(step.name, url) if (url := link(step)) else step.name,
                    step.version,
                    step.flow_run,
                    step.repository,
                )
                for step in rows[:listed]
            ),
            len(rows),
        )


def _graph(info: ArtifactInfo, steps: Sequence[LineageStep]) -> Graph:
    """Return the lineage as a picture: of the nearest steps, as many as a page can show."""
    start = Origin("artifacts", f"{info.collection}/{info.name}", info.version)
    near = sorted(steps, key=lambda step: abs(step.distance))[:_NODES]
    made_from = {step.origin: step.made_from for step in near}
    made_from[start] = tuple(step.origin for step in near if step.distance == -1)
    distances = sorted({0, *(step.distance for step in near)})
    layers = [[start] if not at else [step.origin for step in near if step.distance == at] for at in distances]
    places = {one: (layer, at) for layer, nodes in enumerate(layers) for at, one in enumerate(nodes)}
    edges = [
        (places[origin], place)
        for one, place in places.items()
        for origin in made_from[one]
        if origin in places and places[origin][0] < place[0]
    ]
    nodes = tuple(tuple((one.name, one.version) for one in layer) for layer in layers)
    return Graph("Lineage", nodes, tuple(edges), places[start])


def about_artifact(registry: ArtifactRegistry, name: str, collection: str, listed: int) -> Iterator[Block]:
    """Describe the versions of an artifact, and its timeline.

    Args:
        registry: The registry that has the artifact.
        name: The name of the artifact.
        collection: The collection that it belongs to.
        listed: The most rows of the table of versions and of the timeline, newest first.
    """
    versions = registry.list_versions(name, collection)
    moves = registry.get_alias_history(name, collection=collection)
    stages = registry.get_aliases(name, collection)
    about = registry.get_description(name, collection) if versions else NOTHING
    facts: Mapping[str, tuple[Value, Kind]] = {
        "description": (about.description or None, "text"),
        "tags": (", ".join(about.tags) or None, "text"),
        "versions": (len(versions), "number"),
        "total stored": (sum(info.written for info in versions), "bytes"),
        **{stage: (version, "name") for stage, version in sorted(stages.items())},
    }
    yield Facts(facts)
    drawn = versions[:_DRAWN][::-1]
    if len(drawn) > 1:
        labels = tuple(info.version for info in drawn)
        yield Chart("Size of each version", "line", "bytes", tuple(info.size for info in drawn), labels)
        yield Chart("Written by each version", "bars", "bytes", tuple(info.written for info in drawn), labels)
    columns = Column("version", "name"), Column("stages"), Column("logged (UTC)", "time"), Column("metadata")
    yield Table(
        "Versions, newest first",
        (*columns, Column("size", "bytes"), Column("written", "bytes")),
        tuple(
            (
                info.version,
                ", ".join(info.aliases),
                info.created_at,
                metadata_text(info.metadata),
                info.size,
                info.written,
            )
            for info in versions[:listed]
        ),
        len(versions),
    )
    steps = sorted([*map(_logged, versions), *map(_moved, moves)], key=lambda step: step.when, reverse=True)
    yield Timeline("Timeline", tuple(steps[:listed]), len(steps))


def about_release(release: Release) -> Iterator[Block]:
    """Describe the versions of a release."""
    yield Facts({"released (UTC)": (release.created_at, "time"), "metadata": (metadata_text(release.metadata), "text")})
    yield Table("Versions", (Column("artifact", "name"), Column("version", "name")), tuple(release.artifacts.items()))


def _logged(info: ArtifactInfo) -> Step:
    origin = info.source or {}
    came = f"from {origin.get('url')}" if origin else ""
    return Step(info.created_at, f"{info.version} logged", came)


def _moved(move: Move) -> Step:
    if move.version is None:
        what = f"{move.alias} deleted"
    elif move.rollback:
        what = f"{move.alias} rolled back to {move.version}"
    else:
        what = f"{move.alias} is now {move.version}"
    was = f", was {move.previous}" if move.previous else ""
    return Step(move.moved_at, what + was, f"by {move.moved_by}")
