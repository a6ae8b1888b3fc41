"""Explain why two versions of a function have different fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FingerprintDiff:
    """Why a version of a function has another fingerprint than an earlier one.

    `explain_fingerprint` describes the parts of a fingerprint.

    Attributes:
        old: The fingerprint of the earlier version. None if there is none.
        new: The fingerprint of the later version.
        changed: The parts that both include, and that differ.
        added: The parts that only the later version includes.
        removed: The parts that only the earlier version included.
        unchanged: The parts that are the same.
    """

    old: str | None
    new: str
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


def explain(
    old: Mapping[str, str] | None, new: Mapping[str, str] | None, names: tuple[str | None, str] = (None, "")
) -> FingerprintDiff:
    """Compare what two fingerprints include: names and digests. None if that was not recorded.

    Args:
        old, new: The parts of each.
        names: The fingerprints, for the result.
    """
    before, after = old or {}, new or {}
    if old is None or new is None:
        return FingerprintDiff(*names, unchanged=tuple(sorted(after)))
    common = sorted(before.keys() & after.keys())
    return FingerprintDiff(
        *names,
        changed=tuple(name for name in common if before[name] != after[name]),
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        unchanged=tuple(name for name in common if before[name] == after[name]),
    )
