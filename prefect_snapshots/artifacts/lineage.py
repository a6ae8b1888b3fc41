"""Lineage: what a version was made from, and what was made from it, as the versions themselves record it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..repository.provenance import Origin
from .history import KIND, ArtifactHistory, StoredVersion, source_of

_STEPS = 1000
"""The most versions of a lineage: more than anybody reads, and a bound for records that somebody has forged."""


@dataclass(frozen=True, slots=True)
class LineageStep:
    """A version in the lineage of another one.

    Attributes:
        distance: How many steps it is away: -1 for what the version was made from, -2 for what that was made from, and
            1 for what was made from the version.
        kind, name, version, repository: As for `Origin`.
        flow_run: The name of the flow run that made it, if that is recorded.
    """

    distance: int
    kind: str
    name: str
    version: str
    repository: str | None = None
    flow_run: str | None = None


class LineageGraph:
    """The versions of all artifacts of a repository, and what they were made from.

    Args:
        repository: The id of the repository.
        histories: The histories of all artifacts by their label, such as `default/model`.
        renamed: The label that a label leads to, if the artifact was renamed.
    """

    def __init__(self, repository: str, histories: Mapping[str, ArtifactHistory], renamed: Mapping[str, str]) -> None:
        self._repository = repository
        self._histories = histories
        self._renamed = renamed
        self._inputs: dict[Origin, list[Origin]] = {}
        self._outputs: dict[Origin, list[Origin]] = {}
        for label, history in histories.items():
            for version in history.versions.values():
                one = Origin(KIND, label, version.label)
                self._inputs[one] = list(dict.fromkeys(map(self._now, self._origins(version))))
                for each in self._inputs[one]:
                    self._outputs.setdefault(each, []).append(one)

    def around(self, label: str, version: str) -> list[LineageStep]:
        """Return the lineage of a version: the farthest origin first, then what was made from it."""
        start = Origin(KIND, label, version)
        above = [self._step(-distance, one) for distance, one in _walk(start, self._inputs)]
        below = [self._step(distance, one) for distance, one in _walk(start, self._outputs)]
        return above[::-1] + below

    def _step(self, distance: int, one: Origin) -> LineageStep:
        number = int(one.version[1:]) if one in self._inputs else None
        made_by = None if number is None else self._histories[one.name].versions[number].made_by
        flow_run = None if made_by is None else made_by.flow_run
        return LineageStep(distance, one.kind, one.name, one.version, one.repository, flow_run)

    def _origins(self, version: StoredVersion) -> Iterator[Origin]:
        made_by = version.made_by
        yield from () if made_by is None else made_by.inputs
        match source_of(version):
            case {"name": str(name), "snapshot": str(snapshot), "repository": str(there), "url": str(url)}:
                yield Origin("snapshots", name, snapshot, None if there == self._repository else url)
            case {
                "name": str(name),
                "collection": str(collection),
                "version": str(label),
                "repository": str(there),
                "url": str(url),
            }:
                yield Origin(KIND, f"{collection}/{name}", label, None if there == self._repository else url)

    def _now(self, one: Origin) -> Origin:
        """Return a version under the name that its artifact has now."""
        name, seen = one.name, set[str]()
        while one.kind == KIND and one.repository is None and name in self._renamed and name not in seen:
            if self._has(name, one.version):
                break
            seen.add(name)
            name = self._renamed[name]
        return Origin(one.kind, name, one.version, one.repository)

    def _has(self, name: str, version: str) -> bool:
        history = self._histories.get(name)
        return history is not None and any(version == each.label for each in history.versions.values())


def _walk(start: Origin, edges: Mapping[Origin, list[Origin]]) -> Iterator[tuple[int, Origin]]:
    """Yield what can be reached, with the number of steps, the nearest first."""
    seen, edge, distance = {start}, [start], 0
    while edge and len(seen) < _STEPS:
        distance += 1
        edge = list(dict.fromkeys(each for one in edge for each in edges.get(one, ()) if each not in seen))
        seen.update(edge)
        yield from ((distance, each) for each in edge)
