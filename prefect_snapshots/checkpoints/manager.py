"""Manage the checkpoints in a repository: list, load, report, compare, pin and delete them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from ..arguments import checking_types
from ..documents import Document
from ..errors import CheckpointNotFound, IntegrityError, InvalidArgument, Pinned
from ..messages import hint
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.commits import Draft
from ..repository.times import from_nanoseconds
from ..repository.tracking import TrackedStream, leaving_out_damage
from ..retention import PINNED, CleanupReport, RetentionItem, RetentionPolicy, RetentionRow
from .batches import DONE
from .differences import CheckpointDiff, compare
from .explaining import FingerprintDiff, explain
from .ledger import outcomes_of
from .log import Log
from .metrics import describe, load_metrics, render
from .reading import read_recorded
from .starts import KIND, Starts


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """Information about the results of one version of a function.

    Attributes:
        name: The name of the checkpoints.
        fingerprint: The fingerprint of the function.
        function: The name of the function.
        done: Items with a result.
        failed: Items that failed and have no result.
        segments: The number of stored objects that contain the results.
        started_at: When this version was last started, in UTC.
        pinned: Whether the name is exempt from retention.
        damage: Why the results cannot be read, with `done` and `failed` 0. None if they can be read.
    """

    name: str
    fingerprint: str
    function: str
    done: int
    failed: int
    segments: int
    started_at: datetime
    pinned: bool
    damage: str | None = None


@checking_types
class CheckpointManager:
    """Manage the checkpoints that `Snapper` and `@checkpointed` store in a repository.

    A name has the results of one or more versions of a function. Each version is identified by its fingerprint.
    Wherever a method takes a `fingerprint`, the beginning of one is enough, and None means the version that was started
    last.

    Args:
        repository: A `Repository`, a URL, a path or a block; see `Repository` for the default.

    Example:
        >>> from prefect_snapshots.checkpoints import CheckpointManager, Snapper
        >>> Snapper([1, 2, 3], abs, repository="memory://example-manager", name="numbers").start()
        >>> manager = CheckpointManager("memory://example-manager")
        >>> [(info.name, info.done, info.failed) for info in manager.list_checkpoints()]
        [('numbers', 3, 0)]
        >>> manager.load_checkpoint("numbers")
        [1, 2, 3]
        >>> manager.delete_checkpoint("numbers")
        1
    """

    def __init__(self, repository: RepositoryLike | None = None) -> None:
        self.repository = as_repository(repository)

    def list_names(self) -> list[str]:
        """Return the sorted names that have, or once had, checkpoints."""
        return self.repository.names(KIND)

    def list_checkpoints(self, name: str | None = None) -> list[CheckpointInfo]:
        """Return the info of each version of each function, most recently started first.

        Args:
            name: Only the checkpoints of this name. Default: all names.
        """
        found = []
        for each in self.list_names() if name is None else [name]:
            with leaving_out_damage(f"The checkpoints of {each}", when=name is None):
                found += self._infos(each, self._state(each))
        return sorted(found, key=lambda info: info.started_at, reverse=True)

    def get_checkpoint(self, name: str, fingerprint: str | None = None) -> CheckpointInfo:
        """Return the info of one version of a function, without loading its results.

        Raises:
            CheckpointNotFound: There are no checkpoints with this name and fingerprint.
        """
        state = self._state(name)
        chosen = self._choose(name, state, fingerprint)
        return next(info for info in self._infos(name, state) if info.fingerprint == chosen)

    def load_checkpoint(self, name: str, fingerprint: str | None = None) -> list[Any]:
        """Load every result of one version of a function, in the order of the items when they were computed.

        Raises:
            CheckpointNotFound: There are no checkpoints with this name and fingerprint.
            PickleRefused: A result was stored with pickle, and the repository was opened with `allow_pickle=False`.
            DamagedObject: Stored results are damaged or lost.
        """
        return list(read_recorded(self._log(name, fingerprint)))

    def delete_checkpoint(self, name: str, fingerprint: str | None = None, *, force: bool = False) -> int:
        """Delete the results of a name, so that its items are computed again. The next prune frees their space.

        Args:
            name: The name of the checkpoints.
            fingerprint: Delete only the results of this version of the function. Default: all versions.
            force: Delete them even if the name is pinned.

        Returns:
            The number of deleted segments.

        Raises:
            InvalidArgument: The name is empty.
            CheckpointNotFound: There are no checkpoints with this name and fingerprint. Nothing was deleted.
            Pinned: The name is pinned.
        """
        tracked = self._tracked(name)
        found = self._choose(name, tracked.refresh(), fingerprint)
        chosen = None if fingerprint is None else found

        def refuse_pinned() -> None:
            state = tracked.state
            if state.pinned and not force and state.of(chosen):
                raise Pinned(
                    f"{name!r} is pinned, so nothing was deleted. Run `prefect-snapshots checkpoints unpin`, or "
                    "pass force=True."
                )

        return len(_drop(tracked, lambda one: chosen in (None, one), check=refuse_pinned, all_of_it=chosen is None))

    def pin(self, name: str) -> None:
        """Exempt all results of a name from retention and deletion. Pinning twice changes nothing.

        Raises:
            CheckpointNotFound: There are no checkpoints with this name.
        """
        self._set_pinned(name, True)

    def unpin(self, name: str) -> None:
        """Allow retention and deletion of the results of a name again. Unpinning twice changes nothing.

        Raises:
            CheckpointNotFound: There are no checkpoints with this name.
        """
        self._set_pinned(name, False)

    def cleanup(
        self, policy: RetentionPolicy | None = None, dry_run: bool = False, *, name: str | None = None
    ) -> CleanupReport:
        """Delete the results of versions of functions that a retention policy does not keep.

        The policy is applied to each name separately. The version that was started last and all versions of a pinned
        name are always kept. The next prune frees the space.

        Args:
            policy: The retention policy. The age of a version is the time since its last start.
            dry_run: Only report what would be deleted.
            name: Clean up only this name. Default: all names.

        Returns:
            A report whose rows are called `NAME@FINGERPRINT`.

        Raises:
            InvalidArgument: You passed no policy, or an empty name.
        """
        policy = RetentionPolicy.checked(policy)
        rows: list[RetentionRow] = []
        for each in self.list_names() if name is None else [name]:
            with leaving_out_damage(f"The checkpoints of {each}", when=name is None):
                rows += self._cleanup(each, policy, dry_run)
        return CleanupReport(tuple(rows), tuple(row.name for row in rows if not row.keep), dry_run)

    def _cleanup(self, name: str, policy: RetentionPolicy, dry_run: bool) -> list[RetentionRow]:
        tracked = self._tracked(name)
        decided = policy.plan(_retention_items(name, self._infos(name, tracked.refresh())))
        doomed = {row.name.rpartition("@")[2] for row in decided if not row.keep}
        if doomed and not dry_run:
            _drop(tracked, doomed.__contains__)
        return decided

    def diff(self, name: str, old: str, new: str | None = None) -> CheckpointDiff:
        """Compare the results of two versions of a function, item by item.

        Args:
            name: The name of the checkpoints.
            old: The fingerprint of one version.
            new: The fingerprint of the other version. Default: the version that was started last.

        Raises:
            CheckpointNotFound: There are no checkpoints with this name and fingerprint.
        """
        return compare(self._log(name, old), self._log(name, new))

    def why(self, name: str, old: str | None = None, new: str | None = None) -> FingerprintDiff:
        """Explain why the items of a name were computed again: which code, values and versions have changed.

        Args:
            name: The name of the checkpoints.
            old: The fingerprint of one version. Default: the version that was started before the other one.
            new: The fingerprint of the other version. Default: the version that was started last.

        Returns:
            What changed between the two versions. If there is only one version, what it includes is `unchanged`. All
            are empty if an earlier release recorded nothing about them.

        Raises:
            CheckpointNotFound: There are no checkpoints with this name and fingerprint.

        Example:
            >>> from prefect_snapshots.checkpoints import CheckpointManager, Snapper
            >>> for power in (2, 3):
            ...     Snapper([1, 2], lambda x: x**power, repository="memory://example-why", name="powers").start()
            >>> [change] = CheckpointManager("memory://example-why").why("powers").changed
            >>> change.endswith("<lambda>: power")
            True
        """
        state = self._state(name)
        later = self._choose(name, state, new)
        order = sorted(state.of(None), key=lambda start: start.time)
        known = list(dict.fromkeys(start.fingerprint for start in reversed(order)))
        if old is not None:
            earlier: str | None = self._choose(name, state, old)
        else:
            earlier = next(iter(known[known.index(later) + 1 :]), None)
        return explain(state.parts.get(earlier or ""), state.parts.get(later), (earlier, later))

    def report(
        self, name: str, fingerprint: str | None = None, *, format: Literal["markdown", "json"] = "markdown"
    ) -> str:
        """Report throughput, slow items and failures.

        Args:
            name: The name of the checkpoints.
            fingerprint: The version of the function. Default: the one that was started last.
            format: "markdown", for people, or "json", for programs.

        Raises:
            CheckpointNotFound: There are no checkpoints with this name and fingerprint.
            InvalidArgument: The format is unknown.
        """
        return render(name, load_metrics(self._log(name, fingerprint)), format)

    def describe(self, name: str, fingerprint: str | None = None) -> Document:
        """Return the report as a document that can be shown as Markdown, as HTML or in a terminal.

        Raises:
            CheckpointNotFound: There are no checkpoints with this name and fingerprint.
        """
        return describe(name, load_metrics(self._log(name, fingerprint)))

    def _log(self, name: str, fingerprint: str | None) -> Log:
        return Log(self.repository, name, self._choose(name, self._state(name), fingerprint))

    def _tracked(self, name: str) -> TrackedStream[Starts]:
        if not name:
            raise InvalidArgument("The name of the checkpoints is empty. Pass a name.")
        return TrackedStream(self.repository, KIND, name, Starts())

    def _state(self, name: str) -> Starts:
        return self._tracked(name).refresh()

    def _choose(self, name: str, state: Starts, wanted: str | None) -> str:
        """Return the latest fingerprint, or the one that begins with `wanted`."""
        starts = state.of(None)
        if not starts:
            raise CheckpointNotFound(
                f"{self.repository.url} has no checkpoints of {name!r}. {hint(name, self._in_use())}"
            )
        if wanted is None:
            return max(starts, key=lambda start: start.time).fingerprint
        known_fingerprints = dict.fromkeys(start.fingerprint for start in starts)
        found = [one for one in known_fingerprints if one.startswith(wanted)] if wanted else []
        if len(found) != 1:
            number = "several" if found else "no"
            raise CheckpointNotFound(
                f"{self.repository.url} has {number} checkpoints of {name!r} with the fingerprint {wanted!r}. "
                f"There are: {', '.join(found or known_fingerprints)}."
            )
        return found[0]

    def _in_use(self) -> list[str]:
        """Return the names that have checkpoints, and not those whose checkpoints were all deleted."""
        found = []
        for name in self.list_names():
            with leaving_out_damage(f"The checkpoints of {name}"):
                found += [name] if self._state(name).of(None) else []
        return found

    def _infos(self, name: str, state: Starts) -> list[CheckpointInfo]:
        """Return the versions of one name, most recently started first."""
        infos = []
        for fingerprint in dict.fromkeys(start.fingerprint for start in state.of(None)):
            starts = state.of(fingerprint)
            damage = None
            try:
                outcomes = outcomes_of(Log(self.repository, name, fingerprint).ledger.contents()[1])
            except IntegrityError as error:
                # One damaged version must not hide the others.
                outcomes, damage = np.zeros(0, np.uint8), str(error)
            done = int(np.count_nonzero(outcomes == DONE))
            infos.append(
                CheckpointInfo(
                    name,
                    fingerprint,
                    starts[0].function,
                    done,
                    len(outcomes) - done,
                    len(starts),
                    from_nanoseconds(max(start.time for start in starts)),
                    state.pinned,
                    damage,
                )
            )
        return sorted(infos, key=lambda info: info.started_at, reverse=True)

    def _set_pinned(self, name: str, pinned: bool) -> None:
        tracked = self._tracked(name)

        def draft() -> Draft | None:
            self._choose(name, tracked.state, None)
            return None if tracked.state.pinned == pinned else Draft("pin" if pinned else "unpin", {"pinned": pinned})

        tracked.change(draft)


def _retention_items(name: str, infos: list[CheckpointInfo]) -> list[RetentionItem]:
    return [
        RetentionItem(
            f"{name}@{info.fingerprint}",
            info.started_at,
            exempt=[PINNED] * info.pinned + ["latest"] * (info is infos[0]),
        )
        for info in infos
    ]


def _drop(
    tracked: TrackedStream[Starts],
    unwanted: Callable[[str], bool],
    *,
    check: Callable[[], None] = lambda: None,
    all_of_it: bool = False,
) -> list[str]:
    """Delete the segments of some fingerprints, and return them.

    A running merge is cancelled, too, because it would restore segments that it has already read.
    """
    dropped: list[str] = []

    def draft() -> Draft | None:
        check()
        state = tracked.state
        dropped[:] = [start.segment for start in state.of(None) if unwanted(start.fingerprint)]
        dropped.extend(one for one, owner in state.merging.items() if unwanted(owner))
        # If the name is used again later, it must not start pinned.
        body = {"drops": list(dropped), **({"pinned": False} if all_of_it else {})}
        return Draft("clear", body) if dropped else None

    tracked.change(draft)
    return dropped
