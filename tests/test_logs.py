"""Segments of result logs: what was appended is read back verified, a torn end is told from damage, claims exclude."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Storage

from prefect_snapshots.errors import DamagedObject, ObjectMissing, StorageError, StorageFull
from prefect_snapshots.repository.location import Location, open_location
from prefect_snapshots.repository.logs import _HEAD, _MARKER, Claims, SegmentReader, SegmentWriter, new_segment, verify
from prefect_snapshots.repository.sealing import Sealer

STREAM = "5" * 32
PLAIN = Sealer(b"r" * 16)
SECRET = Sealer(b"r" * 16, b"s" * 32)


@pytest.fixture
def location(storage: Storage) -> Location:
    return open_location(storage.url, storage.storage_options)


def write(location: Location, records: list[list[bytes]], *, sealer: Sealer = PLAIN, close: bool = True) -> str:
    writer = SegmentWriter(location, sealer, STREAM, new_segment())
    for number, record in enumerate(records):
        assert writer.append(record) == number
    if close:
        writer.close([b"summary", b"of it"])
    else:
        writer.abandon()
    return writer.segment


def reader(location: Location, segment: str, sealer: Sealer = PLAIN) -> SegmentReader:
    return SegmentReader(location, sealer, STREAM, segment)


def follow(found: SegmentReader) -> list[list[bytes]]:
    return [[bytes(frame) for frame in frames] for _, frames in found.follow()]


RECORDS = [[b"first", b"a" * 3000], [b""], [os.urandom(200_000)], [b"last"]]


@pytest.mark.parametrize("sealer", [PLAIN, SECRET], ids=["plain", "encrypted"])
def test_what_was_written_is_read_back(location: Location, sealer: Sealer) -> None:
    segment = write(location, RECORDS, sealer=sealer)
    found = reader(location, segment, sealer)
    assert [bytes(frame) for frame in found.summary() or ()] == [b"summary", b"of it"]
    assert found.closed
    assert found.records == 4
    assert [[bytes(frame) for frame in frames] for frames in found.read([3, 0, 2])] == [
        RECORDS[3],
        RECORDS[0],
        RECORDS[2],
    ]
    again = reader(location, segment, sealer)
    assert follow(again) == RECORDS
    assert again.closed == location.appends or again.closed


def test_an_open_segment_is_followed_record_by_record(location: Location) -> None:
    writer = SegmentWriter(location, PLAIN, STREAM, new_segment())
    found = reader(location, writer.segment)
    assert found.summary() is None
    assert follow(found) == []
    for record in RECORDS:
        writer.append(record)
        assert follow(found) == [record]
        assert follow(found) == []
    assert not found.closed
    assert [bytes(frames[0]) for frames in found.read([1, 3])] == [b"", b"last"]
    writer.close([b"done"])
    assert follow(found) == []
    late = reader(location, writer.segment)
    assert late.summary() == [b"done"]
    assert late.records == 4


def test_a_segment_without_records_leaves_nothing(location: Location) -> None:
    segment = write(location, [])
    assert reader(location, segment).summary() is None
    assert follow(reader(location, segment)) == []
    assert location.list("logs") == []


def test_a_segment_that_is_gone_is_a_missing_object(location: Location) -> None:
    segment = write(location, RECORDS)
    found = reader(location, segment)
    found.summary()
    location.delete(info.path for info in location.list("logs"))
    with pytest.raises(ObjectMissing):
        list(found.read([0]))


# --- damage ------------------------------------------------------------------------------------------------


def file_of(root: Path, segment: str) -> Path:
    return root / "logs" / STREAM / segment


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("closed")
    return root, write(open_location(root), [[b"a" * 50], [b"b" * 50, b"c"], [b"d"]])


@pytest.fixture(scope="module")
def unclosed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("unclosed")
    return root, write(open_location(root), [[b"a" * 50], [b"b" * 50, b"c"], [b"d"]], close=False)


@given(data=st.data())
def test_every_flipped_bit_of_a_closed_segment_is_an_error_and_never_other_data(
    closed: tuple[Path, str], data: st.DataObject
) -> None:
    root, segment = closed
    path = file_of(root, segment)
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bad)
    try:
        found = reader(open_location(root), segment)
        with pytest.raises(DamagedObject, match=f"logs/{STREAM}/{segment} is damaged"):
            follow(found)
        quick = reader(open_location(root), segment)
        if quick.summary() is not None:
            for number, expected in enumerate([[b"a" * 50], [b"b" * 50, b"c"], [b"d"]]):
                try:
                    [frames] = quick.read([number])
                except DamagedObject:
                    continue
                assert [bytes(frame) for frame in frames] == expected
    finally:
        path.write_bytes(good)


@given(data=st.data())
def test_a_cut_of_an_open_segment_costs_what_was_cut_and_no_more(
    unclosed: tuple[Path, str], data: st.DataObject
) -> None:
    root, segment = unclosed
    path = file_of(root, segment)
    good = path.read_bytes()
    whole = reader(open_location(root), segment)
    follow(whole)
    ends = [*whole._offsets[1:], len(good)]
    cut = data.draw(st.integers(0, len(good)))
    path.write_bytes(good[:cut])
    try:
        records = follow(reader(open_location(root), segment))
        assert len(records) == sum(end <= cut for end in ends)
    finally:
        path.write_bytes(good)


@given(data=st.data())
def test_a_bad_record_with_a_sound_one_behind_it_is_damage(unclosed: tuple[Path, str], data: st.DataObject) -> None:
    root, segment = unclosed
    path = file_of(root, segment)
    good = path.read_bytes()
    whole = reader(open_location(root), segment)
    follow(whole)
    at = data.draw(st.integers(0, whole._offsets[2] - 1))
    bad = bytearray(good)
    bad[at] ^= 255
    path.write_bytes(bad)
    try:
        with pytest.raises(DamagedObject, match="later records are intact"):
            follow(reader(open_location(root), segment))
    finally:
        path.write_bytes(good)


def test_a_broken_record_is_not_followed_for_ever(unclosed: tuple[Path, str]) -> None:
    """Each beginning that is tried may require reading all that follows, and whoever wrote them can write many."""
    root, segment = unclosed
    path = file_of(root, segment)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 255]) + _HEAD.pack(_MARKER, 2**31, 1) * 1001)
    try:
        with pytest.raises(DamagedObject, match="1000 possible records follow"):
            follow(reader(open_location(root), segment))
    finally:
        path.write_bytes(good)


def test_a_missing_object_between_others_is_damage() -> None:
    location = open_location("memory://logs-gap")
    segment = write(location, RECORDS, close=False)
    location.delete([f"logs/{STREAM}/{segment}/00000001"])
    with pytest.raises(DamagedObject, match=r"00000001 is damaged: it is missing, but a later one exists"):
        follow(reader(location, segment))
    location.delete(info.path for info in location.list(""))


def test_a_record_in_another_segment_is_damage(tmp_path: Path) -> None:
    location = open_location(tmp_path)
    one, other = write(location, RECORDS), write(location, RECORDS)
    file_of(tmp_path, one).write_bytes(file_of(tmp_path, other).read_bytes())
    with pytest.raises(DamagedObject):
        verify(location, PLAIN, STREAM, one)
    verify(location, PLAIN, STREAM, other)


def test_an_encrypted_segment_shows_nothing(tmp_path: Path) -> None:
    location = open_location(tmp_path)
    segment = write(location, [[b"a secret that is long enough to be found"]], sealer=SECRET)
    data = file_of(tmp_path, segment).read_bytes()
    assert b"secret" not in data
    assert b"summary" not in data
    with pytest.raises(DamagedObject):
        follow(reader(location, segment, PLAIN))


def test_a_large_segment_is_read_in_pieces(tmp_path: Path) -> None:
    location = open_location(tmp_path)
    records = [[np.full(5_000_000, number, np.uint8).tobytes() + os.urandom(1_000_000)] for number in range(5)]
    segment = write(location, records, close=False)
    assert follow(reader(location, segment)) == records


# --- writing -----------------------------------------------------------------------------------------------


def test_a_record_survives_a_kill_at_once(tmp_path: Path) -> None:
    code = f"""
        import os, signal
        from test_logs import *
        writer = SegmentWriter(open_location({str(tmp_path)!r}), PLAIN, STREAM, "a" * 32)
        writer.append([b"kept"])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=Path(__file__).parent, check=False)
    assert killed.returncode == -9
    assert follow(reader(open_location(tmp_path), "a" * 32)) == [[b"kept"]]


def test_a_full_disk_is_an_error_and_ends_the_segment(small_disk: Path) -> None:
    location = open_location(small_disk)
    writer = SegmentWriter(location, PLAIN, STREAM, new_segment())
    writer.append([b"kept"])
    with pytest.raises(StorageFull):
        writer.append([os.urandom(2_000_000)])
    with pytest.raises(StorageError, match="an earlier write failed"):
        writer.append([b"small"])
    writer.abandon()
    assert follow(reader(location, writer.segment)) == [[b"kept"]]


# --- claims ------------------------------------------------------------------------------------------------


@pytest.fixture
def two(location: Location) -> Iterator[tuple[Claims, Claims]]:
    first, second = Claims(location, STREAM, SECRET), Claims(location, STREAM, SECRET)
    yield first, second
    first.close()
    second.close()


ONE, OTHER = "1" * 32, "2" * 32
BOTH = frozenset({ONE, OTHER})


def test_of_two_claims_one_is_granted(two: tuple[Claims, Claims]) -> None:
    first, second = two
    assert first.take(7, ONE, BOTH)
    assert not second.take(7, OTHER, BOTH)
    assert second.take(8, OTHER, BOTH)


def test_a_claim_of_one_who_has_finished_does_not_count(two: tuple[Claims, Claims]) -> None:
    first, second = two
    assert first.take(7, ONE, BOTH)
    first.close()
    assert second.take(7, OTHER, frozenset({OTHER}))


def test_a_claim_ends_with_its_process_where_files_can_be_locked(tmp_path: Path) -> None:
    code = f"""
        import os, signal
        from test_logs import *
        claims = Claims(open_location({str(tmp_path)!r}), STREAM, SECRET)
        claims.hold(ONE)
        assert claims.take(7, ONE, BOTH)
        print("held", flush=True)
        signal.pause()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=Path(__file__).parent, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        claims = Claims(open_location(tmp_path), STREAM, SECRET)
        assert claims.exact
        assert not claims.take(7, OTHER, BOTH)
        assert claims.is_live(ONE)
        holder.kill()
    assert claims.take(7, OTHER, BOTH)
    assert not claims.is_live(ONE)
    claims.close()


def test_what_is_claimed_shows_in_no_name_of_an_encrypted_repository(memory_storage: Storage) -> None:
    location = open_location(memory_storage.url)
    numbers = [0, 7, 8, 2**40 + 1, 2**62 - 1]
    names: dict[bytes, set[str]] = {}
    for secret in (b"s" * 32, b"t" * 32):
        claims = Claims(location, STREAM, Sealer(b"r" * 16, secret))
        before = {info.path for info in location.list("")}
        for number in numbers:
            assert claims.take(number, ONE, BOTH)
        names[secret] = {info.path.rpartition("/")[2] for info in location.list("") if info.path not in before}
        assert len(names[secret]) == len(numbers)
        assert not any(
            f"{number:x}" == name.lstrip("0").partition("-")[0] for number in numbers for name in names[secret]
        )
    assert names[b"s" * 32].isdisjoint(names[b"t" * 32])
    elsewhere = Sealer(b"r" * 16, b"s" * 32).hidden_number("another stream", 7)
    assert elsewhere != Sealer(b"r" * 16, b"s" * 32).hidden_number(STREAM, 7)
