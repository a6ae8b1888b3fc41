"""Every byte that is read is verified: a flipped bit or a cut object is a named error or harmless, never wrong data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shelf import Shelf
from writers import body_of

from prefect_snapshots.errors import SnapshotsError
from prefect_snapshots.repository import Repository, sealing
from prefect_snapshots.repository import catalog as catalog_module

ITEMS = 14
PASSWORDS = {"plain": None, "encrypted": "correct horse battery staple"}


@cache
def template(kind: str) -> Path:
    """A repository with every kind of object in it: packs, index, slots, compacted ranges, hints."""
    place = Path(mkdtemp(prefix="damage-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog_module, "FIRST_RANGE", 4)
        patch.setattr(sealing, "_SCRYPT_COST", 2)  # the tests open it a thousand times
        shelf = Shelf(Repository(place / "repository", password=PASSWORDS[kind]))
        for number in range(ITEMS):
            shelf.put(f"item-{number}", [body_of(number)])
        shelf.stream.write_hint()
    return place / "repository"


def objects(kind: str) -> list[Path]:
    """All objects of the template, so that each kind is hit as often as any other."""
    root = template(kind)
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


def read_everything(place: Path, kind: str) -> int:
    """Read every item: right, or a named error. Returns how many were right."""
    right = 0
    try:
        shelf = Shelf(Repository(place, password=PASSWORDS[kind]))
    except SnapshotsError:
        return 0
    for number in range(ITEMS):
        try:
            assert shelf.get(f"item-{number}") == body_of(number)
        except SnapshotsError:
            continue
        right += 1
    return right


def damaged(kind: str, path: Path, damage: Callable[[bytearray], bytes | bytearray]) -> Path:
    """A copy of the template in which one object is damaged."""
    place = Path(mkdtemp(prefix="damage-")) / "repository"
    shutil.copytree(template(kind), place)
    target = place / path
    target.write_bytes(damage(bytearray(target.read_bytes())))
    return place


CASES = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "FIRST_RANGE", 4)


@pytest.mark.parametrize("kind", PASSWORDS)
@CASES
@given(data=st.data())
def test_a_flipped_bit_is_never_wrong_data(kind: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(objects(kind)))
    size = (template(kind) / path).stat().st_size
    at = data.draw(st.integers(0, size * 8 - 1))

    def flip(content: bytearray) -> bytearray:
        content[at // 8] ^= 1 << at % 8
        return content

    place = damaged(kind, path, flip)
    try:
        right = read_everything(place, kind)
        problems = Repository(place, password=PASSWORDS[kind]).check(read_data=True).problems
        assert problems or right == ITEMS
        assert any(str(path) in problem.path for problem in problems), f"{path} at bit {at} was not noticed"
    finally:
        shutil.rmtree(place.parent)


@pytest.mark.parametrize("kind", PASSWORDS)
@CASES
@given(data=st.data())
def test_a_cut_object_is_never_wrong_data(kind: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(objects(kind)))
    length = data.draw(st.integers(0, (template(kind) / path).stat().st_size - 1))
    place = damaged(kind, path, lambda content: content[:length])
    try:
        read_everything(place, kind)
        assert not Repository(place, password=PASSWORDS[kind]).check(read_data=True).ok
    finally:
        shutil.rmtree(place.parent)


@pytest.mark.parametrize("kind", PASSWORDS)
@settings(CASES, max_examples=60)
@given(data=st.data())
def test_repair_saves_the_rest_and_saving_again_heals(kind: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(objects(kind)))
    at = data.draw(st.integers(0, (template(kind) / path).stat().st_size - 1))

    def overwrite(content: bytearray) -> bytearray:
        content[at] ^= 0xFF
        return content

    place = damaged(kind, path, overwrite)
    try:
        repository = Repository(place, password=PASSWORDS[kind])
        lost = {version for problem in repository.repair().lost for version in problem.versions}
        shelf = Shelf(Repository(place, password=PASSWORDS[kind]))
        for number in range(ITEMS):
            name = f"item-{number}"
            if not any(version.endswith((f":{name}", f"#{number + 1}")) for version in lost):
                assert shelf.get(name) == body_of(number), f"{name} was not said to be lost"
            shelf.put(name, [body_of(number)], overwrite=True)
            assert shelf.get(name) == body_of(number)
    finally:
        shutil.rmtree(place.parent)


def test_objects_that_were_swapped_are_damage(tmp_path: Path) -> None:
    for kind in PASSWORDS:
        place = tmp_path / kind
        shutil.copytree(template(kind), place)
        slots = sorted(path for path in (place / "catalog").rglob("0*") if path.parent.name != "root")
        first, second = slots[0].read_bytes(), slots[1].read_bytes()
        slots[0].write_bytes(second)
        slots[1].write_bytes(first)
        problems = Repository(place, password=PASSWORDS[kind]).check().problems
        assert {slots[0].name, slots[1].name} <= {problem.path.rpartition("/")[2] for problem in problems}
