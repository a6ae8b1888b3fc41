"""Whoever can write to a plain repository can forge all of it: no forgery hangs, fills the memory, or hurts others.

What is forged here is authentic: sealed as a writer seals it, in the right place, linked to its predecessor.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from blake3 import blake3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from toy_kind import KIND, ToyKind

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, SnapshotManager, results
from prefect_snapshots.checkpoints import CheckpointManager
from prefect_snapshots.checkpoints.slow import SlowItems
from prefect_snapshots.errors import DamagedObject, IntegrityError, MalformedContent, ObjectMissing, SnapshotsError
from prefect_snapshots.repository.catalog import Event, Root, Stream, _Hint, event_hash, range_path, slot_path
from prefect_snapshots.repository.configuration import parse_config
from prefect_snapshots.repository.contents import TABLE, Content, ContentReader
from prefect_snapshots.repository.index import _SIZE_BITS, BASES_SIZE, RECORD, Index
from prefect_snapshots.repository.logs import SegmentReader, SegmentWriter, dropped, list_objects, unwanted, wanted
from prefect_snapshots.repository.packs import open_pack, pack_path
from prefect_snapshots.repository.sealing import DELTA
from prefect_snapshots.results import ResultLog
from prefect_snapshots.wal import WalArchive

LARGE = np.random.default_rng(0).bytes(100_000)
HUGE = 2**62
encode = msgspec.msgpack.Encoder().encode


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """No test may allocate 3 GB more than there are now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 3 * 1024**3, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository with a victim and somebody else."""
    repository = Repository(tmp_path / "r")
    for name in ("victim", "other"):
        ToyKind(repository, name).put("large", [LARGE, name.encode()], chunked=True)
    return tmp_path / "r"


def forge(place: Path, kind: str, name: str, what: str, body: dict[str, Any], **fields: Any) -> None:
    """Commit an event that no writer of ours makes."""
    stream = Repository(place).stream(kind, name, lambda _: None) if kind else Repository(place).parts().catalog.root
    stream.refresh()
    values = {"epoch": 0, "token": os.urandom(16), "time": 0, "content": None, "deletes": (), **fields}
    event = Event(stream.head + 1, stream._hash, kind=what, body=body, **values)
    path = slot_path(stream.id, event.sequence)
    if kind and stream.head == 0:
        stream._catalog.register(stream)
    assert Repository(place).location.create(path, Repository(place).parts().sealer.seal(path, [encode(event), b""]))


def assert_others_unhurt(place: Path, *, prunes: bool = True) -> list[str]:
    """What others stored can be read, saved again and looked after. Returns what `check` says is wrong."""
    other = ToyKind(Repository(place), "other")
    assert other.get("large") == LARGE + b"other"
    other.put("new", [LARGE[::-1]], overwrite=True, chunked=True)
    report = Repository(place).check(read_data=True)
    if prunes:
        other.remove("new")
        Repository(place).prune(grace=0)
    assert ToyKind(Repository(place), "other").get("large") == LARGE + b"other"
    return [problem.what for problem in report.problems]


def rows(*chunks: tuple[bytes, int]) -> bytes:
    return np.array(list(chunks), TABLE).tobytes()


CONTENTS = {
    "a depth without end": Content(100, 0, HUGE, b"", 0),
    "a negative depth": Content(100, 0, -1, b"", 0),
    "a size without end": Content(2**63 - 1, 0, 1, rows((bytes(32), 4)), 0),
    "a manifest larger than all": Content(10, 11, 1, rows((bytes(32), 10)), 0),
    "a negative manifest": Content(10, -1, 1, rows((bytes(32), 10)), 0),
    "a chunk of 4 GB": Content(2**32 - 1, 5, 1, rows((bytes(32), 2**32 - 1)), 0),
    "a table of 4 GB": Content(2**32 - 1, 5, 2, rows((bytes(32), 2**32 - 1)), 0),
    "half a row": Content(10, 5, 1, rows((bytes(32), 10))[:-1], 0),
    "half a row of tables": Content(10, 5, 3, rows((bytes(32), 10))[:-1], 0),
    "a long table": Content(9, 5, 1, rows(*[(bytes(32), 1)] * 9), 0),
    "a table that adds up to less": Content(11, 5, 1, rows((bytes(32), 10)), 0),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_content_that_makes_no_sense_hurts_its_version_alone(place: Path, content: Content) -> None:
    forge(place, KIND, "victim", "put", {"id": "forged"}, content=content)
    victim = ToyKind(Repository(place), "victim")
    assert victim.get("large") == LARGE + b"victim"
    with pytest.raises(IntegrityError):
        victim.get("forged")
    assert assert_others_unhurt(place, prunes=content.depth != 2)
    victim.remove("forged")
    assert assert_others_unhurt(place) == []


@pytest.mark.parametrize("stored_row", [False, True], ids=["short", "endless"])
def test_a_table_in_chunks_that_makes_no_sense(place: Path, stored_row: bool) -> None:
    """Its chunks are authentic: what they say is not."""
    repository = Repository(place)
    toy = ToyKind(repository, "victim")
    data = rows((bytes(32), 2**32 - 1)) if stored_row else b"no rows"
    toy.put("table", [data], chunked=True)
    chunk = repository.parts().sealer.chunk_id(data)
    toy.remove("table")
    forge(place, KIND, "victim", "put", {"id": "forged"}, content=Content(99, 5, 2, rows((chunk, len(data))), 0))
    with pytest.raises(MalformedContent):
        ToyKind(Repository(place), "victim").get("forged")
    assert assert_others_unhurt(place)


IN_0 = next(key for key in map(str, itertools.count()) if results._number(key) == 0)
"""The key of a large result in the first of the streams that large results share."""

BODIES: list[dict[str, Any]] = [{}, {"id": 7}, {"id": ["x"]}, {"id": "x", "metadata": 3, "tags": 5, "time": "never"}]

KINDS: dict[str, tuple[str, Callable[[Repository, str], Any]]] = {
    "snapshots": ("put", lambda r, name: len(SnapshotManager(r, name=name))),
    "artifacts": ("version", lambda r, name: ArtifactRegistry(r).get_artifact(name)),
    "backups": ("backup", lambda r, name: BackupManager(r, name=name).list_backups()),
    "results": ("put", lambda r, name: ResultLog(r, name).keys()),
    "wal": ("put", lambda r, _: WalArchive(r, "7").list_timelines()),
}


@pytest.mark.parametrize("name", ["000000020000000000000001", "0000000100000000FFFFFFFF", "000000010000000000000001"])
def test_a_file_of_the_wal_that_cannot_be_fetched_closes_no_gap(place: Path, name: str) -> None:
    """Of another timeline, beyond the end of its part of the WAL, or without any bytes."""
    content = None if name.endswith("00000001") and name.startswith("00000001") else Content(100, 0, 0, b"", 0)
    forge(place, "wal", "7/00000001", "put", {"id": name}, content=content)
    with pytest.raises(DamagedObject, match="not a valid event of wal/7/00000001"):
        WalArchive(Repository(place), "7").list_timelines()
    assert_others_unhurt(place)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", BODIES, ids=["empty", "number", "list", "everything"])
def test_a_body_that_makes_no_sense_hurts_its_name_alone(place: Path, kind: str, body: dict[str, Any]) -> None:
    what, look = KINDS[kind]
    name = {"artifacts": "default:victim", "results": "victim/0", "wal": "7/00000001"}.get(kind, "victim")
    forge(place, kind, name, what, body, content=Content(1, 0, 0, b"", 1))
    with contextlib.suppress(SnapshotsError):
        look(Repository(place), "victim")
    SnapshotManager(place, name="own").save_snapshot(1, "one")
    assert SnapshotManager(place, name="own")["one"].data == 1
    assert_others_unhurt(place)


@pytest.mark.parametrize(
    ("kind", "name", "what", "body", "look"),
    [
        ("artifacts", "default:victim", "version", {"id": "v0"}, lambda r: ArtifactRegistry(r).get_artifact("victim")),
        ("wal", "7/00000001", "put", {"id": "../../x"}, lambda r: WalArchive(r, 7).list_files()),
        ("wal", "7/00000001", "put", {"id": "0" * 24, "size": 3 << 20}, lambda r: WalArchive(r, 7).list_files()),
        ("results", "victim", "begin", {"generation": -1}, lambda r: ResultLog(r, "victim").keys()),
        ("results", "victim", "ready", {"generation": None}, lambda r: ResultLog(r, "victim").read("key")),
        ("results", "victim/0", "put", {"key": None}, lambda r: ResultLog(r, "victim").write(IN_0, bytes(70_000))),
        (
            *("checkpoints", "victim", "start", {"fingerprint": [], "segment": "0" * 32}),
            lambda r: CheckpointManager(r).list_checkpoints("victim"),
        ),
    ],
)
def test_an_event_of_wrong_types_is_damage_of_its_name(
    place: Path, kind: str, name: str, what: str, body: dict[str, Any], look: Callable[[Repository], Any]
) -> None:
    forge(place, kind, name, what, body)
    with pytest.raises(IntegrityError):
        look(Repository(place))
    assert_others_unhurt(place)


UNREADABLE: dict[str, Callable[[list[Any]], Any]] = {
    "a body that is no UTF-8": lambda fields: [*fields[:6], {"id": msgspec.Raw(b"\xa3\xed\xa0\x80")}, *fields[7:]],
    "a body that is no dictionary": lambda fields: [*fields[:6], [1], *fields[7:]],
    "a kind that is a number": lambda fields: [*fields[:5], 7, *fields[6:]],
    "a time that is a string": lambda fields: [*fields[:4], "yesterday", *fields[5:]],
    "an epoch that is no number": lambda fields: [*fields[:2], [], *fields[3:]],
    "too few fields": lambda fields: fields[:3],
    "no fields": lambda _: {"a": 1},
    "no MessagePack": lambda _: msgspec.Raw(b"\xc1"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_event_that_nobody_can_decode_hurts_its_name_alone(place: Path, what: str) -> None:
    """Prune goes on, keeps the content that the event names, and puts its fence behind it. Repair ends it."""
    repository = Repository(place)
    victim = ToyKind(repository, "victim")
    kept = victim.put("kept", [LARGE, b"second"], chunked=True)
    victim.remove("kept")
    fields = [victim.stream.head + 1, victim.stream._hash, 0, os.urandom(16), 0, "put", {}, kept.content, ()]
    path = slot_path(victim.stream.id, victim.stream.head + 1)
    frames = [encode(UNREADABLE[what](fields)), b""]
    assert repository.location.create(path, repository.parts().sealer.seal(path, frames))
    [problem] = assert_others_unhurt(place)
    assert problem.startswith("it cannot be read as an event")
    assert repository.location.size(slot_path(victim.stream.id, victim.stream.head + 2))
    uses: list[Callable[[], Any]] = [
        lambda: ToyKind(Repository(place), "victim").get("large"),
        lambda: ToyKind(Repository(place), "victim").put("more", [b"1"]),
        victim.stream.refresh,
    ]
    for use in uses:
        with pytest.raises(DamagedObject, match=path):
            use()
    if len(frames[0]) > 150:
        assert kept.content is not None
        content = Repository(place).read(victim.stream, kept)
        assert content.read(0, content.body_size) == LARGE + b"second"
    Repository(place).repair()
    victim = ToyKind(Repository(place), "victim")
    victim.put("more", [b"1"])
    assert victim.get("large") == LARGE + b"victim"
    assert assert_others_unhurt(place) == []


@pytest.mark.parametrize("what", ["stream", "condemn", "lost", "unknown"])
@pytest.mark.parametrize("body", [{}, {"id": 1, "packs": 2, "hash": HUGE}, {"packs": b"short", "hash": b"short"}])
def test_root_passes_over_what_makes_no_sense(place: Path, what: str, body: dict[str, Any]) -> None:
    forge(place, "", "", what, body)
    assert_others_unhurt(place)


def test_an_epoch_without_end(place: Path) -> None:
    forge(place, KIND, "victim", "put", {"id": "forged"}, epoch=HUGE, content=Content(1, 0, 0, b"", 1))
    with pytest.raises(DamagedObject, match="epoch"):
        ToyKind(Repository(place), "victim").put("more", [LARGE], chunked=True)
    assert_others_unhurt(place)


@pytest.mark.parametrize("drops", [7, [7], [[]], {"a": 1}, "text", None])
@pytest.mark.parametrize("segment", [7, "../../../etc/passwd", "", None, b"x"])
def test_segments_that_make_no_sense(place: Path, drops: Any, segment: Any) -> None:
    forge(place, KIND, "victim", "note", {"drops": drops, "segment": segment})
    assert assert_others_unhurt(place) == []


def test_a_hint_that_promises_too_much(place: Path) -> None:
    repository = Repository(place)
    stream = ToyKind(repository, "other").stream
    path = f"compacted/{stream.id}/hint"
    repository.location.replace(path, repository.parts().sealer.seal(path, [encode(_Hint(HUGE, []))]))
    assert_others_unhurt(place)


@pytest.mark.parametrize("name", ["999999999999", "²", "x" * 200, "1" * 200, "-1", "000000000001.bak"])
@pytest.mark.parametrize("folder", ["catalog/root", "catalog/victim", "index", "packs", "packs/ab", "logs", "logs/x"])
def test_stray_files(place: Path, folder: str, name: str) -> None:
    where = place / folder.replace("victim", ToyKind(Repository(place), "victim").stream.id) / name
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(b"stray")
    assert_others_unhurt(place)


def forged_index(place: Path, records: Any, packs: list[bytes], supersedes: list[Any]) -> str:
    repository = Repository(place)
    name = f"index/0-{os.urandom(16).hex()}"
    frames = [encode([packs, supersedes]), records.tobytes()]
    assert repository.location.create(name, repository.parts().sealer.seal(name, frames))
    return name


@pytest.mark.parametrize(
    ("record", "packs"),
    [
        ((bytes(32), 0, 0, 2**32 - 1, 10), [bytes(16)]),
        ((bytes(32), 0, 0, 10, 2**28 - 1), [bytes(16)]),
        ((bytes(32), 9, 0, 10, 10), [bytes(16)]),
        ((bytes(32), 0, 0, 10, 10), [b"short"]),
    ],
    ids=["4 GB stored", "256 MB", "a pack that is not listed", "a pack that is none"],
)
def test_an_index_that_makes_no_sense(place: Path, record: tuple[Any, ...], packs: list[bytes]) -> None:
    name = forged_index(place, np.array([record], RECORD), packs, [])
    assert len(assert_others_unhurt(place, prunes=False)) == 1
    with pytest.raises(IntegrityError, match=name):
        Repository(place).prune(grace=0)
    Repository(place).repair()
    assert assert_others_unhurt(place) == []


@pytest.mark.parametrize(("codec", "bases"), [(DELTA, b""), (0, bytes(BASES_SIZE))], ids=["missing", "too many"])
def test_an_index_whose_bases_make_no_sense(place: Path, codec: int, bases: bytes) -> None:
    repository = Repository(place)
    name = f"index/0-{os.urandom(16).hex()}"
    record = np.array([(bytes(32), 0, 0, 10, 10 | codec << _SIZE_BITS)], RECORD)
    frames = [encode([[bytes(16)], []]), record.tobytes(), *([bases] if bases else [])]
    repository.location.create(name, repository.parts().sealer.seal(name, frames))
    [problem] = assert_others_unhurt(place, prunes=False)
    assert "bases are missing or too many" in problem


def test_bytes_behind_an_object_are_damage(place: Path) -> None:
    for path in [*(place / "catalog").rglob("0*"), *(place / "index").iterdir()]:
        if path.is_file():
            sound = path.read_bytes()
            path.write_bytes(sound + b"x")
            assert not Repository(place).check().ok, path
            path.write_bytes(sound)
    assert Repository(place).check().ok


def test_an_index_that_points_to_other_places(place: Path) -> None:
    """A chunk is never taken from where its bytes are others, if it is elsewhere, too."""
    index = Repository(place).parts().index
    index.load()
    entry = index.entry_at(0)
    wrong = (entry.chunk, 0, entry.offset + 1, entry.stored, entry.size)
    forged_index(place, np.array([wrong], RECORD), [entry.pack], [])
    assert_others_unhurt(place)


@pytest.mark.parametrize("outside", [None, 100], ids=["both", "inside only"])
@pytest.mark.parametrize("stated", [2**32 - 1, 2**31])
def test_a_frame_that_states_4_gb(place: Path, stated: int, outside: int | None) -> None:
    """It is compressed to a few bytes, and says itself that it is so large."""
    sealer = Repository(place).parts().sealer
    name = f"index/0-{os.urandom(16).hex()}"
    small = zstandard.ZstdCompressor().compress(bytes(100))
    bomb = small[:4] + bytes([0b1000_0000 | 0b0010_0000]) + stated.to_bytes(4, "little") + small[6:]
    whole = bytearray(sealer.seal(name, [b"x"]))
    head = len(bomb).to_bytes(4, "little") + (outside or stated).to_bytes(4, "little") + b"\1"
    bound = sealer._binding(name, whole[:24], 0, head)
    tag = blake3(b"%d\0%b" % (len(bound), bound)).update(bomb).digest(16)
    Repository(place).location.create(name, bytes(whole[:24]) + head + bomb + tag)
    assert len(assert_others_unhurt(place, prunes=False)) == 1


# --- what is no file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["packs/ab", "index", "catalog/root", "compacted/root", "logs/x"])
def test_a_pipe_hangs_nobody(place: Path, folder: str) -> None:
    (place / folder).mkdir(parents=True, exist_ok=True)
    names = {"packs/ab": "ab" * 16, "index": "0-" + "ab" * 16, "catalog/root": "000000000099", "compacted/root": "0-9"}
    os.mkfifo(place / folder / names.get(folder, "y"))
    assert bool(assert_others_unhurt(place, prunes=folder != "index")) == (folder != "logs/x")


def test_a_pipe_in_the_place_of_an_object_is_named(place: Path) -> None:
    victim = ToyKind(Repository(place), "victim").stream
    path = slot_path(victim.id, 1)
    (place / path).unlink()
    os.mkfifo(place / path)
    assert any(path in problem.path for problem in Repository(place).check().problems)
    with pytest.raises(DamagedObject, match="pipe"):
        ToyKind(Repository(place), "victim")
    assert assert_others_unhurt(place, prunes=False)


@pytest.mark.parametrize("folder", ["packs/ab", "index/ab", "logs/ab", "catalog/ab"])
def test_prune_deletes_nothing_behind_a_link(place: Path, tmp_path: Path, folder: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = outside / ("ab" * 16)
    kept.write_bytes(b"precious")
    os.utime(kept, (0, 0))
    (place / folder).parent.mkdir(parents=True, exist_ok=True)
    (place / folder).symlink_to(outside)
    with contextlib.suppress(SnapshotsError):
        Repository(place).prune(grace=0)
    assert kept.read_bytes() == b"precious"


# --- every decoder -------------------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
words = st.sampled_from(["id", "kind", "name", "packs", "hash", "drops", "segment", "version", "alias", "time"])
bodies = st.dictionaries(words | st.text(max_size=4), anything, max_size=5)
numbers = st.sampled_from([0, 1, -1, 2**31, 2**62, 2**63 - 1, -(2**63)]) | st.integers(0, 100)
contents = st.builds(Content, numbers, numbers, numbers, st.binary(max_size=400), numbers)
events = st.builds(
    Event,
    numbers,
    st.binary(max_size=40),
    numbers,
    st.binary(max_size=20),
    numbers,
    st.sampled_from(["put", "stream", "condemn", "lost", "version", "backup", "start", "merged", "annotate"]),
    bodies,
    st.none() | contents,
    st.lists(numbers, max_size=3).map(tuple),
)
frames = st.lists(st.binary(max_size=300) | anything.map(encode) | events.map(encode), max_size=3)
fuzz = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
NESTED = b"\x91" * 100_000 + b"\xc0"
"""A list in a list in a list: deeper than the interpreter's stack."""


@pytest.fixture(scope="module")
def repository() -> Repository:
    one = Repository("memory://hostile-decoders")
    ToyKind(one, "other").put("large", [LARGE], chunked=True)
    return one


def refused(call: Callable[[], Any]) -> None:
    """A decoder may return anything, and raise only that stored data are damaged or missing."""
    with contextlib.suppress(IntegrityError, ObjectMissing):
        call()


@fuzz
@given(data=st.binary(max_size=500))
@example(data=b"PSNP\x01\x00\xff\xff" + bytes(40))
@example(data=b"")
def test_sealed_objects(repository: Repository, data: bytes) -> None:
    sealer = repository.parts().sealer
    refused(lambda: sealer.open("index/x", data))
    refused(lambda: open_pack(sealer, bytes(16), memoryview(data)))
    refused(lambda: parse_config("repository.json", data))


@fuzz
@given(parts=frames)
@example(parts=[NESTED, b""])
@example(parts=[encode([1, b"", 0, b"", 0, "put", {}, [1, 1, HUGE, b"", 0]]), b""])
@example(parts=[])
def test_events_summaries_and_indexes(repository: Repository, parts: Sequence[bytes]) -> None:
    opened = repository.parts()
    stream = Stream(lambda: opened.catalog, KIND, "other", lambda _: None)
    path = slot_path(stream.id, 1)
    refused(lambda: stream.parse(path, opened.sealer.seal(path, parts)))
    path = range_path(stream.id, 0, 0)
    refused(lambda: stream.parse_compacted(path, opened.sealer.seal(path, parts)))
    index = Index(opened.store.location, opened.sealer, read_only=True)
    name = "index/0-" + "ab" * 16
    index._take(name, opened.sealer.seal(name, parts))
    index.look_again()


@fuzz
@given(event=events)
@example(event=Event(1, b"", 0, b"", 0, "lost", {"hash": HUGE}))
@example(event=Event(1, b"", 0, b"", 0, "condemn", {"packs": "text"}))
@example(event=Event(1, b"", 0, b"", 0, "stream", {"id": [], "kind": "a", "name": "b"}))
def test_bodies(repository: Repository, event: Event) -> None:
    Root().apply(event)
    assert len(event_hash(event)) == 32
    dropped([event])
    assert all(len(segment) == 32 for segment in wanted([event]))
    unwanted([], [event], 0.0)


@fuzz
@given(content=contents, offset=numbers, length=st.integers(0, 1000))
@example(content=CONTENTS["a chunk of 4 GB"], offset=0, length=2**32 - 1)
def test_contents(repository: Repository, content: Content, offset: int, length: int) -> None:
    reader = repository.parts().reader
    refused(lambda: ContentReader(reader, content).read(offset, length))
    refused(lambda: ContentReader(reader, content).manifest)
    refused(lambda: ContentReader(reader, content).all_rows())


@fuzz
@given(cut=st.integers(0, 400), data=st.binary(max_size=80), tail=st.binary(max_size=40))
@example(cut=400, data=b"\x89PSLOG\r\n" * 50, tail=b"\x89PSEND\r\n")
@example(cut=400, data=b"", tail=(2**63).to_bytes(8, "little") + b"\x89PSEND\r\n")
def test_segments(tmp_path: Path, cut: int, data: bytes, tail: bytes) -> None:
    repository = Repository(tmp_path / "logs")
    opened = repository.parts(writing=True)
    location, segment = opened.store.location, os.urandom(16).hex()
    writer = SegmentWriter(location, opened.sealer, "s", segment)
    for number in range(3):
        writer.append([b"record %d" % number])
    writer.close([b"summary"])
    file = tmp_path / "logs" / "logs" / "s" / segment
    file.write_bytes(file.read_bytes()[:cut] + data + tail)

    def read() -> None:
        reader = SegmentReader(location, opened.sealer, "s", segment)
        if reader.summary(None) is None:
            list(reader.follow())
        list(reader.read(range(reader.records)))

    refused(read)
    list_objects(location, "s")


def test_a_footer_that_says_nothing_of_use(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "logs")
    ToyKind(repository).put("x", [b"1"])
    opened = repository.parts()
    for table in (b"short", np.array([HUGE], "<u8").tobytes(), np.array([0, 0], "<u8").tobytes()):
        segment = os.urandom(16).hex()
        writer = SegmentWriter(opened.store.location, opened.sealer, "s", segment)
        writer.append([b"record"])
        writer._offsets = np.frombuffer(table.ljust(-(-len(table) // 8) * 8, b"\xff"), "<u8").tolist()
        writer.close([b"summary"])
        reader = SegmentReader(opened.store.location, opened.sealer, "s", segment)
        with pytest.raises(DamagedObject, match="footer"):
            reader.summary(None)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x91" * 100_000,
        b"\x91\x93\xcb" + bytes(8) + b"\xc4\1x\xa3\xed\xa0\x80",
        msgspec.msgpack.encode([(1.0, bytes(15), "text")]),
        msgspec.msgpack.encode([(1.0, bytes(16), "text")] * 11),
    ],
)
def test_slow_items_that_nobody_has_written(frame: bytes) -> None:
    with pytest.raises(DamagedObject, match="slow items"):
        SlowItems().read(frame, "footer")


def test_a_pack_that_is_larger_than_any(place: Path) -> None:
    path = place / pack_path(bytes(16))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(2**40)
    assert any("more than the largest possible pack" in what for what in assert_others_unhurt(place, prunes=False))
