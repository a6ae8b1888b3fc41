"""The names of large chunks that come again are found without hashing them, and those of changed ones never so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefect_snapshots import PyTreeSnapshotManager
from prefect_snapshots.repository import recognition
from prefect_snapshots.repository.packs import PackIds
from prefect_snapshots.repository.recognition import ChunkNames
from prefect_snapshots.repository.sealing import Sealer

SIZE = 2**20


class CountingSealer(Sealer):
    """Counts the chunks that are hashed."""

    hashed = 0

    def chunk_id(self, data: object) -> bytes:
        self.hashed += 1
        return super().chunk_id(data)  # type: ignore[arg-type]


@pytest.fixture
def sealer(monkeypatch: pytest.MonkeyPatch) -> CountingSealer:
    monkeypatch.setattr(ChunkNames, "_measure", lambda names, data: True)
    return CountingSealer(os.urandom(16), None, "auto")


def test_what_was_remembered_is_not_hashed_again(sealer: CountingSealer) -> None:
    names, data = ChunkNames(sealer), os.urandom(SIZE)
    name, code = names.find(data)
    names.remember(data, name, code)
    hashed = sealer.hashed
    assert names.find(bytearray(data))[0] == name
    assert sealer.hashed == hashed


@pytest.mark.parametrize("at", [0, 1, 15, 16, SIZE // 2, SIZE - 17, SIZE - 1])
def test_a_changed_byte_changes_the_name(sealer: CountingSealer, at: int) -> None:
    names, data = ChunkNames(sealer), bytearray(os.urandom(SIZE))
    names.remember(data, *names.find(data))
    for bit in range(8):
        data[at] ^= 1 << bit
        assert names.find(data)[0] == sealer.chunk_id(data)
        data[at] ^= 1 << bit


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_data_that_change_meanwhile_do_not_spoil_what_is_remembered(
    sealer: CountingSealer, monkeypatch: pytest.MonkeyPatch, known: bool, moment: str
) -> None:
    """`moment`: before or after they are hashed."""
    names, data = ChunkNames(sealer), bytearray(os.urandom(SIZE))
    if known:
        other = os.urandom(SIZE)
        names.remember(other, *names.find(other))
    first = bytes(data)
    with monkeypatch.context() as changing:

        def change(_: object = None, hash_it: Any = sealer.chunk_id) -> bytes:
            data[0] ^= moment == "before"
            named: bytes = hash_it(data)
            data[0] ^= moment == "after"
            return named

        changing.setattr(sealer, "chunk_id", change)
        name, code = names.find(data)
    names.remember(data, name, code)
    for each in (first, bytes(data)):
        assert names.find(each)[0] == sealer.chunk_id(each)


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[16:] + data[:16]]
)
def test_a_shorter_longer_or_moved_chunk_has_another_name(sealer: CountingSealer, change: object) -> None:
    names, data = ChunkNames(sealer), bytes(SIZE - 16) + os.urandom(16)
    names.remember(data, *names.find(data))
    other = change(data)  # type: ignore[operator]
    assert names.find(other)[0] == sealer.chunk_id(other)


def test_small_chunks_are_not_remembered(sealer: CountingSealer) -> None:
    names, data = ChunkNames(sealer), os.urandom(recognition._LEAST - 1)
    names.remember(data, *names.find(data))
    names.find(data)
    assert sealer.hashed == 2


def test_nothing_is_remembered_where_it_does_not_pay(sealer: CountingSealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChunkNames, "_measure", lambda names, data: False)
    names, data = ChunkNames(sealer), os.urandom(SIZE)
    for _ in range(2):
        names.remember(data, *names.find(data))
    assert sealer.hashed == 2


def test_memory_is_bounded(sealer: CountingSealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognition, "_MOST", 3)
    names = ChunkNames(sealer)
    for number in range(10):
        data = bytes([number]) * recognition._LEAST
        names.remember(data, *names.find(data))
        assert len(names._names) <= 3


def test_a_tree_that_changes_a_little_is_saved_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the third save on, most chunks are known by their codes."""
    monkeypatch.setattr(ChunkNames, "_measure", lambda names, data: True)
    manager: PyTreeSnapshotManager[dict[str, Any]] = PyTreeSnapshotManager(tmp_path)
    tree: dict[str, Any] = {f"w{number}": np.random.default_rng(number).random(SIZE // 8) for number in range(6)}
    for step in range(5):
        tree["w0"][step * 1000] += 1
        manager.save_snapshot(tree, f"{step}")
        restored = manager.get_snapshot(f"{step}").data
        assert all(np.array_equal(tree[name], restored[name]) for name in tree)
    assert manager.repository is not None
    assert len(manager.repository.parts().store.names._names) == 5


def test_packs_share_folders_and_have_ids_of_their_own() -> None:
    new = PackIds().new
    ids = [new() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {len(one) for one in ids} == {16}
    assert len({one[:1] for one in ids[:256]}) == 1
    assert len({one[:1] for one in ids}) <= 4
