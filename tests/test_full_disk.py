"""A disk that is full to the last byte has a way out: prune and deletes still work, and errors name what helps."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pytest
from toy_kind import ToyKind

from prefect_snapshots import Repository
from prefect_snapshots.errors import StorageFull
from prefect_snapshots.repository.commits import Draft
from prefect_snapshots.repository.contents import Stored, Writer
from prefect_snapshots.repository.reserve import RESERVE

NOISE = random.Random(0).randbytes(2_000_000)
SIZE = 120_000


def part(number: int) -> bytes:
    """Bytes that deduplicate with nothing else."""
    return NOISE[number * SIZE : (number + 1) * SIZE]


def fill(disk: Path, *, leave: int = 0) -> None:
    """Fill the disk to the last byte, or leave some."""
    with contextlib.suppress(OSError), (disk / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    with (disk / "filling").open("rb+") as file:
        file.truncate(max((disk / "filling").stat().st_size - leave, 0))


def with_garbage(disk: Path) -> ToyKind:
    """A repository with one item that lives and three packs that are dead."""
    toy = ToyKind(Repository(disk / "repository"))
    toy.put("kept", [part(0)])
    for number in (1, 2, 3):
        toy.put(f"dead-{number}", [part(number)])
        toy.remove(f"dead-{number}")
    return toy


def test_prune_frees_a_disk_without_a_free_byte(small_disk: Path) -> None:
    with_garbage(small_disk)
    fill(small_disk)
    with pytest.raises(StorageFull, match="prefect-snapshots prune"):
        ToyKind(Repository(small_disk / "repository")).put("new", [part(4)])
    report = Repository(small_disk / "repository").prune(grace=0)
    assert report.packs_deleted == 3
    assert report.bytes_freed >= 3 * SIZE
    toy = ToyKind(Repository(small_disk / "repository"))
    toy.put("new", [part(4)])
    assert (toy.get("kept"), toy.get("new")) == (part(0), part(4))
    assert toy.repository.check(read_data=True).ok


def test_a_delete_and_a_prune_on_a_full_disk(small_disk: Path) -> None:
    """Nothing is dead yet: the delete is what makes it so."""
    toy = ToyKind(Repository(small_disk / "repository"))
    toy.put("kept", [part(0)])
    toy.put("unwanted", [part(1)])
    fill(small_disk)
    toy.remove("unwanted")
    assert Repository(small_disk / "repository").prune(grace=0).packs_deleted == 1
    assert ToyKind(Repository(small_disk / "repository")).get("kept") == part(0)


def test_what_is_dead_goes_before_what_has_to_be_copied(small_disk: Path) -> None:
    """One pack is half garbage, and there is no space for a copy of the rest until the dead ones are gone."""
    toy = ToyKind(Repository(small_disk / "repository"))
    toy.put("base", [part(0)])
    toy.put("both", [part(1), part(2)])
    toy.remove("both")
    toy.put("half", [part(1)])
    for number in (4, 5):
        toy.put(f"dead-{number}", [part(number)])
        toy.remove(f"dead-{number}")
    fill(small_disk)
    report = Repository(small_disk / "repository").prune(grace=0)
    assert report.packs_deleted >= 2
    toy = ToyKind(Repository(small_disk / "repository"))
    assert (toy.get("base"), toy.get("half")) == (part(0), part(1))
    assert toy.repository.check(read_data=True).ok


@pytest.mark.parametrize("reserve", [None, 100_000], ids=["whole reserve", "reserve in part"])
def test_what_cannot_be_copied_is_told_and_waits_for_space(small_disk: Path, reserve: int | None) -> None:
    """Two packs are half garbage. There is no space for a copy of either, then for one at a time."""
    toy = ToyKind(Repository(small_disk / "repository"))
    for number in (0, 2):
        toy.put("both", [part(number), part(number + 1)])
        toy.put(f"half-{number}", [part(number)])
        toy.remove("both")
    if reserve is not None:
        os.truncate(small_disk / "repository" / RESERVE, reserve)
    fill(small_disk)
    report = Repository(small_disk / "repository").prune(grace=0)
    assert (report.packs_deleted, report.packs_not_rewritten) == (0, 2)
    with (small_disk / "filling").open("rb+") as file:
        file.truncate((small_disk / "filling").stat().st_size - SIZE - (200_000 if reserve else 40_000))
    report = Repository(small_disk / "repository").prune(grace=0)
    assert (report.packs_deleted, report.packs_not_rewritten) == (2, 0)
    assert report.bytes_freed > 1.9 * SIZE
    toy = ToyKind(Repository(small_disk / "repository"))
    assert (toy.get("half-0"), toy.get("half-2")) == (part(0), part(2))


def test_a_save_takes_nothing_of_what_is_kept_for_prune(small_disk: Path) -> None:
    """A prune that was killed has given up the reserve, and used some of it: what is left goes to no save."""
    with_garbage(small_disk)
    fill(small_disk)
    (small_disk / "repository" / RESERVE).unlink()
    with (small_disk / "filling").open("ab") as file:
        file.write(bytes(60_000))
    for _ in range(3):
        with pytest.raises(StorageFull, match=r"Nothing was committed\..*prefect-snapshots prune"):
            ToyKind(Repository(small_disk / "repository")).put("small", [b"1"])
    assert Repository(small_disk / "repository").prune(grace=0).packs_deleted == 3


@pytest.mark.parametrize("small_disk", ["3m"], indirect=True)
def test_an_upload_on_its_way_takes_nothing_that_prune_has_freed(small_disk: Path) -> None:
    toy = with_garbage(small_disk)
    reserve = (small_disk / "repository" / RESERVE).stat().st_size

    def store(writer: Writer) -> Stored:
        fill(small_disk)
        os.truncate(small_disk / "repository" / RESERVE, reserve // 2)  # as a prune does that needs some of it
        return writer.store(b"", [part(4)])

    with pytest.raises(StorageFull, match="Nothing was committed"):
        toy.repository.commit(toy.stream, lambda: Draft("put", {"id": "large"}), store=store)
    assert (small_disk / "repository" / RESERVE).stat().st_size == reserve
    assert Repository(small_disk / "repository").prune(grace=0).packs_deleted == 3


@pytest.mark.parametrize("small_disk", ["3m"], indirect=True)
def test_deletes_leave_prune_what_it_needs(small_disk: Path) -> None:
    toy = with_garbage(small_disk)
    for number in range(60):
        toy.put(f"small-{number}", [b"1"])
    fill(small_disk)
    with pytest.raises(StorageFull):
        for number in range(60):
            toy.remove(f"small-{number}")
    assert number > 30
    assert Repository(small_disk / "repository").prune(grace=0).packs_deleted == 3


@pytest.mark.parametrize("small_disk", ["3m"], indirect=True)
def test_there_is_space_for_a_fence_in_every_stream(small_disk: Path) -> None:
    toy = with_garbage(small_disk)
    for number in range(100):
        ToyKind(toy.repository, f"stream-{number}").put("small", [b"1"])
    fill(small_disk)
    # That would take more than it frees, also the next time.
    for _ in range(2):
        used = sum(file.stat().st_size for file in (small_disk / "repository").rglob("*"))
        report = Repository(small_disk / "repository").prune(grace=0)
        assert (report.packs_deleted, report.packs_not_rewritten) == (0, 3)
        assert sum(file.stat().st_size for file in (small_disk / "repository").rglob("*")) <= used
    (small_disk / "filling").unlink()
    toy.put("dead-4", [part(4), part(5)])
    toy.remove("dead-4")
    # So that the reserve is complete.
    ToyKind(Repository(small_disk / "repository"), "stream-0").put("another", [b"1"])
    fill(small_disk)
    # Processes that have just begun know of no stream, and leave as much to prune all the same.
    with pytest.raises(StorageFull):
        for number in range(100):
            ToyKind(Repository(small_disk / "repository"), f"stream-{number}").remove("small")
    assert number > 30
    assert Repository(small_disk / "repository").prune(grace=0).packs_deleted == 4


@pytest.mark.parametrize("leave", [0, 4096, 8192, 16384, 32768, 65536, 131072, 262144])
def test_a_disk_that_is_full_at_any_stage(small_disk: Path, leave: int) -> None:
    """However little is left when prune begins, it ends well or says what helps, and nothing is lost."""
    with_garbage(small_disk)
    (small_disk / "repository" / RESERVE).unlink()
    fill(small_disk, leave=leave)
    try:
        Repository(small_disk / "repository").prune(grace=0)
    except StorageFull:
        assert leave < 131072
    assert ToyKind(Repository(small_disk / "repository", read_only=True)).get("kept") == part(0)
    (small_disk / "filling").unlink()
    Repository(small_disk / "repository").prune(grace=0)
    assert Repository(small_disk / "repository").check(read_data=True).ok
    assert (small_disk / "repository" / RESERVE).exists()


def test_a_save_that_fails_leaves_no_pack_behind(small_disk: Path) -> None:
    toy = ToyKind(Repository(small_disk / "repository"))
    toy.put("kept", [part(0)])
    before = sorted((small_disk / "repository" / "packs").rglob("*"))
    with pytest.raises(StorageFull):
        toy.put("too large", [NOISE])
    packs = [path for path in (small_disk / "repository" / "packs").rglob("*") if path.is_file()]
    assert packs == [path for path in before if path.is_file()]


def test_object_stores_keep_no_reserve() -> None:
    repository = Repository("memory://no-reserve")
    ToyKind(repository).put("one", [b"1"])
    assert not repository.location.size(RESERVE)
