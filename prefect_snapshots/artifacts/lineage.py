"""Lineage: what a version was made from, and what was made from it, as the versions themselves record it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..repository.provenance import MadeBy, Origin
from ..repository.threads import pool
from .history import KIND, NUMBER, ArtifactHistory, StoredVersion, names_of, source_of

SNAPSHOTS = "snapshots"
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
        made_from: What it was made from directly.
    """

    distance: int
    kind: str
    name: str
    version: str
    repository: str | None = None
    flow_run: str | None = None
    made_from: tuple[Origin, ...] = ()

    @property
    def origin(self) -> Origin:
        """The version itself, as others name it in `made_from`."""
        return Origin(self.kind, self.name, self.version, self.repository)


class LineageGraph:
    """The versions of the artifacts and the snapshots of a repository, and what they were made from.

    Streams are read when they are needed: to follow a version to its origins takes only the streams of these.

    Args:
        repository: The id of the repository.
        labels: The labels of all artifacts, such as `default/model`.
        history: A function that returns the history of a label.
        names: All names of snapshots.
        made: A function that returns what is recorded of the runs that saved the snapshots of a name, by id.
    """

    def __init__(
        self,
        repository: str,
        labels: Iterable[str],
        history: Callable[[str], ArtifactHistory],
        names: Iterable[str],
        made: Callable[[str], Mapping[str, MadeBy]],
    ) -> None:
        self._repository = repository
        self._labels = set(labels)
        self._names = set(names)
        self._history = functools.cache(history)
        self._made = functools.cache(made)

    def above(self, label: str, version: str) -> list[LineageStep]:
        """Return what a version was made from: the farthest origin first."""
        found = _walk(Origin(KIND, label, version), self._inputs)
        return [self._step(-distance, one) for distance, one in found][::-1]

    def around(self, label: str, version: str) -> list[LineageStep]:
        """Return the lineage of a version: the farthest origin first, then what was made from it."""
        network = pool("network")
        every = [
            *(
                Origin(KIND, each, one.label)
                for each, history in zip(self._labels, network.map(self._history, self._labels), strict=True)
                for one in history.versions.values()
            ),
            *(
                Origin(SNAPSHOTS, name, snapshot)
                for name, made in zip(self._names, network.map(self._made, self._names), strict=True)
                for snapshot in made
            ),
        ]
        outputs: dict[Origin, list[Origin]] = {}
        for one in sorted(every, key=str):
            for each in self._inputs(one):
                outputs.setdefault(each, []).append(one)
        below = _walk(Origin(KIND, label, version), lambda one: outputs.get(one, ()))
        return [*self.above(label, version), *(self._step(distance, one) for distance, one in below)]

    def _step(self, distance: int, one: Origin) -> LineageStep:
        made_by = self._made_by(one)
        flow_run = None if made_by is None else made_by.flow_run
        inputs = tuple(self._inputs(one))
        return LineageStep(distance, one.kind, one.name, one.version, one.repository, flow_run, inputs)

    def _inputs(self, one: Origin) -> list[Origin]:
        if (version := self._version(one)) is not None:
            return list(dict.fromkeys(map(self._now, self._origins(version))))
        made_by = self._made_by(one)
        return [] if made_by is None else list(dict.fromkeys(map(self._now, made_by.inputs)))

    def _made_by(self, one: Origin) -> MadeBy | None:
        if (version := self._version(one)) is not None:
            return version.made_by
        here = one.kind == SNAPSHOTS and one.repository is None and one.name in self._names
        return self._made(one.name).get(one.version) if here else None

    def _version(self, one: Origin) -> StoredVersion | None:
        """Return a version of an artifact in this repository."""
        if one.kind != KIND or one.repository is not None or one.name not in self._labels:
            return None
        number = NUMBER.fullmatch(one.version)
        found = None if number is None else self._history(one.name).versions.get(int(number[1]))
        return found if found is not None and found.label == one.version else None

    def _origins(self, version: StoredVersion) -> Iterator[Origin]:
        made_by = version.made_by
        yield from () if made_by is None else made_by.inputs
        match source_of(version):
            case {"name": str(name), "snapshot": str(snapshot), "repository": str(there), "url": str(url)}:
                yield Origin(SNAPSHOTS, name, snapshot, None if there == self._repository else url)
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
        while one.kind == KIND and one.repository is None and name in self._labels and name not in seen:
            found = replace(one, name=name)
            renamed_to = self._history(name).renamed_to
            if renamed_to is None or self._version(found) is not None:
                return found
            seen.add(name)
            name = "/".join(names_of(renamed_to))
        return replace(one, name=name)


def _walk(start: Origin, edges: Callable[[Origin], Iterable[Origin]]) -> Iterator[tuple[int, Origin]]:
    """Yield what can be reached, with the number of steps, the nearest first."""
    seen, edge, distance = {start}, [start], 0
    while edge and len(seen) < _STEPS:
        distance += 1
        edge = list(dict.fromkeys(each for one in edge for each in edges(one) if each not in seen))
        seen.update(edge)
        yield from ((distance, each) for each in edge)
