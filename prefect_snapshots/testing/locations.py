"""The tests that every storage backend must pass."""

from __future__ import annotations

import multiprocessing
import pickle
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import pytest

from .. import errors
from ..redaction import harmless_options
from ..repository.location import Location, ObjectInfo, open_location

Place: TypeAlias = tuple[str, Mapping[str, Any]]
"""The arguments of `open_location`: a URL and its options."""

_HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "/etc/passwd",
    "a//b",
    "a/",
    "./a",
    ".tmp-x",
    "a\0b",
    "a\nb",
    "a\n",
]


class LocationContract:
    """Tests that every storage backend must pass. Inherit this class in your tests, and override the fixture `place`.

    The fixture returns a URL and its storage options. The URL must be empty, and a different one for each test.

    Attributes:
        is_shared: Whether other processes see the same objects. Default: True.

    Example:
        ```python
        class TestFolders(LocationContract):
            @pytest.fixture
            def place(self, tmp_path):
                return f"folders://{tmp_path}/repository", {}
        ```
    """

    is_shared = True

    @pytest.fixture
    def place(self) -> Place:
        """Return a new, empty URL and its storage options."""
        raise NotImplementedError("Override the fixture `place`: return a URL and storage options.")

    @pytest.fixture
    def location(self, place: Place) -> Location:
        """Return the location to test."""
        return open_location(*place)

    @pytest.fixture
    def contenders(self) -> int:
        """Return how many writers compete for one object. Default: 16."""
        return 16

    @pytest.fixture
    def more_than_a_page(self) -> int:
        """Return a number of objects that do not fit into one page of a listing. Default: 50."""
        return 50

    def test_reads_what_was_created(self, location: Location) -> None:
        data = secrets.token_bytes(1000)
        assert location.create("catalog/ab/0001", data)
        assert location.read("catalog/ab/0001") == data
        assert location.size("catalog/ab/0001") == 1000
        assert open_location(location.url, dict(location.storage_options)).read("catalog/ab/0001") == data

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [(0, 4, b"0123"), (3, 4, b"3456"), (8, 10, b"89"), (10, 5, b""), (50, 5, b""), (3, 0, b"")],
    )
    def test_reads_a_range_and_less_where_the_object_ends(
        self, location: Location, start: int, length: int, expected: bytes
    ) -> None:
        location.create("object", b"0123456789")
        assert location.read_range("object", start, length) == expected
        target = bytearray(length)
        assert location.read_into("object", start, memoryview(target)) == len(expected)
        assert target[: len(expected)] == expected

    def test_reads_into_a_part_of_a_buffer(self, location: Location) -> None:
        location.create("object", b"0123456789")
        target = bytearray(8)
        assert location.read_into("object", 2, memoryview(target)[3:6]) == 3
        assert target == b"\0\0\0" + b"234" + b"\0\0"

    def test_a_missing_object_has_a_name_of_its_own(self, location: Location) -> None:
        location.create("folder/object", b"x")
        for path in ("nothing", "folder", "folder/nothing", "folder/object/below"):
            with pytest.raises(errors.ObjectMissing, match=path):
                location.read(path)
            with pytest.raises(errors.ObjectMissing, match=path):
                location.read_range(path, 0, 1)
            with pytest.raises(errors.ObjectMissing, match=path):
                location.read_into(path, 0, memoryview(bytearray(1)))
            assert location.size(path) is None

    def test_reads_many_in_the_order_asked_for(self, location: Location) -> None:
        for number in range(40):
            location.create(f"many/{number:02}", f"object {number}".encode())
        wanted = [f"many/{number:02}" for number in (7, 39, 3, 99, 7, *range(40))]
        expected = [f"object {number}".encode() if number < 40 else None for number in (7, 39, 3, 99, 7, *range(40))]
        assert location.read_many(wanted) == expected
        assert location.read_many([]) == []

    def test_creates_only_what_is_not_there(self, location: Location) -> None:
        assert location.create("slot", b"first")
        assert not location.create("slot", b"second")
        assert location.create("slot", b"first"), "our own bytes mean that we have won"
        assert location.read("slot") == b"first"

    def test_of_many_contenders_exactly_one_wins(self, place: Place, contenders: int) -> None:
        claims = [secrets.token_bytes(16) for _ in range(contenders)]
        locations = [open_location(*place) for _ in range(4)] * (contenders // 4)
        start = threading.Barrier(contenders)

        def contend(location: Location, claim: bytes) -> bool:
            start.wait()
            return location.create("slot/0001", claim)

        with ThreadPoolExecutor(contenders) as threads:
            won = list(threads.map(contend, locations, claims))
        assert won.count(True) == 1
        assert locations[0].read("slot/0001") == claims[won.index(True)]

    def test_proves_that_creating_is_exclusive(self, location: Location) -> None:
        assert location.is_empty()
        location.prove_exclusive()
        assert location.is_empty()
        assert location.list("") == []

    def test_refuses_to_create_an_empty_object(self, location: Location) -> None:
        with pytest.raises(errors.InvalidArgument, match="token"):
            location.create("slot", b"")

    def test_replaces(self, location: Location) -> None:
        location.replace("head", b"the first one, longer")
        location.replace("head", b"second")
        assert location.read("head") == b"second"
        for durable in (True, False):
            location.put("head", b"third" * (1 + durable), durable=durable)
            assert location.read("head") == b"third" * (1 + durable)
        assert _paths(location) == ["head"]

    def test_a_reader_sees_the_old_object_or_the_new_one(self, place: Place) -> None:
        old, new = b"a" * 300_000, b"b" * 400_000
        writer, reader = open_location(*place), open_location(*place)
        writer.replace("head", old)
        seen = set()
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.add(reader.read("head"))

        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(read)
            for _ in range(5):
                writer.replace("head", new)
                writer.replace("head", old)
            done.set()
            reading.result()
        assert seen <= {old, new}

    def test_writes_piece_by_piece(self, location: Location) -> None:
        pieces = [secrets.token_bytes(1 + number % 7) for number in range(3000)]
        writer = location.writer("packs/ab/0001")
        writer.write(pieces)
        writer.write([])
        writer.write(b"")
        buffer = bytearray(b"one buffer")
        writer.write(buffer)
        buffer[:] = b"reused now"
        writer.write([memoryview(b"-view-")[1:5], bytearray(b"last")])
        assert location.list("") == [], "nothing is visible before it is closed"
        thread = threading.Thread(target=writer.close)
        thread.start()
        thread.join()
        assert location.read("packs/ab/0001") == b"".join(pieces) + b"one buffer" + b"view" + b"last"
        assert location.leftovers() == []

    def test_an_aborted_writer_leaves_nothing(self, location: Location) -> None:
        writer = location.writer("packs/ab/0001")
        writer.write(b"x" * 100_000)
        writer.abort()
        assert location.list("") == []
        assert location.leftovers() == []
        with pytest.raises(errors.InvalidArgument, match="closed"):
            writer.write(b"more")
        writer.close()
        assert location.list("") == []

    def test_aborting_after_closing_does_nothing(self, location: Location) -> None:
        writer = location.writer("packs/ab/0001")
        writer.write(b"data")
        writer.close()
        writer.abort()
        writer.close()
        assert location.read("packs/ab/0001") == b"data"

    def test_lists_exactly_what_is_there(self, place: Place) -> None:
        location, another = open_location(*place), open_location(*place)
        assert location.list("") == []
        assert location.list("catalog") == []
        before = time.time()
        location.create("catalog/ab/0001", b"1")
        location.create("catalog/ab/0002", b"22")
        another.create("catalog/cd/0001", b"333")
        another.create("catalog-2/0001", b"4444")
        location.create("top", b"55555")
        assert [(info.path, info.size) for info in location.list("")] == [
            ("catalog-2/0001", 4),
            ("catalog/ab/0001", 1),
            ("catalog/ab/0002", 2),
            ("catalog/cd/0001", 3),
            ("top", 5),
        ]
        assert _paths(location, "catalog") == ["catalog/ab/0001", "catalog/ab/0002", "catalog/cd/0001"]
        assert _paths(location, "catalog/ab") == ["catalog/ab/0001", "catalog/ab/0002"]
        assert location.list("catalog/a") == []
        assert location.list("top") == []
        another.delete(["catalog/ab/0001"])
        another.replace("catalog/ab/0002", b"replaced")
        (info,) = location.list("catalog/ab")
        assert info == ObjectInfo("catalog/ab/0002", 8, info.modified)
        assert before - 2 <= info.modified <= time.time() + 2

    def test_lists_more_than_fits_into_one_page(self, location: Location, more_than_a_page: int) -> None:
        wanted = [f"many/{number:04}" for number in range(more_than_a_page)]
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(lambda path: location.create(path, b"x"), wanted))
        assert _paths(location) == wanted
        # More than one request takes.
        location.delete(wanted + [f"missing/{number:04}" for number in range(1100)])
        assert location.list("") == []

    def test_deleting_what_is_missing_is_fine(self, location: Location) -> None:
        for path in ("a/1", "a/2", "b/1"):
            location.create(path, b"x")
        location.delete(["a/1", "nothing/here", "b/1", "a"])
        location.delete(path for path in ["a/1"])
        location.delete([])
        assert _paths(location) == ["a/2"]
        assert location.create("a/1", b"again")

    def test_is_empty_until_there_is_an_object(self, location: Location) -> None:
        assert location.is_empty()
        location.create("deep/below/object", b"x")
        assert not location.is_empty()
        location.delete(["deep/below/object"])
        assert location.is_empty()

    def test_refuses_paths_that_are_none(self, location: Location) -> None:
        uses: list[Callable[[str], object]] = [
            location.read,
            lambda path: location.read_range(path, 0, 1),
            lambda path: location.read_into(path, 0, memoryview(bytearray(1))),
            lambda path: location.read_many(["a", path]),
            lambda path: location.create(path, b"x"),
            lambda path: location.replace(path, b"x"),
            location.writer,
            location.size,
            lambda path: location.delete([path]),
            lambda path: location.list(path or ".."),
        ]
        for path in _HOSTILE:
            for use in uses:
                with pytest.raises(errors.InvalidName):
                    use(path)
        assert location.is_empty()

    def test_survives_pickling(self, location: Location) -> None:
        location.create("object", b"here")
        copy = pickle.loads(pickle.dumps(location))
        assert (type(copy), copy.url) == (type(location), location.url)
        # Credentials stay in this process.
        assert copy.storage_options == harmless_options(location.storage_options)
        copy = open_location(copy.url, location.storage_options)
        assert copy.read("object") == b"here"
        assert copy.requests["GET"] == 1

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_works_in_another_process(self, location: Location, method: str) -> None:
        both = [b"from the child", b"from the parent"]
        # What lives in memory is not shared: a process that was spawned starts with nothing, one that was forked with a
        # copy, and what either does stays there.
        expected = [b"from the child"] if not self.is_shared and method == "spawn" else both
        left = both if self.is_shared else [b"from the parent"]
        location.create("from-parent", b"from the parent")
        context: Any = multiprocessing.get_context(method)
        receiver, sender = context.Pipe(duplex=False)
        # A forked child inherits the location, connections and all; one that is spawned has to be told the credentials.
        place = location if method == "fork" else (location.url, dict(location.storage_options))
        process = context.Process(target=_create_and_read_all, args=(place, sender))
        process.start()
        sender.close()
        assert receiver.recv() == expected
        process.join(30)
        # What other libraries of this process do at exit may fail in a forked child.
        assert process.exitcode == 0 or method == "fork"
        assert [location.read(path) for path in _paths(location)] == left

    def test_counts_its_requests(self, location: Location) -> None:
        location.create("a", b"1")
        location.read("a")
        location.read_many(["a", "a"])
        location.size("a")
        location.list("")
        location.delete(["a"])
        assert dict(location.requests) == {"PUT": 1, "GET": 3, "HEAD": 1, "LIST": 1, "DELETE": 1}

    def test_is_used_by_many_threads_at_once(self, location: Location) -> None:
        def work(number: int) -> bool:
            path = f"thread/{number}"
            return location.create(path, b"%d" % number) and location.read(path) == b"%d" % number

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(work, range(40)))
        assert (location.requests["PUT"], location.requests["GET"]) == (40, 40)


def _create_and_read_all(place: Location | Place, sender: Any) -> None:
    location = place if isinstance(place, Location) else open_location(*place)
    location.create("from-child", b"from the child")
    sender.send([location.read(path) for path in _paths(location)])
    sender.close()


def _paths(location: Location, prefix: str = "") -> list[str]:
    return [info.path for info in location.list(prefix)]
