"""Every byte that is read is verified: damage and loss are named, never wrong data, and repair saves the rest."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_kind import ToyKind
from writers import body_of

from prefect_snapshots.errors import IntegrityError, SnapshotsError, UnsupportedFormat
from prefect_snapshots.repository import Repository, catalog, index
from prefect_snapshots.repository.contents import Writer
from prefect_snapshots.repository.index import ChunkCopy
from prefect_snapshots.repository.maintenance import Problem
from prefect_snapshots.repository.packs import pack_path
from prefect_snapshots.repository.reserve import RESERVE

ITEMS = 16
PASSWORDS = {"plain": None, "encrypted": "correct horse battery staple"}
LARGE = memoryview(bytes(range(251)) * 4_000)
"""Stored as it is, and read straight into its place."""

BASE = random.Random(0).randbytes(30_000)
NEAR = BASE[:9_000] + b"changed" + BASE[9_000:]
"""Stored as a delta against the other one."""

kinds = pytest.mark.parametrize("kind", PASSWORDS)
slow_kinds = pytest.mark.parametrize("kind", ["plain", pytest.param("encrypted", marks=pytest.mark.nightly)])


@pytest.fixture(autouse=True)
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "FIRST_RANGE", 4)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Repositories with every kind of object: packs, index, slots, compacted ranges, hints."""
    root = tmp_path_factory.mktemp("templates")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "FIRST_RANGE", 4)
        for kind, password in PASSWORDS.items():
            toy = ToyKind(Repository(root / kind, password=password, compression="none"))
            for number in range(ITEMS - 2):
                toy.put(item(number), [body_of(number), *([LARGE] if number == 5 else [])])
            toy.put(item(ITEMS - 2), [BASE], chunked=True)
            toy.put(item(ITEMS - 1), [NEAR], like=[BASE])
            toy.stream.write_hint()
    return {kind: root / kind for kind in PASSWORDS}


@contextmanager
def copied(template: Path) -> Iterator[Path]:
    """A copy to be damaged."""
    place = Path(mkdtemp(dir=template.parent)) / "repository"
    shutil.copytree(template, place)
    try:
        yield place
    finally:
        shutil.rmtree(place.parent)


def objects(place: Path) -> list[Path]:
    """All objects that say something, relative to the repository, so that each kind is hit as often as any other.

    The reserve for a full disk says nothing: only its size matters.
    """
    found = (path.relative_to(place) for path in place.rglob("*") if path.is_file())
    return sorted(path for path in found if path.name != RESERVE)


def item(number: int) -> str:
    return f"item-{number}"


def expected(number: int) -> bytes:
    last = {ITEMS - 2: BASE, ITEMS - 1: NEAR}
    return last.get(number) or body_of(number) + (bytes(LARGE) if number == 5 else b"")


def read_everything(place: Path, kind: str) -> set[str]:
    """Read every item: right, or a named error. Returns those that were right."""
    try:
        toy = ToyKind(Repository(place, password=PASSWORDS[kind]))
    except SnapshotsError:
        return set()
    right = set()
    for number in range(ITEMS):
        try:
            assert toy.get(item(number)) == expected(number)
        except SnapshotsError:
            continue
        right.add(item(number))
    return right


def problems_of(place: Path, kind: str) -> list[Problem]:
    return Repository(place, password=PASSWORDS[kind]).check(read_data=True).problems


def lost_items(problems: list[Problem]) -> set[str]:
    """The items that problems say are hit: by their id, or by the number of their event."""
    names = {version for problem in problems for version in problem.versions}
    return {
        item(number)
        for number in range(ITEMS)
        if any(n.endswith((f":{item(number)}", f"#{number + 1}")) for n in names)
    }


def heal(place: Path, kind: str) -> None:
    """Repair saves what is not lost, and says what is; saving that again makes the repository whole."""
    report = Repository(place, password=PASSWORDS[kind]).repair()
    lost = lost_items(report.lost)
    assert read_everything(place, kind) >= {item(number) for number in range(ITEMS)} - lost
    left = problems_of(place, kind)
    assert all(problem.versions for problem in left)
    assert lost_items(left) <= lost
    toy = ToyKind(Repository(place, password=PASSWORDS[kind]))
    for number in range(ITEMS):
        toy.put(item(number), [expected(number)], overwrite=True)
    assert len(read_everything(place, kind)) == ITEMS
    assert problems_of(place, kind) == []
    toy.repository.prune(grace=0)
    assert len(read_everything(place, kind)) == ITEMS
    assert problems_of(place, kind) == []


FEW = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=200)


@kinds
@FEW
@given(data=st.data())
def test_flipped_bit_is_named(templates: dict[str, Path], kind: str, data: st.DataObject) -> None:
    see_flipped_bit_named(templates, kind, data)


@pytest.mark.nightly
@kinds
@MANY
@given(data=st.data())
def test_any_flipped_bit_is_named(templates: dict[str, Path], kind: str, data: st.DataObject) -> None:
    see_flipped_bit_named(templates, kind, data)


def see_flipped_bit_named(templates: dict[str, Path], kind: str, data: st.DataObject) -> None:
    with copied(templates[kind]) as place:
        path = data.draw(st.sampled_from(objects(place)))
        content = bytearray((place / path).read_bytes())
        at = data.draw(st.integers(0, len(content) * 8 - 1))
        content[at // 8] ^= 1 << at % 8
        (place / path).write_bytes(content)
        right = read_everything(place, kind)
        try:
            problems = problems_of(place, kind)
        except UnsupportedFormat:
            # A 1 that became a 3 or a 9: who knows what such a format means.
            assert path.name == "repository.json"
            return
        assert any(str(path) in problem.path for problem in problems)
        assert lost_items(problems) | right == {item(number) for number in range(ITEMS)}
        heal(place, kind)


@kinds
@FEW
@given(data=st.data())
def test_cut_object_is_named(templates: dict[str, Path], kind: str, data: st.DataObject) -> None:
    see_cut_object_named(templates, kind, data)


@pytest.mark.nightly
@kinds
@MANY
@given(data=st.data())
def test_any_cut_object_is_named(templates: dict[str, Path], kind: str, data: st.DataObject) -> None:
    see_cut_object_named(templates, kind, data)


def see_cut_object_named(templates: dict[str, Path], kind: str, data: st.DataObject) -> None:
    with copied(templates[kind]) as place:
        path = data.draw(st.sampled_from(objects(place)))
        content = (place / path).read_bytes()
        (place / path).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        right = read_everything(place, kind)
        problems = problems_of(place, kind)
        assert any(str(path) in problem.path for problem in problems)
        assert lost_items(problems) | right == {item(number) for number in range(ITEMS)}
        heal(place, kind)


@slow_kinds
def test_every_lost_object_is_named(templates: dict[str, Path], kind: str) -> None:
    """But for summaries, which are written again."""
    for path in objects(templates[kind]):
        with copied(templates[kind]) as place:
            (place / path).unlink()
            right = read_everything(place, kind)
            problems = problems_of(place, kind)
            assert problems or path.parts[0] == "compacted"
            assert lost_items(problems) | right == {item(number) for number in range(ITEMS)}
            heal(place, kind)


@kinds
def test_objects_in_each_others_place_are_damage(templates: dict[str, Path], kind: str) -> None:
    """Also where both are sound, and of one kind."""
    slots = [path for path in objects(templates[kind]) if path.parts[0] == "catalog"]
    ranges = [path for path in objects(templates[kind]) if path.match("compacted/*/*-*")]
    hints = [path for path in objects(templates[kind]) if path.name == "hint"]
    packs = [path for path in objects(templates[kind]) if path.parts[0] == "packs"]
    indexes = [path for path in objects(templates[kind]) if path.parts[0] == "index"]
    for group in (slots, ranges, hints, packs, indexes):
        assert len(group) > 1
        for one, other in itertools.pairwise(group):
            with copied(templates[kind]) as place:
                content = (place / one).read_bytes()
                (place / one).write_bytes((place / other).read_bytes())
                (place / other).write_bytes(content)
                right = read_everything(place, kind)
                problems = problems_of(place, kind)
                paths = {problem.path for problem in problems}
                # Of a stream whose registration is damaged nothing but its folder is known.
                assert all(not paths.isdisjoint({str(path), str(path.parent)}) for path in (one, other))
                assert lost_items(problems) | right == {item(number) for number in range(ITEMS)}


@kinds
def test_object_of_another_repository_is_damage(templates: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """Even with the same password: the objects of two repositories are bound to them."""
    stranger = ToyKind(Repository(tmp_path / "stranger", password=PASSWORDS[kind]))
    stranger.put("item-0", [b"another one"])
    with copied(templates[kind]) as place:
        slot = next(path for path in objects(place) if path.parts[0] == "catalog" and path.parts[1] != "root")
        foreign = catalog.slot_path(stranger.stream.id, 1)
        shutil.copy(tmp_path / "stranger" / foreign, place / slot)
        assert str(slot) in {problem.path for problem in problems_of(place, kind)}
        assert read_everything(place, kind) <= {item(number) for number in range(ITEMS)}


@kinds
def test_repair_may_be_asked_first(templates: dict[str, Path], kind: str) -> None:
    with copied(templates[kind]) as place:
        for path in objects(place)[::5]:
            (place / path).write_bytes(b"damaged")
        before = {path: (place / path).read_bytes() for path in objects(place)}
        report = Repository(place, password=PASSWORDS[kind]).repair(dry_run=True)
        assert report.actions
        assert {path: (place / path).read_bytes() for path in objects(place)} == before


def test_sound_repository_needs_no_repair(templates: dict[str, Path]) -> None:
    with copied(templates["plain"]) as place:
        report = Repository(place).repair()
        assert report.actions == []
        assert report.lost == []


@pytest.fixture
def twice(tmp_path: Path) -> tuple[ToyKind, Path, Path]:
    """An item whose only chunk is stored in two packs, because two writers did not know of each other."""
    place = tmp_path / "repository"
    toy, rival = ToyKind(Repository(place)), ToyKind(Repository(place))
    for each in (toy, rival):
        each.put("warm", [b"up"], chunked=True, overwrite=True)
    toy.put("one", [body_of(0)], chunked=True)
    rival.put("two", [body_of(0)], chunked=True)
    first, second = sorted((place / "packs").rglob("*/*"), key=lambda path: path.stat().st_mtime_ns)[-2:]
    return ToyKind(Repository(place)), first, second


def test_copy_elsewhere_is_read(twice: tuple[ToyKind, Path, Path]) -> None:
    toy, first, second = twice
    for harmed in (first, second):
        content = harmed.read_bytes()
        for damage in (None, content[:100], content[:40] + bytes([content[40] ^ 1]) + content[41:]):
            harmed.write_bytes(damage) if damage is not None else harmed.unlink()
            assert ToyKind(Repository(toy.repository.url)).get("one") == body_of(0)
        harmed.write_bytes(content)


def test_prune_keeps_the_last_copy(twice: tuple[ToyKind, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune has condemned one copy, because there is another one, and dies; then that one is lost."""
    toy, first, second = twice

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("prefect_snapshots.repository.maintenance.pruning._fence", die)
        with pytest.raises(KeyboardInterrupt):
            toy.repository.prune(grace=0)
    condemned = {
        pack.hex() for pack in Repository(toy.repository.url).parts().apart(writing=False).catalog.state.condemned
    }
    assert not condemned
    root = Repository(toy.repository.url).parts().apart(writing=False).catalog
    root.root.refresh()
    doomed = {pack.hex() for pack in root.state.condemned}
    [last, other] = (first, second) if first.name in doomed else (second, first)
    assert last.name in doomed
    assert other.name not in doomed
    other.unlink()
    with pytest.raises(IntegrityError):  # the manifest of the other item had no copy
        Repository(toy.repository.url).prune(grace=0)
    assert ToyKind(Repository(toy.repository.url)).get("one" if last == first else "two") == body_of(0)


def test_stream_whose_registration_was_lost(templates: dict[str, Path]) -> None:
    """Nothing is deleted until it is registered again, which a save does."""
    with copied(templates["plain"]) as place:
        (place / "catalog/root/000000000001").write_bytes(b"damaged")
        (place / "compacted/root/hint").unlink()
        repository = Repository(place)
        with pytest.raises(IntegrityError):
            repository.prune(grace=0)
        repository.repair()
        assert any("is not registered" in problem.what for problem in problems_of(place, "plain"))
        with pytest.raises(IntegrityError, match="is not registered"):
            Repository(place).prune(grace=0)
        toy = ToyKind(Repository(place))
        toy.put("one more", [body_of(1)], chunked=True)
        assert problems_of(place, "plain") == []
        Repository(place).prune(grace=0)
        assert len(read_everything(place, "plain")) == ITEMS


def test_reading_says_which_object_is_damaged(templates: dict[str, Path]) -> None:
    with copied(templates["plain"]) as place:
        for pack in (place / "packs").rglob("*/*"):
            pack.write_bytes(pack.read_bytes()[:30])
        toy = ToyKind(Repository(place))
        with pytest.raises(IntegrityError, match=r"packs/../[0-9a-f]{32} is damaged: .* Run `prefect-snapshots check`"):
            toy.get(item(5))


@pytest.fixture(params=PASSWORDS)
def lonely(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, dict[bytes, ChunkCopy]]:
    """A repository whose only item is a delta; nothing but that needs its base. And where both of them are."""
    toy = ToyKind(Repository(tmp_path / "repository", password=PASSWORDS[request.param]))
    toy.put("base", [BASE], chunked=True)
    toy.put("near", [NEAR], like=[BASE])
    toy.remove("base")
    toy.repository.prune(grace=0)
    opened = toy.repository.parts()
    opened.index.load()
    entries = {data: opened.index.find(opened.sealer.chunk_id(data), opened.store.condemned()) for data in (BASE, NEAR)}
    assert [entry and entry.whole for entry in entries.values()] == [True, False]
    return tmp_path / "repository", request.param, {data: entry for data, entry in entries.items() if entry}


def flip(place: Path, entry: ChunkCopy, at: int) -> None:
    path = place / pack_path(entry.pack)
    content = bytearray(path.read_bytes())
    content[entry.offset + at % entry.stored] ^= 1
    path.write_bytes(content)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(of_base=st.booleans(), at=st.integers(0, 10_000_000))
def test_flipped_bit_in_a_delta_or_its_base(
    lonely: tuple[Path, str, dict[bytes, ChunkCopy]], of_base: bool, at: int
) -> None:
    """It is named where it lies, hits the item, and is healed by saving that again."""
    template, kind, entries = lonely
    entry = entries[BASE if of_base else NEAR]
    with copied(template) as place:
        flip(place, entry, at)
        toy = ToyKind(Repository(place, password=PASSWORDS[kind]))
        with pytest.raises(IntegrityError, match=pack_path(entry.pack)):
            toy.get("near")
        assert [(problem.path, problem.versions) for problem in problems_of(place, kind)] == [
            (pack_path(entry.pack), ("shelf/default:near",))
        ]
        assert [problem.versions for problem in toy.repository.repair().lost] == [("shelf/default:near",)]
        toy = ToyKind(Repository(place, password=PASSWORDS[kind]))
        toy.put("near", [NEAR], chunked=True, overwrite=True)
        assert toy.get("near") == NEAR
        assert problems_of(place, kind) == []


def test_lost_pack_of_a_base(lonely: tuple[Path, str, dict[bytes, ChunkCopy]]) -> None:
    template, kind, entries = lonely
    toy = ToyKind(Repository(template, password=PASSWORDS[kind]))
    (template / pack_path(entries[BASE].pack)).unlink()
    with pytest.raises(IntegrityError):
        toy.get("near")
    problems = toy.repository.check().problems
    assert ("shelf/default:near",) in [problem.versions for problem in problems]
    assert pack_path(entries[BASE].pack) in [problem.path for problem in problems]
    with pytest.raises(IntegrityError):
        Repository(template, password=PASSWORDS[kind]).prune(grace=0)


def test_another_copy_of_a_base_or_of_the_chunk_is_read(lonely: tuple[Path, str, dict[bytes, ChunkCopy]]) -> None:
    template, kind, entries = lonely
    for data in (BASE, NEAR):
        for harmed in (BASE, NEAR):
            with copied(template) as place:
                repository = Repository(place, password=PASSWORDS[kind])
                avoided = {entry.pack for entry in entries.values()}
                with Writer(repository.parts(writing=True).store, 0, avoided) as writer:
                    writer.copy(repository.parts().sealer.chunk_id(data), data)
                    writer.flush()
                flip(place, entries[harmed], 1_000)
                if data in (harmed, NEAR):
                    assert ToyKind(Repository(place, password=PASSWORDS[kind])).get("near") == NEAR


def test_entries_of_a_pack_that_stand_in_two_index_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two is lost or damaged: the other one names the pack, but not all that is in it."""
    monkeypatch.setattr(index, "_LARGEST", 4)
    place = tmp_path / "r"
    toy = ToyKind(Repository(place))
    parts = [random.Random(number).randbytes(70_000) for number in range(5)]
    toy.put("parts", parts, chunked=True)
    first, *_, last = sorted((place / "index").iterdir())
    damages: list[Callable[[], object]] = [first.unlink, lambda: last.write_bytes(b"damaged")]
    for damage in damages:
        damage()
        assert not Repository(place).check().ok
        Repository(place).repair()
        assert Repository(place).check(read_data=True).ok
        assert ToyKind(Repository(place)).get("parts") == b"".join(parts)
