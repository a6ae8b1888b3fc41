"""Compare the results of two versions of a function."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .batches import DONE
from .ledger import MISSING, outcomes_of
from .log import Log
from .reading import READ_WINDOW


@dataclass(frozen=True, slots=True)
class CheckpointDiff:
    """How many results of two versions of a function are the same.

    The stored bytes are compared, so nothing is unpickled. Equal objects that are pickled differently count as changed.

    Attributes:
        old: The fingerprint of the old version.
        new: The fingerprint of the new version.
        unchanged: Items with the same result in both versions.
        changed: Items with different results.
        only_old: Items with a result only in the old version.
        only_new: Items with a result only in the new version.
    """

    old: str
    new: str
    unchanged: int
    changed: int
    only_old: int
    only_new: int


def compare(old: Log, new: Log) -> CheckpointDiff:
    """Compare two logs of one name."""
    keys, places = old.ledger.contents()
    done = outcomes_of(places) == DONE
    keys, places = keys[done], places[done]
    unchanged = changed = 0
    for first in range(0, len(keys), READ_WINDOW):
        rows = slice(first, first + READ_WINDOW)
        found = new.find(keys[rows])
        both = (found != MISSING) & (outcomes_of(found) == DONE)
        pairs = zip(old.stored(places[rows][both]), new.stored(found[both]), strict=True)
        same = sum(one == other for one, other in pairs)
        unchanged += same
        changed += int(both.sum()) - same
    only_new = int(np.count_nonzero(outcomes_of(new.ledger.contents()[1]) == DONE)) - unchanged - changed
    return CheckpointDiff(
        old.fingerprint, new.fingerprint, unchanged, changed, len(keys) - unchanged - changed, only_new
    )
