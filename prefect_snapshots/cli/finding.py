"""Find the snapshots that a user means, and suggest similar names if there is none."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import DamagedVersion, IntegrityError, InvalidArgument, SnapshotNotFound
from ..messages import hint
from ..repository import Repository
from ..repository.metadata import finder
from ..repository.names import check_name
from ..snapshots import SnapshotManager
from ..snapshots.backends import Durable, opened_names
from ..snapshots.records import Record
from ..values.manifest import LeafInfo, describe
from ..values.paths import matcher
from .naming import LATEST, choose


@dataclass(frozen=True, slots=True)
class Found:
    """A snapshot: its name, the storage of that name, and its record."""

    name: str
    backend: Durable
    record: Record

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"{self.record.id} of {self.name}"

    @property
    def reference(self) -> dict[str, str]:
        """Its name in documents."""
        return {"name": self.name, "id": self.record.id}

    def manager(self) -> SnapshotManager[Any]:
        """Return the manager of its name, which can change it."""
        return SnapshotManager(self.backend.repository, name=self.name)

    def leaves(self, patterns: Sequence[str] | None = None) -> list[LeafInfo]:
        """Return its leaves, or those that match a pattern, without loading them.

        Raises:
            InvalidArgument: No leaf matches. The message names similar paths.
        """
        with self.naming_damage():
            described = describe(self.backend.content(self.record)[0])
        if not patterns:
            return described
        matches = matcher(patterns)
        chosen = [leaf for leaf in described if matches(leaf.path)]
        if not chosen:
            paths = [leaf.path for leaf in described]
            raise InvalidArgument(f"No leaf of {self.label} matches {patterns[0]!r}. {hint(patterns[0], paths)}")
        return chosen

    @contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Report damage that is found within the block with the name of this snapshot."""
        try:
            yield
        except DamagedVersion:
            raise
        except IntegrityError as error:
            raise DamagedVersion(f"snapshot {self.record.id!r} of {self.name!r}", "", str(error)) from error


def find(
    repository: Repository,
    words: Sequence[str],
    name: str | None,
    *,
    number: int | None = None,
    whole: bool = False,
    otherwise: str = "",
) -> list[Found]:
    """Return the snapshots with these ids, under one name or any.

    Args:
        repository: The repository to look in.
        words: Ids, beginnings of ids, or `latest`. The name may stand in front of them.
        name: The name to look under. Default: the one in front of the ids, or else any.
        number: How many ids there must be. Default: any number.
        whole: Whether only whole ids count.
        otherwise: What else the user may mean who passes a name without an id.

    Raises:
        SnapshotNotFound: An id, or the name, is not known. The message names similar ones.
        InvalidArgument: There are too few or too many ids, several names have the id, several ids begin like it, or it
            is not clear whether the first word is a name or an id.
    """
    known = opened_names(repository)
    if name is not None:
        _check_among(repository, known, name)
    backends = known if name is None else {name: known[name]}
    if name is None and _begins_with_name(words, backends, number):
        name, *words = words
        backends = {name: backends[name]}
    if number is None:
        words = list(dict.fromkeys(words))
    if len(words) != (number or max(1, len(words))):
        wanted = "NAME ID" if number == 1 else "NAME OLD NEW" if number == 2 else "NAME ID..."
        raise InvalidArgument(f"Pass {wanted}. You can leave out the name if no other name has such an id.")
    ids = [each for backend in backends.values() for each in backend.view.by_id]
    for word in words:
        if word in known and not any(each == word if whole else each.startswith(word) for each in ids):
            told = f"There is no snapshot {word!r}: it is a name. Put an id behind it: {word} ID."
            raise SnapshotNotFound(f"{told} {otherwise}".rstrip())
    return [_find(word, backends, whole) for word in words]


def find_all(repository: Repository, words: Sequence[str], name: str | None) -> list[Found]:
    """Return all snapshots of one name.

    Raises:
        SnapshotNotFound: There are none. The message names similar names.
        InvalidArgument: There is not exactly one name.
    """
    names = [*words, *([] if name is None else [name])]
    if len(names) != 1:
        raise InvalidArgument("With --all, pass one NAME and no ids.")
    check_known(repository, names[0])
    backend = Durable(repository, names[0])
    return [Found(names[0], backend, record) for record in backend.view.by_id.values()]


def check_known(repository: Repository, name: str) -> None:
    """Check that there are snapshots under a name.

    Raises:
        InvalidName: It is not a valid name.
        SnapshotNotFound: There are none. The message names similar ones.
    """
    if not Durable(repository, check_name(name)).view.by_id:
        _check_among(repository, opened_names(repository), name)


def _check_among(repository: Repository, known: Collection[str], name: str) -> None:
    if name not in known:
        check_name(name)
        Durable(repository, name)  # raises an error if there is damage
        raise SnapshotNotFound(f"There are no snapshots under the name {name!r}. {hint(name, known)}")


def best_of(ranked: Sequence[Record], key: str) -> str:
    """Return the id of the first snapshot, which is the best one if it has a number to rank by.

    Raises:
        InvalidArgument: None of them has one.
    """
    value = finder(key, None)(ranked[0].metadata)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgument(f"None of these snapshots has a number at {key!r} in its metadata to rank by.")
    return ranked[0].id


def _begins_with_name(words: Sequence[str], backends: dict[str, Durable], number: int | None) -> bool:
    if len(words) < 2 or (number is not None and len(words) != number + 1):
        return False
    holders = [name for name, backend in backends.items() if words[0] in backend.view.by_id]
    if number is None and holders and words[0] in backends:
        raise InvalidArgument(
            f"{words[0]!r} is a name, and also the id of a snapshot of {holders[0]!r}. Pass the name with --name."
        )
    if words[0] not in backends and number is not None:
        raise SnapshotNotFound(f"There are no snapshots under the name {words[0]!r}. {hint(words[0], list(backends))}")
    return words[0] in backends


def _find(wanted: str, backends: dict[str, Durable], whole: bool) -> Found:
    holders = [name for name, backend in backends.items() if wanted in backend.view.by_id]
    if len(holders) > 1:
        raise InvalidArgument(
            f"Several names have a snapshot {wanted!r}: {', '.join(holders)}. Put its name in front of the id."
        )
    if holders:
        backend = backends[holders[0]]
        return Found(holders[0], backend, backend.view.by_id[wanted])
    if wanted == LATEST and len(backends) > 1 and not whole:
        raise InvalidArgument(f"Several names have snapshots: {', '.join(backends)}. Put its name in front of the id.")
    records = [(record, name) for name, backend in backends.items() for record in backend.view.by_id.values()]
    records.sort(key=lambda pair: pair[0].order, reverse=True)
    chosen = choose(wanted, [record.id for record, _ in records], "snapshot", SnapshotNotFound, whole=whole)
    record, name = next(pair for pair in records if pair[0].id == chosen)
    return Found(name, backends[name], record)
