"""Flags and callbacks of another type are refused before anything happens: a string such as "no" counts as true."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prefect_snapshots
from prefect_snapshots.artifacts import Artifact, FileReference
from prefect_snapshots.artifacts.drafts import FolderDraft
from prefect_snapshots.artifacts.wandb_artifact import WandbArtifact
from prefect_snapshots.backups import BackupManager, RecoveryTarget, clean_wal, recover, restore_sqlite
from prefect_snapshots.checkpoints import CheckpointManager
from prefect_snapshots.errors import InvalidArgument

NOT_FLAGS = {"bool": "no", "bool | None": "no", "Progress | None": 5}
BESIDE = [
    Artifact,
    WandbArtifact,
    FileReference,
    FolderDraft,
    CheckpointManager,
    RecoveryTarget,
    clean_wal,
    recover,
    restore_sqlite,
]
"""What is public besides the names of the package."""
RECORDS = {"Backup", "Snapshot"}
"""Callers read these, and do not make them."""


def flags() -> Iterator[tuple[str, Any, inspect.Parameter]]:
    """Each public function, or method with a stand-in for its instance, with each of its flags."""
    named = [getattr(prefect_snapshots, name) for name in prefect_snapshots.__all__]
    for public in [*named, *BESIDE]:
        if not str(getattr(public, "__module__", "")).startswith("prefect_snapshots") or not callable(public):
            continue
        functions: dict[str, Any] = {public.__name__: public} if inspect.isfunction(public) else {}
        if inspect.isclass(public) and not hasattr(public, "model_fields") and public.__name__ not in RECORDS:
            methods = inspect.getmembers(public, inspect.isroutine)
            functions = {f"{public.__name__}.{name}": each for name, each in methods if name[0] != "_"}
            functions[public.__name__] = inspect.getattr_static(public, "__init__")
        for name, function in functions.items():
            if not str(getattr(function, "__module__", "")).startswith("prefect_snapshots"):
                continue
            for each in inspect.signature(function).parameters.values():
                if each.annotation in NOT_FLAGS:
                    yield name, function, each


def refusal(function: Any, **flag: Any) -> str:
    """What a call with this flag alone raises. A check that is not the first thing loses to the missing arguments."""
    try:
        function(**flag)
    except (InvalidArgument, TypeError) as error:
        return str(error)
    return ""


def test_a_flag_of_another_type_is_refused_first() -> None:
    found = {f"{name}({flag.name})": (function, flag) for name, function, flag in flags()}
    assert len(found) > 150
    for name, (function, flag) in found.items():
        assert refusal(function, **{flag.name: NOT_FLAGS[flag.annotation]}).startswith(f"{flag.name} must be "), name


def test_flags_are_checked_in_their_place_too_and_those_of_numpy_count(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    manager = BackupManager(tmp_path / "repository", directories=[tmp_path / "data"])
    with pytest.raises(InvalidArgument, match=r"permanent must be True or False, not 'no'\."):
        manager.create_backup("nightly", "no")  # type: ignore[arg-type]
    assert not (tmp_path / "repository").exists()
    assert manager.create_backup("nightly", np.array([0.1]).max() < 0.2).pinned
