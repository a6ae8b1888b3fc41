"""A chunk that is much like another takes what it differs in; it is read, verified and pruned as any other chunk."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_kind import ToyKind

from prefect_snapshots.repository import Repository
from prefect_snapshots.repository.catalog import Event
from prefect_snapshots.repository.commits import Draft
from prefect_snapshots.repository.contents import Content, Stored, Writer
from prefect_snapshots.repository.deltas import FEATURES, PreviousChunks, similar_stream, sketch
from prefect_snapshots.repository.index import ChunkCopy
from prefect_snapshots.repository.sealing import DELTA, expand_delta, shrink_delta

KEYS = {"plain": None, "encrypted": "correct horse battery staple"}
keys = pytest.mark.parametrize("password", KEYS.values(), ids=KEYS)

NOISE = random.Random(0).randbytes(20_000)
OTHER = random.Random(1).randbytes(20_000)


def change(data: bytes, *places: int) -> bytes:
    """The same, but for one byte at each of these places."""
    changed = bytearray(data)
    for place in places:
        changed[place] ^= 0xFF
    return bytes(changed)


def entry_of(repository: Repository, chunk: bytes) -> ChunkCopy:
    """How a chunk is stored, as a process sees it that opens the repository now."""
    opened = Repository(repository.url).parts() if not repository.parts().sealer.encrypted else repository.parts()
    opened.store.index.load()
    [entry] = opened.store.index.find_all(opened.sealer.chunk_id(chunk))
    return entry


# --- one chunk against another ------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    base=st.one_of(
        st.binary(max_size=3_000), st.integers(0, 300_000).map(lambda size: random.Random(size).randbytes(size))
    ),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    inserted=st.binary(max_size=200),
)
def test_delta_round_trip(base: bytes, cut: tuple[float, float], inserted: bytes) -> None:
    start, end = sorted(int(part * len(base)) for part in cut)
    data = base[:start] + inserted + base[end:]
    delta = shrink_delta(data, base)
    assert expand_delta(len(data), delta, base, "here") == data
    if len(data) > 10_000:
        assert len(delta) < 400 + len(inserted)


@keys
@pytest.mark.parametrize("compression", ["auto", "high", "none"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(places=st.lists(st.integers(0, len(NOISE) - 1), max_size=20), swap=st.booleans())
def test_similar_chunk_is_stored_as_a_delta(
    tmp_path_factory: pytest.TempPathFactory, password: str | None, compression: Any, places: list[int], swap: bool
) -> None:
    place = tmp_path_factory.mktemp("delta")
    toy = ToyKind(Repository(place, password=password, compression=compression))
    toy.put("one", [NOISE, OTHER], like=[NOISE, OTHER])
    body = [change(part, *places) for part in ([OTHER, NOISE] if swap else [NOISE, OTHER])]
    event = toy.put("two", body, like=[OTHER, NOISE] if swap else [NOISE, OTHER])
    assert event.content is not None
    assert event.content.written < 4_000
    again = ToyKind(Repository(place, password=password))
    assert again.get("two") == b"".join(body)
    assert again.repository.check(read_data=True).problems == []


def test_what_is_not_alike_is_stored_whole(tmp_path: Path) -> None:
    toy = ToyKind(Repository(tmp_path / "repository"))
    toy.put("one", [NOISE], chunked=True)
    toy.put("two", [OTHER], like=[NOISE])
    toy.put("three", [NOISE[:10_000] + OTHER[10_000:]], like=[b"never stored"])
    assert entry_of(toy.repository, OTHER).whole
    assert toy.get("two") == OTHER
    assert toy.get("three") == NOISE[:10_000] + OTHER[10_000:]


def test_delta_of_a_delta_is_one_of_its_base(tmp_path: Path) -> None:
    """So that reading takes one step, however many versions there are."""
    toy = ToyKind(Repository(tmp_path / "repository"))
    bodies = [change(NOISE, *range(0, 100 * number, 100)) for number in range(10)]
    toy.put("0", [bodies[0]], chunked=True)
    for number in range(1, 10):
        toy.put(str(number), [bodies[number]], like=[bodies[number - 1]])
        entry = entry_of(toy.repository, bodies[number])
        assert entry.codec == DELTA
        assert entry.bases == (toy.repository.parts().sealer.chunk_id(NOISE),)
    assert [toy.get(str(number)) for number in range(10)] == bodies


def test_new_base_when_the_delta_has_grown(tmp_path: Path) -> None:
    toy = ToyKind(Repository(tmp_path / "repository"))
    body = NOISE
    toy.put("0", [body], chunked=True)
    whole = []
    for number in range(1, 12):
        start = 1_000 * number
        older, body = body, body[:start] + random.Random(number).randbytes(800) + body[start + 800 :]
        toy.put(str(number), [body], like=[older])
        whole.append(entry_of(toy.repository, body).whole)
    assert 1 <= sum(whole) <= 3
    assert not whole[0]
    assert toy.get("11") == body


@keys
def test_other_repository_gets_it_whole(tmp_path: Path, password: str | None) -> None:
    toy = ToyKind(Repository(tmp_path / "repository", password=password))
    toy.put("base", [NOISE], chunked=True)
    toy.put("near", [change(NOISE, 7)], like=[NOISE])
    here, there = ToyKind(toy.repository, "other"), ToyKind(Repository(tmp_path / "other"))
    copied = here.copy(toy, "near", "copy")
    assert copied is not None
    assert written(copied) == 0
    there.copy(toy, "near", "copy")
    assert here.get("copy") == there.get("copy") == change(NOISE, 7)
    assert entry_of(there.repository, change(NOISE, 7)).whole


# --- a stream and its previous version ----------------------------------------------------------------------------


def rows(count: int, changes: int = 0) -> list[bytes]:
    """Rows of a dump, in which some values are changed by each of `changes` transactions."""
    choose = random.Random(0)
    found = [
        b"%d\t%s\t%d.%02d\tactive\n" % (n, choose.randbytes(40).hex().encode(), n % 999, n % 100) for n in range(count)
    ]
    for change in range(changes):
        choose = random.Random(change + 1)
        for number in choose.sample(range(count), count // 100):
            key, text, _, state = found[number].split(b"\t")
            found[number] = b"\t".join((key, text, b"%d.%02d" % (choose.randrange(999), choose.randrange(100)), state))
    return found


def put_dump(toy: ToyKind, name: str, data: bytes, previous: str | None, average: int) -> Event:
    """How a kind keeps a dump: the sketches are its manifest."""
    before = None
    if previous is not None:
        content = toy.repository.read(toy.stream, toy.items[previous])
        sketches = np.frombuffer(content.manifest, "<u8").reshape(-1, FEATURES)
        before = PreviousChunks(content.table["chunk"], sketches)

    def store(writer: Writer) -> Stored:
        sketches: list[Any] = []

        def chunks() -> Any:
            for _, batch in similar_stream([data[:100_001], data[100_001:]], before, sketches, average):
                yield batch

        return writer.store_cut(lambda: np.array(sketches).tobytes(), chunks())

    event = toy.repository.commit(toy.stream, lambda: Draft("put", {"id": name}), store=store)
    assert event is not None
    return event


def written(event: Event) -> int:
    assert isinstance(event.content, Content)
    return event.content.written


@keys
def test_dump_costs_what_changed(tmp_path: Path, password: str | None) -> None:
    """Values here and there, rows that move to the end, rows in one place, and new rows."""
    toy = ToyKind(Repository(tmp_path / "repository", password=password))
    dump = rows(40_000)
    first = written(put_dump(toy, "first", b"".join(dump), None, 64 * 1024))
    moved = set(range(7, len(dump), 100))
    versions = {
        "scattered": rows(40_000, 1),
        "again": rows(40_000, 2),
        "moved": [row for number, row in enumerate(dump) if number not in moved] + [dump[number] for number in moved],
        "gone": [row for number, row in enumerate(dump) if number not in moved],
        "inserted": [*dump[:20000], b"a new row of its own\n", *dump[20000:]],
        "same": dump,
    }
    costs = {}
    for name, version in versions.items():
        previous = "scattered" if name == "again" else "first"
        costs[name] = written(put_dump(toy, name, b"".join(version), previous, 64 * 1024)) / first
    assert costs["same"] < 0.001
    assert costs["inserted"] < 0.005
    assert costs["gone"] < 0.02
    assert costs["scattered"] < 0.03
    assert costs["again"] < 0.06
    assert costs["moved"] < 0.1  # the last chunk is stored whole
    for name, version in versions.items():
        assert toy.get(name) == b"".join(version)


def test_sketches_find_what_together_makes_a_chunk() -> None:
    data = random.Random(2).randbytes(600_000)
    chunks = [data[:200_000], data[200_000:400_000], data[400_000:]]
    previous = PreviousChunks(
        np.array([b"%032d" % n for n in range(3)], "V32"), np.array([sketch(chunk) for chunk in chunks])
    )
    assert previous.best(sketch(data[200_000:400_000])) == [1]
    assert sorted(previous.best(sketch(data[300_000:500_000]))) == [1, 2]
    assert previous.like(sketch(data[10_000:150_000])) == (b"%032d" % 0,)
    assert previous.best(sketch(random.Random(3).randbytes(200_000))) == []
    assert previous.best(sketch(b"")) == []


def test_what_all_chunks_have_makes_none_of_them_alike() -> None:
    chunks = [bytes(100_000) + random.Random(number).randbytes(40_000) for number in range(40)]
    previous = PreviousChunks(
        np.array([b"%032d" % n for n in range(40)], "V32"), np.array([sketch(chunk) for chunk in chunks])
    )
    assert previous.best(sketch(bytes(200_000))) == []
    assert previous.best(sketch(chunks[17])) == [17]
