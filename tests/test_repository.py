"""What a repository promises: contents come back, names are kept apart, nothing is written that should not be.

The same behaviour on every kind of storage; then what does not depend on it, in memory or in a local directory.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import golden
import numpy as np
import pytest
import servers
from servers import Storage
from toy_kind import KIND, ToyKind

from prefect_snapshots import ArtifactRegistry, SnapshotManager
from prefect_snapshots.errors import (
    CommitUnknown,
    IntegrityError,
    InvalidArgument,
    InvalidName,
    NotARepository,
    PermissionDenied,
    ReadOnlyRepository,
    RepositoryNotFound,
    SnapshotExists,
    SnapshotNotFound,
    StorageError,
    StorageFull,
    StorageUnavailable,
    UnsupportedFormat,
    UnsupportedStorage,
    WrongPassword,
)
from prefect_snapshots.repository import Repository, catalog, chunking, index, sealing
from prefect_snapshots.repository.commits import Draft
from prefect_snapshots.repository.contents import Kept, Stored, Writer, inline
from prefect_snapshots.repository.location import MemoryLocation, open_location
from prefect_snapshots.repository.progress import watched

NOISE = random.Random(1).randbytes(6_000_000)
CONTENTS: dict[str, list[bytes | memoryview]] = {
    "nothing": [],
    "one byte": [b"1"],
    "inline": [b"text", b"", NOISE[:10_000]],
    "just over inline": [NOISE[: 16 * 1024 + 1]],
    "many small leaves": [bytes([number % 256]) * (number % 500) for number in range(1_000)],
    "compressible": [b"the same again and again, " * 20_000],
    "a long pickle": [NOISE[:3_000_000]],
    "an array": [memoryview(NOISE)[:5_500_000]],
    "leaves of all sizes": [
        b"a",
        memoryview(NOISE)[:70_000],
        NOISE[5:90_000],
        b"",
        memoryview(NOISE)[:4_194_304],
        b"z",
    ],
}


def opened(storage: Storage, **options: object) -> Repository:
    return Repository(storage.url, storage_options=storage.storage_options, **options)  # type: ignore[arg-type]


def listing(storage: Storage) -> dict[str, int]:
    """Every object and its size."""
    return {info.path: info.size for info in open_location(storage.url, storage.storage_options).list("")}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges, merges and hints after a few events already."""
    monkeypatch.setattr(catalog, "FIRST_RANGE", 4)
    monkeypatch.setattr(catalog, "FAN_OUT", 2)
    monkeypatch.setattr(catalog, "_HINT_EVERY", {True: 5, False: 5})
    monkeypatch.setattr(index, "_MERGE", 4)


class TestEveryStorage:
    """What holds on all of them."""

    def test_contents_come_back(self, storage: Storage) -> None:
        toy = ToyKind(opened(storage))
        for item, parts in CONTENTS.items():
            toy.put(item, parts)
        fresh = ToyKind(opened(storage))
        for item, parts in CONTENTS.items():
            body = b"".join(parts)
            assert fresh.get(item) == body
            content = fresh.repository.read(fresh.stream, fresh.items[item])
            assert content.manifest == item.encode()
            middle = bytearray(len(body) // 3)
            content.read_into([(len(body) // 3, memoryview(middle))])
            assert middle == body[len(body) // 3 :][: len(middle)]

    def test_reading_never_creates(self, storage: Storage) -> None:
        repository = opened(storage)
        assert not repository.exists()
        assert ToyKind(repository).items == {}
        for look in (repository.check, repository.stats, lambda: repository.names(KIND), lambda: repository.id):
            with pytest.raises(RepositoryNotFound, match="There is no repository at"):
                look()
        with pytest.raises(RepositoryNotFound):
            ToyKind(opened(storage, read_only=True))
        assert listing(storage) == {}
        if storage.url.startswith("/"):
            assert not Path(storage.url).exists()

    def test_what_is_no_repository_is_refused_and_left_alone(self, storage: Storage) -> None:
        open_location(storage.url, storage.storage_options).create("thesis/chapter-1", b"precious")
        repository = opened(storage)
        for use in (
            repository.exists,
            lambda: ToyKind(repository).put("item", [b"1"]),
            lambda: repository.prune(grace=0),
        ):
            with pytest.raises(NotARepository, match="is not empty, but does not contain a repository"):
                use()
        assert listing(storage) == {"thesis/chapter-1": 8}

    def test_read_only_writes_nothing_at_all(self, storage: Storage, short: None) -> None:
        toy = ToyKind(opened(storage))
        for number in range(11):
            toy.put(f"item-{number}", [NOISE[number : number + 20_000]])
        location = open_location(storage.url, storage.storage_options)
        location.delete(info.path for info in location.list("compacted"))
        before = listing(storage)
        repository = opened(storage, read_only=True)
        reader = ToyKind(repository)
        assert reader.get("item-7") == NOISE[7:20_007]
        assert repository.check(read_data=True).ok
        assert repository.prune(dry_run=True).packs_deleted == 0
        assert repository.repair(dry_run=True).lost == []
        assert repository.stats().versions == 11
        for write in (
            lambda: reader.put("other", [b"1"]),
            lambda: reader.remove("item-1"),
            repository.prune,
            repository.repair,
        ):
            with pytest.raises(ReadOnlyRepository):
                write()
        assert listing(storage) == before

    def test_compacted_history_reads_the_same(self, storage: Storage, short: None) -> None:
        toy = ToyKind(opened(storage))
        for number in range(27):
            toy.put(f"item-{number % 9}", [b"%d" % number], overwrite=True)
        fresh = ToyKind(opened(storage))
        assert fresh.events == toy.events
        assert {path.split("/")[2].split("-")[0] for path in listing(storage) if path.startswith("compacted/")} >= {
            "0",
            "1",
        }

    def test_prune_frees_what_nobody_needs(self, storage: Storage) -> None:
        toy = ToyKind(opened(storage))
        toy.put("kept", [NOISE[:100_000]])
        toy.put("deleted", [NOISE[50_000:300_000]])
        toy.remove("deleted")
        before = sum(listing(storage).values())
        for grace in (-1, math.nan):
            with pytest.raises(InvalidArgument, match="at least 0"):
                toy.repository.prune(grace=grace)
        report = toy.repository.prune(grace=0)
        assert report.packs_deleted
        assert sum(listing(storage).values()) < before - 150_000
        assert ToyKind(opened(storage)).get("kept") == NOISE[:100_000]
        assert opened(storage).check(read_data=True).ok

    def test_two_writers_share_a_name(self, storage: Storage) -> None:
        one, other = ToyKind(opened(storage)), ToyKind(opened(storage))
        for number in range(6):
            (one, other)[number % 2].put(f"item-{number}", [b"%d" % number])
        assert [event.body["id"] for event in ToyKind(opened(storage)).events] == [f"item-{n}" for n in range(6)]


def test_lost_reply_makes_no_second_version(behind_proxy: tuple[Storage, servers.Proxy]) -> None:
    storage, proxy = behind_proxy
    toy = ToyKind(opened(storage))
    toy.put("first", [b"1"])
    for number in range(3):
        proxy.lost_replies = 1
        toy.put(f"item-{number}", [NOISE[:20_000] if number else b"small"])
    assert [event.body["id"] for event in ToyKind(opened(storage)).events] == ["first", "item-0", "item-1", "item-2"]


@pytest.mark.parametrize("verb", ["DELETE", "PUT"])
def test_credentials_that_lack_a_permission(
    behind_proxy: tuple[Storage, servers.Proxy], verb: str, short: None
) -> None:
    """A writer may not delete, and a reader may not write: both work, although there is much to merge and compact."""
    storage, proxy = behind_proxy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_MERGE", 1_000)
        toy = ToyKind(opened(storage))
        for number in range(9):
            toy.put(f"item-{number}", [NOISE[number : number + 20_000]])
    proxy.denied = frozenset([verb])
    fresh = ToyKind(opened(storage))
    assert all(fresh.get(f"item-{number}") == NOISE[number : number + 20_000] for number in range(9))
    if verb == "DELETE":
        for number in range(9, 20):
            fresh.put(f"item-{number}", [NOISE[number : number + 20_000]])
        fresh.remove("item-3")
        assert len(ToyKind(opened(storage)).items) == 19
        with pytest.raises(PermissionDenied):
            fresh.repository.prune(grace=0)
    else:
        with pytest.raises(PermissionDenied):
            fresh.put("other", [b"1"])
    proxy.denied = frozenset()
    assert opened(storage).check(read_data=True).ok


# --- commits ------------------------------------------------------------------------------------------------------


class Unsure(MemoryLocation):
    """A storage that does not answer some commits. `plan` says of each whether it is done, or which error it is."""

    plan: list[bool | type[StorageError]]

    def _create(self, path: str, data: bytes) -> bool:
        if self.plan and path.startswith(f"catalog/{self.stream}"):
            what = self.plan.pop(0)
            if isinstance(what, type):
                raise what(f"{path}: it failed")
            if what:
                super()._create(path, data)
            raise StorageUnavailable(f"{path}: no answer")
        return super()._create(path, data)

    stream = ""


@pytest.fixture
def unsure(memory_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> tuple[ToyKind, Unsure]:
    monkeypatch.setattr("time.sleep", lambda _: None)
    repository = opened(memory_storage)
    repository.location = location = Unsure("memory", memory_storage.url.removeprefix("memory://"), {})
    location.plan = []
    toy = ToyKind(repository)
    toy.put("first", [b"1"])
    location.stream = toy.stream.id
    return toy, location


@pytest.mark.parametrize("body", [b"small", NOISE[:50_000]], ids=["inline", "chunked"])
class TestCommits:
    def test_commit_that_is_answered_in_the_end(self, unsure: tuple[ToyKind, Unsure], body: bytes) -> None:
        toy, location = unsure
        for plan in ([False], [True], [False, True, False]):
            location.plan = [*plan]
            toy.put("item", [body], overwrite=True)
        assert [event.body["id"] for event in ToyKind(toy.repository).events] == ["first", "item", "item", "item"]

    @pytest.mark.parametrize("landed", [True, False])
    @pytest.mark.parametrize("elsewhere", [True, False])
    def test_saving_again_with_the_token(
        self, unsure: tuple[ToyKind, Unsure], body: bytes, landed: bool, elsewhere: bool
    ) -> None:
        """Gives the version that landed, or makes it now, in the same process or in another."""
        toy, location = unsure
        location.plan = [landed, False, False, False]
        with pytest.raises(CommitUnknown, match="Save again with token=") as caught:
            toy.put("item", [body])
        rival = ToyKind(Repository(toy.repository.url))
        rival.put("between", [b"2"])
        again = ToyKind(Repository(toy.repository.url)) if elsewhere else toy
        token = bytes.fromhex(caught.value.token)
        event = again.put("item", [body], token=token)
        assert event.sequence == (2 if landed else 3)
        assert again.put("item", [body], token=token) == event
        rival.stream.refresh()
        assert len(rival.events) == 3
        assert rival.get("item") == body

    @pytest.mark.parametrize("refusal", [StorageFull, PermissionDenied])
    @pytest.mark.parametrize("carried_out", [True, False])
    def test_a_refusal_after_silence_tells_the_truth(
        self, unsure: tuple[ToyKind, Unsure], body: bytes, refusal: type[StorageError], carried_out: bool
    ) -> None:
        """The first request got no answer, and the next one is refused: by a full disk, or an expired token."""
        toy, location = unsure
        location.plan = [carried_out, refusal]
        if carried_out:
            assert toy.put("item", [body]).sequence == 2
        else:
            with pytest.raises(CommitUnknown) as caught:
                toy.put("item", [body])
            assert toy.put("item", [body], token=bytes.fromhex(caught.value.token)).sequence == 2
        assert [event.body["id"] for event in ToyKind(toy.repository).events] == ["first", "item"]

    @pytest.mark.parametrize("error", [StorageError, StorageUnavailable])
    def test_an_error_of_the_disk_is_not_taken_for_a_refusal(
        self, unsure: tuple[ToyKind, Unsure], body: bytes, error: type[StorageError]
    ) -> None:
        toy, location = unsure
        location.plan = [error] * 4
        with pytest.raises(CommitUnknown):
            toy.put("item", [body])

    @pytest.mark.parametrize("refusal", [StorageFull, PermissionDenied])
    def test_a_plain_refusal_commits_nothing(
        self, unsure: tuple[ToyKind, Unsure], body: bytes, refusal: type[StorageError]
    ) -> None:
        toy, location = unsure
        location.plan = [refusal]
        with pytest.raises(refusal):
            toy.put("item", [body])
        assert len(ToyKind(toy.repository).events) == 1

    def test_a_second_try_that_fails_keeps_its_token(self, unsure: tuple[ToyKind, Unsure], body: bytes) -> None:
        """The first request may land as late as now, whatever stops the second try."""
        toy, location = unsure
        location.plan = [StorageUnavailable] * 4
        with pytest.raises(CommitUnknown) as first:
            toy.put("item", [body])
        location.plan = [StorageFull]
        with pytest.raises(CommitUnknown) as second:
            toy.put("item", [body], token=bytes.fromhex(first.value.token))
        assert second.value.token == first.value.token

    def test_draft_that_refuses_commits_nothing(self, memory_storage: Storage, body: bytes) -> None:
        toy = ToyKind(opened(memory_storage))
        toy.put("item", [body])
        with pytest.raises(SnapshotExists):
            toy.put("item", [body])
        assert toy.remove("other") is None
        with pytest.raises(SnapshotNotFound):
            toy.get("other")
        assert len(ToyKind(opened(memory_storage)).events) == 1

    def test_draft_is_asked_again_when_somebody_was_faster(self, memory_storage: Storage, body: bytes) -> None:
        toy = ToyKind(opened(memory_storage))
        ToyKind(opened(memory_storage)).put("item", [body])
        with pytest.raises(SnapshotExists):
            toy.put("item", [body])
        assert toy.get("item") == body

    def test_overwritten_and_removed_items(self, memory_storage: Storage, body: bytes) -> None:
        toy = ToyKind(opened(memory_storage))
        toy.put("item", [b"old"])
        toy.put("item", [body], overwrite=True)
        assert ToyKind(opened(memory_storage)).get("item") == body
        toy.remove("item")
        assert "item" not in ToyKind(opened(memory_storage))
        assert opened(memory_storage).stats().versions == 0
        toy.put("item", [body])
        assert toy.get("item") == body

    def test_copy_stores_nothing_again(self, memory_storage: Storage, body: bytes) -> None:
        repository = opened(memory_storage)
        source, target = ToyKind(repository, "source"), ToyKind(repository, "target")
        source.put("item", [body])
        event = target.copy(source, "item", "copy")
        assert event is not None
        assert event.content is not None
        assert event.content.depth == 0 or event.content.written == 0
        source.remove("item")
        repository.prune(grace=0)
        assert ToyKind(opened(memory_storage), "target").get("copy") == body


def test_event_with_a_nan_can_be_read_back(memory_storage: Storage) -> None:
    """A NaN differs from itself, and so does an event that holds one."""
    repository = opened(memory_storage)
    toy = ToyKind(repository)
    body = {"id": "item", "loss": float("nan")}
    repository.commit(toy.stream, lambda: Draft("put", body), content=inline(b"item", [b"body"]))
    toy.stream.write_hint()
    assert toy.get("item") == b"body"
    assert ToyKind(opened(memory_storage)).get("item") == b"body"
    assert repository.check(read_data=True).ok


class Failing(MemoryLocation):
    """A storage that gives so many answers, then none once, then all."""

    answers = sys.maxsize

    def read(self, path: str) -> bytes:
        self.answers -= 1
        if self.answers == -1:
            raise StorageUnavailable(f"{path}: no answer")
        return super().read(path)

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        return [self._read_or_none(path) for path in paths]


@pytest.mark.parametrize("answers", range(13))
def test_first_load_that_failed_goes_on_where_it_stopped(memory_storage: Storage, short: None, answers: int) -> None:
    toy = ToyKind(opened(memory_storage))
    for number in range(23):
        toy.put(f"item-{number}", [b"%d" % number])
    open_location(memory_storage.url).delete([catalog.range_path(toy.stream.id, 2, 0)])
    repository = opened(memory_storage)
    repository.location = location = Failing("memory", memory_storage.url.removeprefix("memory://"), {})
    events: list[catalog.Event] = []
    stream = catalog.Stream(lambda: repository.parts().catalog, KIND, "default", events.append)
    assert repository.exists()
    location.answers = answers
    with pytest.raises(StorageUnavailable):
        stream.refresh()
    stream.refresh()
    assert events == toy.events


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            " ",
            "..",
            ".",
            "../x",
            "a/../b",
            "a//b",
            "/a",
            "a/",
            "./a",
            "a\\b",
            "a\0b",
            "a\nb",
            "a\x7fb",
            " a",
            "a ",
        ),
        *(
            "a\u202eb",
            "a\u200bb",
            "a\u2028b",
            "\ud800",
            "\ue000",
            "x" * 5_000,
            unicodedata.normalize("NFD", "é"),
            "a\ufeff",
        ),
    ],
    ids=ascii,
)
def test_hostile_name_is_refused(memory_storage: Storage, name: str) -> None:
    with pytest.raises(InvalidName):
        ToyKind(opened(memory_storage), name)
    assert listing(memory_storage) == {}


def test_name_that_is_no_text_is_refused(memory_storage: Storage) -> None:
    with pytest.raises(InvalidName, match="not int"):
        ToyKind(opened(memory_storage), 7)  # type: ignore[arg-type]


def test_names_are_kept_apart(local_storage: Storage) -> None:
    """Also where a file system would mix them up."""
    names = [
        "model",
        "Model",
        "MODEL",
        "modèle",
        "模型",
        "a/b",
        "a-b",
        "a.b",
        "con",
        "nul.txt",
        "~",
        "%2e%2e",
        "x" * 512,
    ]
    repository = opened(local_storage)
    for name in names:
        ToyKind(repository, name).put("item", [name.encode()])
    assert repository.names(KIND) == sorted(names)
    for name in names:
        assert ToyKind(opened(local_storage), name).get("item") == name.encode()
    paths = [path.lower() for path in listing(local_storage)]
    assert len(set(paths)) == len(paths)


def test_kinds_are_kept_apart(memory_storage: Storage) -> None:
    repository = opened(memory_storage)
    ToyKind(repository).put("item", [b"1"])
    assert repository.stream("other", "default", lambda _: None).events == []
    assert repository.names("other") == []


# --- opening ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short")
class TestPasswords:
    def test_everything_is_encrypted(self, local_storage: Storage) -> None:
        secret = b"attack at dawn " * 10
        toy = ToyKind(opened(local_storage, password="right"), "operation overlord")
        for number in range(20):
            toy.put(f"secret-{number}", [secret, b"%d" % number], chunked=number % 2 == 1)
        for file in Path(local_storage.url).rglob("*"):
            content = file.read_bytes() if file.is_file() else b""
            assert not any(word in content for word in (b"attack", b"overlord", b"secret-"))
        assert ToyKind(opened(local_storage, password="right"), "operation overlord").get("secret-7") == secret + b"7"
        assert opened(local_storage, password="right").encrypted

    @pytest.mark.parametrize("password", ["wrong", None])
    def test_without_the_password_nothing_is_read_or_written(
        self, memory_storage: Storage, password: str | None
    ) -> None:
        ToyKind(opened(memory_storage, password="right")).put("item", [b"1"])
        before = listing(memory_storage)
        repository = opened(memory_storage, password=password)
        for use in (lambda: ToyKind(repository), repository.check, repository.prune, lambda: repository.id):
            with pytest.raises(WrongPassword):
                use()
        assert listing(memory_storage) == before

    def test_password_for_a_plain_repository(self, memory_storage: Storage) -> None:
        ToyKind(opened(memory_storage)).put("item", [b"1"])
        with pytest.raises(WrongPassword, match="is not encrypted"):
            ToyKind(opened(memory_storage, password="any")).put("other", [b"2"])

    def test_password_from_the_environment(self, memory_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD", "right")
        ToyKind(opened(memory_storage)).put("item", [b"1"])
        assert opened(memory_storage).encrypted
        monkeypatch.delenv("PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD")
        monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_COMMAND", "printf 'right\\n'")
        assert ToyKind(opened(memory_storage)).get("item") == b"1"
        monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_COMMAND", "exit 3")
        with pytest.raises(WrongPassword, match="exit 3"):
            ToyKind(opened(memory_storage))

    def test_another_password(self, memory_storage: Storage) -> None:
        old = opened(memory_storage, password="old")
        ToyKind(old).put("item", [NOISE[:50_000]])
        objects = listing(memory_storage)
        old.change_password("new")
        assert listing(memory_storage).keys() == objects.keys()
        with pytest.raises(WrongPassword):
            ToyKind(opened(memory_storage, password="old"))
        assert ToyKind(opened(memory_storage, password="new")).get("item") == NOISE[:50_000]
        ToyKind(old).put("more", [b"2"])
        assert opened(memory_storage, password="new").check(read_data=True).ok

    def test_plain_repository_gets_no_password(self, memory_storage: Storage) -> None:
        repository = opened(memory_storage)
        ToyKind(repository).put("item", [b"1"])
        with pytest.raises(WrongPassword, match="is not encrypted"):
            repository.change_password("new")

    @pytest.mark.parametrize("rival", ["theirs", None])
    @pytest.mark.parametrize("mine", ["argument", "environment", None])
    def test_rivals_create_one_repository(
        self, memory_storage: Storage, monkeypatch: pytest.MonkeyPatch, mine: str | None, rival: str | None
    ) -> None:
        """Who loses joins the winner or fails: nothing plain gets into an encrypted repository, nor the reverse."""

        class Slow(MemoryLocation):
            def _create(self, path: str, data: bytes) -> bool:
                if path == "repository.json":
                    with pytest.MonkeyPatch.context() as patch:
                        patch.delenv("PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD", raising=False)
                        ToyKind(opened(memory_storage, password=rival)).put("rival", [b"1"])
                return super()._create(path, data)

        if mine == "environment":
            monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD", "mine")
        loser = opened(memory_storage, password="mine" if mine == "argument" else None)
        loser.location = Slow("memory", memory_storage.url.removeprefix("memory://"), {})
        if mine or rival:
            with pytest.raises(WrongPassword):
                ToyKind(loser).put("loser", [b"plain text"])
        else:
            ToyKind(loser).put("loser", [b"plain text"])
        monkeypatch.delenv("PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD", raising=False)
        winner = ToyKind(opened(memory_storage, password=rival))
        assert set(winner.items) == ({"rival"} if mine or rival else {"rival", "loser"})
        assert winner.repository.check(read_data=True).ok

    def test_rivals_with_one_password_share_the_repository(self, memory_storage: Storage) -> None:
        start = threading.Barrier(4)

        def create(number: int) -> None:
            toy = ToyKind(opened(memory_storage, password="one"))
            start.wait()
            toy.put(f"item-{number}", [b"1"])

        threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ToyKind(opened(memory_storage, password="one")).items) == 4


def test_newer_format_is_refused(local_storage: Storage) -> None:
    ToyKind(opened(local_storage)).put("item", [b"1"])
    for name in ("repository.json", "repository.copy.json"):
        file = Path(local_storage.url) / name
        file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    before = listing(local_storage)
    for use in (lambda: ToyKind(opened(local_storage)), opened(local_storage).check, opened(local_storage).repair):
        with pytest.raises(UnsupportedFormat, match="format 2, but this version reads only up to 1"):
            use()
    assert listing(local_storage) == before


def test_other_cut_points_are_refused_for_writing(memory_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    ToyKind(opened(memory_storage)).put("item", [b"1"])
    monkeypatch.setattr(chunking, "SEED", 1)
    with pytest.raises(UnsupportedFormat, match="splits data with other parameters"):
        ToyKind(opened(memory_storage))
    assert ToyKind(opened(memory_storage, read_only=True)).get("item") == b"1"


def test_creator_that_was_killed_is_finished_by_the_next_writer(local_storage: Storage) -> None:
    ToyKind(opened(local_storage)).put("item", [b"1"])
    copy = Path(local_storage.url) / "repository.copy.json"
    content = copy.read_bytes()
    copy.unlink()
    assert not opened(local_storage).check().ok
    ToyKind(opened(local_storage)).put("other", [b"1"])
    assert copy.read_bytes() == content
    assert opened(local_storage).check().ok


def test_storage_that_is_not_exclusive_needs_a_promise(tmp_path: Path) -> None:
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    class Plain(LocalFileSystem):  # type: ignore[misc]
        protocol = "plain-files"

    fsspec.register_implementation("plain-files", Plain, clobber=True)
    url = f"plain-files://{tmp_path}/repository"
    with pytest.raises(UnsupportedStorage, match="single_writer=True"):
        ToyKind(Repository(url)).put("item", [b"1"])
    toy = ToyKind(Repository(url, single_writer=True))
    toy.put("item", [NOISE[:100_000]])
    assert ToyKind(Repository(url, single_writer=True)).get("item") == NOISE[:100_000]
    assert toy.repository.check(read_data=True).ok


def test_pickled_repository_carries_no_secret() -> None:
    options = {"key": "K3Y", "secret": "S3CR3T", "token": "T0K3N", "endpoint_url": "http://127.0.0.1:9"}
    nested = {**options, "client_kwargs": {"aws_session_token": "S3SS10N", "region_name": "here"}}
    repository = Repository("s3://user:P4SS@bucket/place", storage_options=nested, password="P4SSW0RD", read_only=True)
    pickled = pickle.dumps(repository)
    for secret in (b"K3Y", b"S3CR3T", b"T0K3N", b"S3SS10N", b"P4SS"):
        assert secret not in pickled
    assert pickle.loads(pickled) is repository
    del repository
    elsewhere = pickle.loads(pickled)
    assert elsewhere.read_only
    assert elsewhere.location.storage_options["endpoint_url"] == "http://127.0.0.1:9"
    assert elsewhere.location.storage_options["client_kwargs"] == {"region_name": "here"}


def test_pickled_repository_finds_its_password_in_the_other_process(local_storage: Storage) -> None:
    ToyKind(opened(local_storage, password="right")).put("item", [b"1"])
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).names('shelf'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(opened(local_storage, password="right")),
        env={**os.environ, "PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD": "right"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"['default']\n"


@pytest.mark.parametrize("compression", ["auto", "high", "none"])
def test_compression(memory_storage: Storage, compression: str) -> None:
    """Each writer decides; what was written otherwise is read, and reused."""
    text = b"".join(b"line %d of a long and boring text\n" % number for number in range(20_000))
    toy = ToyKind(opened(memory_storage, compression=compression))
    event = toy.put("text", [text])
    noise = toy.put("noise", [NOISE[:300_000]])
    assert event.content is not None
    assert noise.content is not None
    assert (event.content.written < len(text) / 4) == (compression != "none")
    assert 300_000 <= noise.content.written < 301_000
    other = ToyKind(opened(memory_storage, compression="auto" if compression == "none" else "none"))
    assert other.get("text") == text
    again = other.put("again", [text])
    assert again.content is not None
    assert again.content.written < 1_000


def test_a_save_reads_nothing_unless_a_prune_came_between(memory_storage: Storage) -> None:
    toy = ToyKind(opened(memory_storage))
    noise = random.Random(0).randbytes
    toy.put("first", [noise(100_000)])
    toy.put("garbage", [garbage := noise(100_000)])

    def requests_of_put(item: str, data: bytes) -> dict[str, int]:
        before = dict(toy.repository.location.requests)
        toy.put(item, [data])
        after = toy.repository.location.requests
        return {verb: after[verb] - before[verb] for verb in ("GET", "PUT", "LIST")}

    assert requests_of_put("new", noise(100_000)) == {"GET": 0, "PUT": 3, "LIST": 0}
    assert requests_of_put("the same", garbage)["GET"] == 0, "it reuses what is there"
    toy.remove("garbage")
    toy.remove("the same")
    assert opened(memory_storage).prune(grace=0).packs_deleted > 0
    assert requests_of_put("again", garbage)["GET"] > 0, "it reads what was condemned"
    assert toy.get("again") == garbage
    assert opened(memory_storage).check(read_data=True).ok


def test_what_is_kept_is_neither_read_nor_written_again(memory_storage: Storage) -> None:
    toy = ToyKind(opened(memory_storage))
    random_bytes = random.Random(0).randbytes
    first = [random_bytes(100_000) for _ in range(6)]
    old = toy.repository.read(toy.stream, toy.put("old", first))
    new = random_bytes(50_000)
    ends = np.cumsum(old.table["size"])
    cut = int(np.searchsorted(ends, 200_000))
    before, behind = old.table[: cut + 1], old.table[cut + 1 :][:-1]  # the last chunk is the manifest

    def store(writer: Writer) -> Stored:
        assert writer.has(old.table).all()
        unknown = old.table.copy()
        unknown["chunk"] = np.frombuffer(bytes(len(unknown) * 32), "V32")
        assert not writer.has(unknown).any()
        return writer.store_cut(lambda: b"the manifest", [Kept(before), new, Kept(behind)])

    event = toy.repository.commit(toy.stream, lambda: Draft("put", {"id": "new"}), store=store)
    assert event is not None
    assert event.content is not None
    assert event.content.written < 60_000
    content = toy.repository.read(toy.stream, event)
    whole = b"".join(first)
    at = int(ends[cut])
    assert content.read(0, content.body_size) == whole[:at] + new + whole[at:]
    assert content.manifest == b"the manifest"
    toy.repository.prune(grace=0)
    assert toy.repository.check(read_data=True).ok


def test_unknown_compression_is_refused() -> None:
    with pytest.raises(InvalidArgument, match='"auto", "high" or "none"'):
        Repository("memory://any", compression="best")  # type: ignore[arg-type]


# --- what is stored once ------------------------------------------------------------------------------------------


class TestDeduplication:
    def test_equal_leaves_are_stored_once(self, memory_storage: Storage) -> None:
        toy = ToyKind(opened(memory_storage))
        toy.put("first", [memoryview(NOISE)[:5_000_000]])
        changed = bytearray(NOISE[:5_000_000])
        changed[4_500_000] ^= 1
        event = toy.put("second", [memoryview(changed)])
        assert event.content is not None
        assert event.content.written < 1_000_000
        assert toy.get("second") == changed

    def test_insertion_moves_the_cut_points_with_it(self, memory_storage: Storage) -> None:
        toy = ToyKind(opened(memory_storage))
        toy.put("first", [NOISE[:3_000_000]])
        event = toy.put("second", [NOISE[:1_000] + b"inserted" + NOISE[1_000:3_000_000]])
        assert event.content is not None
        assert event.content.written < 300_000

    def test_many_small_commits_are_all_found_by_a_cold_reader(self, memory_storage: Storage) -> None:
        """Their index objects are merged on the way."""
        toy = ToyKind(opened(memory_storage))
        for number in range(300):
            toy.put(f"item-{number}", [b"%d" % number], chunked=True)
        levels = [path[6] for path in listing(memory_storage) if path.startswith("index/")]
        assert levels.count("1") == 4
        fresh = ToyKind(opened(memory_storage))
        assert [fresh.get(f"item-{number}") for number in range(300)] == [b"%d" % number for number in range(300)]
        before = fresh.repository.location.requests["GET"]
        assert ToyKind(opened(memory_storage)).get("item-7") == b"7"
        assert fresh.repository.location.requests["GET"] - before < 60

    def test_merged_index_survives_prunes(self, memory_storage: Storage, short: None) -> None:
        toy = ToyKind(opened(memory_storage))
        for round_number in range(4):
            for number in range(10):
                toy.put(f"item-{number}", [b"%d of round %d" % (number, round_number)], chunked=True, overwrite=True)
            toy.repository.prune(grace=0)
        fresh = ToyKind(opened(memory_storage))
        assert [fresh.get(f"item-{number}") for number in range(10)] == [b"%d of round 3" % n for n in range(10)]
        assert sum(path.startswith("packs/") for path in listing(memory_storage)) <= 20


# --- a long history -----------------------------------------------------------------------------------------------


class TestLongHistory:
    @pytest.fixture(scope="class")
    @staticmethod
    def history() -> tuple[Storage, list[catalog.Event]]:
        """A name with 10,007 events, in memory."""
        storage = Storage("memory://a-long-history")
        repository = opened(storage)
        events: list[catalog.Event] = []
        stream = repository.stream(KIND, "default", events.append)
        repository.parts(writing=True).catalog.register(stream)
        for number in range(10_007):
            stream.append("note", {"number": number}, epoch=0, token=b"%016d" % number)
        return storage, events

    def cold(self, storage: Storage) -> tuple[list[catalog.Event], int]:
        """What a newcomer reads, and in how many requests."""
        repository = opened(storage)
        events: list[catalog.Event] = []
        repository.stream(KIND, "default", events.append)
        return events, repository.location.requests["GET"]

    def test_is_opened_by_a_few_reads(self, history: tuple[Storage, list[catalog.Event]]) -> None:
        events, requests = self.cold(history[0])
        assert events == history[1]
        assert requests < 25

    @pytest.mark.parametrize(
        ("kind", "damage"),
        [
            ("hint", lambda _: None),
            ("hint", lambda data: data[::-1]),
            ("0-", lambda data: data[: len(data) // 2]),
            ("1-", lambda _: None),
            ("3-0", lambda data: data[::-1]),
            ("", lambda _: None),
        ],
    )
    def test_lost_and_damaged_summaries_only_cost_reads(
        self, history: tuple[Storage, list[catalog.Event]], kind: str, damage: Callable[[bytes], bytes | None]
    ) -> None:
        storage, expected = history
        location = open_location(storage.url)
        originals = {
            info.path: location.read(info.path)
            for info in location.list("compacted")
            if info.path.rpartition("/")[2].startswith(kind)
        }
        for path, data in originals.items():
            harmed = damage(data)
            location.delete([path]) if harmed is None else location.replace(path, harmed)
        try:
            events, requests = self.cold(storage)
            assert events == expected
            assert requests < 13_000
        finally:
            for path, data in originals.items():
                location.replace(path, data)


# --- the format ------------------------------------------------------------------------------------------------------


def test_cut_points_stay_where_they_are() -> None:
    """Other ones would find nothing again of what repositories hold."""
    text = b"".join(b"%d %d\n" % (number, number * number) for number in range(150_000))
    sizes = [len(chunk) for chunk in chunking.content_defined(text)]
    assert (len(text), len(sizes)) == (2_592_641, 35)
    assert sizes[:6] == [83_913, 93_018, 26_259, 67_887, 98_360, 70_211]
    noise = random.Random(7).randbytes(3_000_000)
    sizes = [len(chunk) for chunk in chunking.content_defined(noise)]
    assert len(sizes) == 36
    assert sizes[:6] == [111_090, 67_285, 86_090, 221_300, 99_418, 125_415]
    parts: list[bytes | memoryview] = [
        b"a" * 60_000,
        b"b" * 6_000,
        memoryview(noise)[:5_000],
        memoryview(noise + noise)[:5_000_000],
        b"c",
    ]
    assert [len(chunk) for chunk in chunking.cut(parts)] == [66_000, 5_000, 4_194_304, 805_696, 1]


@pytest.mark.parametrize("name", ["plain", "encrypted"])
def test_repository_of_format_1_is_read(tmp_path: Path, name: str) -> None:
    with tarfile.open(Path(__file__).parent / "data/golden-1.tar.xz") as archive:
        # Python 3.11.2 has no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path)
    repository = Repository(tmp_path / name, password=golden.PASSWORDS[name])
    toy, other = ToyKind(repository, "golden"), ToyKind(repository, "others/Größe")
    assert repository.names(KIND) == ["golden", "others/Größe"]
    expected = [number for number in range(golden.COUNT) if number != 1]
    assert sorted(toy.items) == sorted(f"item-{number}" for number in expected)
    assert all(toy.get(f"item-{number}") == golden.body(number) for number in expected)
    assert other.get("copy") == golden.body(2)
    assert repository.check(read_data=True).ok
    again = toy.put("again", [golden.body(2)], chunked=True)
    assert again.content is not None
    assert again.content.written < 100, "chunks are named as they were"


# --- memory -----------------------------------------------------------------------------------------------------------


def test_index_takes_48_bytes_a_chunk(memory_storage: Storage) -> None:
    location, sealer = open_location(memory_storage.url), sealing.Sealer(bytes(16))
    writer = index.Index(location, sealer)
    chance = np.random.default_rng(1)
    for _ in range(2):
        records = np.zeros(500_000, index.RECORD)
        records["chunk"] = np.frombuffer(chance.bytes(500_000 * 32), "V32")
        writer._write(0, [bytes(16)], [], records.tobytes())
    found = index.Index(location, sealer)
    tracemalloc.start()
    found.load()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 1_000_000
    assert kept < 48.5 * 1_000_000


def made_up(count: int, chance: np.random.Generator) -> list[index.ChunkCopy]:
    ids = chance.bytes(count * 32)
    return [index.ChunkCopy(ids[at : at + 32], bytes(16), at, 100, 200, 0) for at in range(0, count * 32, 32)]


def test_a_table_grows_while_what_it_is_made_of_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_SLICE", 50_000)
    chance = np.random.default_rng(1)
    tables = []
    for _ in range(10):
        heads, rows, memory = index._own_memory(100_000)
        heads[:] = np.sort(np.frombuffer(chance.bytes(800_000), "<u8"))
        rows["tail"] = np.frombuffer(chance.bytes(2_400_000), "V24")
        tables.append(index._Passing(heads, rows, memory))
    status = Path("/proc/self/status")
    before = int(status.read_text().partition("VmRSS:")[2].split()[0]) * 1024
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    heads, rows = index._merged(tables)
    peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    assert len(heads) == len(rows) == 1_000_000
    assert bool((heads[1:] >= heads[:-1]).all())
    assert peak - before < 0.4 * 48 * 1_000_000, "not as much as another table"


def test_few_new_chunks_leave_the_large_table_as_it_is(memory_storage: Storage) -> None:
    location, sealer = open_location(memory_storage.url), sealing.Sealer(bytes(16))
    chance = np.random.default_rng(1)
    old, few, many = made_up(3_000, chance), made_up(300, chance), made_up(3_000, chance)
    index.Index(location, sealer).publish(old)
    writer, other = index.Index(location, sealer), index.Index(location, sealer)
    writer.load()
    table = writer._tables[0][0]
    for entries, kept in ((few, True), (many, False)):
        other.publish(entries)
        writer.load()
        assert (writer._tables[0][0] is table) == kept
        assert [writer.find(entry.chunk) for entry in (*old, *entries)] == [*old, *entries]
    other.publish(few)
    writer.load()
    assert len(writer) == 6_300 + 300
    heads, rows, _ = writer.table()
    assert len(heads) == len(rows) == len(writer) == 6_300
    assert {writer.entry_at(row) for row in range(6_300)} == {*old, *few, *many}


def test_index_objects_that_are_large_are_not_merged(memory_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that chunks are published, all of them would be read again."""
    for name, value in {"_LARGEST": 100, "_FULL": 50, "_MERGE": 4, "_SMALL": 0}.items():
        monkeypatch.setattr(index, name, value)
    location, chance = open_location(memory_storage.url), np.random.default_rng(1)
    writer = index.Index(location, sealing.Sealer(bytes(16)))

    def publish(count: int, times: int) -> list[str]:
        for _ in range(times):
            writer.publish(made_up(count, chance))
        return [info.path for info in location.list("index") if info.path.startswith("index/1-")]

    assert publish(60, 10) == []
    assert len(publish(30, 4)) == 1, "three of them fill one object"
    assert len(publish(30, 3)) == 2
    found = index.Index(location, sealing.Sealer(bytes(16)))
    found.load()
    assert len(found) == len(found.table()[0]) == 10 * 60 + 7 * 30


SAVE_MUCH = """
import sys
from pathlib import Path
import numpy as np
from prefect_snapshots.repository import Repository
sys.path.insert(0, sys.argv[2])
from toy_kind import ToyKind

def status(name):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) // 1024

toy = ToyKind(Repository(sys.argv[1]))
toy.put("warm", [memoryview(np.random.default_rng(1).bytes(5_000_000))])
array = np.random.default_rng(2).integers(0, 256, 256 << 20, np.uint8)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = status("VmRSS")
toy.put("large", [memoryview(array)])
print(status("VmHWM") - before)
"""


def test_saving_256_mb_takes_less_than_100_mb(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAVE_MUCH, str(tmp_path / "repository"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100


# --- looking after it ---------------------------------------------------------------------------------------------


def test_check_notes_what_does_not_belong(local_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = ToyKind(opened(local_storage))
    toy.put("item", [b"1"])
    (Path(local_storage.url) / "README.txt").write_text("mine")
    real = catalog.time.time_ns  # type: ignore[attr-defined]
    monkeypatch.setattr(catalog.time, "time_ns", lambda: real() - 3 * 24 * 3600 * 10**9)  # type: ignore[attr-defined]
    toy.put("from a slow clock", [b"2"])
    report = opened(local_storage).check(read_data=True)
    assert report.ok
    assert len(report.notes) == 2
    assert report.notes[0] == "README.txt does not belong to a repository"
    assert "from a slow clock says it was written -3.0 days" in report.notes[1]


def test_full_disk_publishes_nothing(small_disk: Path) -> None:
    repository = Repository(small_disk / "repository")
    toy = ToyKind(repository)
    toy.put("before", [NOISE[:50_000]])
    ballast = small_disk / "ballast"
    reserve = (small_disk / "repository" / "repository.reserve").stat().st_size
    ballast.write_bytes(bytes(700_000 - reserve))
    for body in (NOISE[:600_000], NOISE[:5_000_000]):
        with pytest.raises(StorageFull):
            toy.put("too large", [body])
    for name, size in {"inline": 10, "chunked": 30_000}.items():
        toy.put(name, [NOISE[:size]])
    fresh = ToyKind(Repository(small_disk / "repository"))
    assert set(fresh.items) == {"before", "inline", "chunked"}
    assert fresh.repository.check(read_data=True).ok
    ballast.unlink()
    toy.put("too large", [NOISE[:600_000]])
    assert ToyKind(Repository(small_disk / "repository")).get("too large") == NOISE[:600_000]


def test_threads_share_a_repository_with_a_prune(local_storage: Storage) -> None:
    repository = opened(local_storage)
    failures: list[BaseException] = []
    done = threading.Event()

    def watched(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return run

    def write(number: int) -> None:
        toy = ToyKind(repository, f"name-{number % 2}")
        for turn in range(25):
            item = f"item-{number}-{turn}"
            toy.put(item, [NOISE[turn * 1_000 : turn * 1_000 + 30_000], item.encode()])
            assert toy.get(item) == NOISE[turn * 1_000 : turn * 1_000 + 30_000] + item.encode()
            if turn % 3 == 2:
                toy.remove(item)

    def prune() -> None:
        while not done.is_set():
            repository.prune(grace=0)

    writers = [threading.Thread(target=watched(partial(write, number))) for number in range(6)]
    pruner = threading.Thread(target=watched(prune))
    for thread in (*writers, pruner):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    pruner.join()
    assert failures == []
    fresh = opened(local_storage)
    items = [item for number in range(2) for item in ToyKind(fresh, f"name-{number}").items]
    assert len(items) == 6 * 17
    assert fresh.check(read_data=True).ok


def test_writers_that_never_pause_hold_up_neither_reads_nor_check_nor_prune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside them, every look at the index finds something new."""
    toy = ToyKind(Repository(str(tmp_path / "repository")))
    toy.put("one", [NOISE[:100_000]])
    [pack] = [path for path in (tmp_path / "repository" / "packs").rglob("*") if path.is_file()]
    for entry in (tmp_path / "repository" / "index").rglob("*"):
        if entry.is_file():
            entry.unlink()
    pack.unlink()
    load = index.Index.load
    monkeypatch.setattr(index.Index, "load", lambda one: load(one) or True)
    fresh = ToyKind(Repository(str(tmp_path / "repository")))
    with pytest.raises(IntegrityError):
        fresh.get("one")
    with pytest.raises(IntegrityError):
        fresh.repository.prune(grace=0)
    assert not fresh.repository.check().ok


def test_whoever_watches_sees_every_byte_that_is_saved_copied_and_loaded(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    manager = SnapshotManager(tmp_path / "r")
    value = np.random.default_rng(0).integers(0, 255, 20_000_000, np.uint8)
    with watched(lambda *step: seen.append(step)):
        manager.save_snapshot(value, "large")
        manager.save_snapshot(b"small", "small")
        manager.promote("large", ArtifactRegistry(tmp_path / "other"), "model")
        assert np.array_equal(manager.get_snapshot("large").data, value)
    for what in ("save", "copy", "load"):
        steps = [(done, total) for step, done, total in seen if step == what]
        assert steps == sorted(steps)
        assert len(steps) > 1
        assert steps[-1][0] == steps[-1][1] >= value.nbytes
    count = len(seen)
    with watched(lambda *step: seen.append(step)):
        saving = manager.save_async(value + 1, "in the background")
    saving.result()
    assert seen[-1] == ("save", seen[-1][2], seen[-1][2])
    assert len(seen) > count
    count = len(seen)
    manager.save_snapshot(value + 2, "unwatched")
    assert len(seen) == count
