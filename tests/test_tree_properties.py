"""Random directories, changed at random between backups, come back as `rsync -aHAX --delete` would have copied them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_backup_trees import Vault, described

from prefect_snapshots.trees.restoring import restore_directory
from prefect_snapshots.trees.scanning import Directory

NAMES = [b"a", b"b", b"c d", b"\xff\xfe", "\N{SNOWMAN}".encode(), b"-n", b"*", b"line\nfeed", b"x" * 255]

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
sizes = st.sampled_from([0, 1, 4095, 4096, 70_000, 1_300_000])
times = st.one_of(
    st.integers(-(10**18), 4 * 10**18),
    st.sampled_from([0, 1, 999_999_999, 1_700_000_000_000_000_001, -(2**63), 2**63, 2**64 - 1]),
)
changes = st.one_of(
    st.tuples(st.just("file"), paths, sizes, st.integers(0, 3)),
    st.tuples(st.just("sparse"), paths, sizes, sizes),
    st.tuples(st.just("directory"), paths),
    st.tuples(st.just("symlink"), paths, st.one_of(paths, st.sampled_from([b"/etc/passwd", b"../..", b"nowhere"]))),
    st.tuples(st.just("hard link"), paths, paths),
    st.tuples(st.just("fifo"), paths),
    st.tuples(st.just("mode"), paths, st.integers(0, 0o7777)),
    st.tuples(st.just("time"), paths, times),
    st.tuples(st.just("owner"), paths, st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("attribute"), paths, st.sampled_from(["user.a", "user.b"]), st.binary(max_size=40)),
    st.tuples(st.just("remove"), paths),
    st.tuples(st.just("rename"), paths, paths),
)
options = st.tuples(st.booleans(), st.booleans())
generations = st.lists(st.lists(changes, min_size=1, max_size=12), min_size=1, max_size=3)


def written(path: bytes) -> IO[bytes]:
    """Open a file for writing; what is there may be a pipe, which would wait for a reader for ever."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o644), "wb")


def apply(root: bytes, change: tuple[Any, ...]) -> None:
    """Change a directory. What is not possible, such as a file below a file, changes nothing."""
    what, name, *rest = change
    path = root + b"/" + name
    with contextlib.suppress(OSError):
        if what in ("file", "sparse", "directory", "symlink", "hard link", "fifo", "rename"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        if what == "file":
            size, seed = rest
            with written(path) as file:
                file.write(random.Random(seed).randbytes(size))
        elif what == "sparse":
            hole, size = rest
            with written(path) as file:
                file.seek(hole)
                file.write(b"data" * (size // 4))
                file.truncate(hole + size + hole)
        elif what == "directory":
            os.mkdir(path)
        elif what == "symlink":
            os.symlink(rest[0], path)
        elif (
            what == "hard link" and os.path.isfile(root + b"/" + rest[0]) and not os.path.islink(root + b"/" + rest[0])
        ):
            # rsync also keeps several names of one pipe or one symbolic link. A backup makes several of it.
            os.link(root + b"/" + rest[0], path)
        elif what == "fifo":
            os.mkfifo(path)
        elif what == "mode" and not os.path.islink(path):
            # A user who may not read something cannot back it up; that has tests of its own.
            os.chmod(path, rest[0] | (0o700 if os.path.isdir(path) else 0o600))
        elif what == "time":
            os.utime(path, ns=(1, rest[0]), follow_symlinks=False)
        elif what == "owner" and os.geteuid() == 0:
            os.chown(path, rest[0], rest[1], follow_symlinks=False)
        elif what == "attribute" and os.path.isfile(path) and not os.path.islink(path):
            os.setxattr(path, rest[0], rest[1])
        elif what == "remove":
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        elif what == "rename":
            os.rename(path, root + b"/" + rest[0])


def rsync(source: Path, target: Path, *options: str) -> str:
    command = ["rsync", "-aHAX", "--checksum", "--modify-window=-1", "--delete", *options, f"{source}/", f"{target}/"]
    return subprocess.run(command, capture_output=True, text=True, check=True, errors="replace").stdout


def follow(history: list[list[tuple[Any, ...]]], folder: Path, options: tuple[bool, bool]) -> None:
    """Back a directory up after each generation of changes, and restore each of them over what there is by then.

    The options of these restores are `only_changed` and `in_place`.
    """
    source, vault = folder / "source", Vault(folder / "repository")
    source.mkdir()
    archives = []
    for number, generation in enumerate(history):
        for change in generation:
            apply(os.fsencode(source), change)
        archives.append(vault.backup(Directory(source)))
        (folder / f"copy-{number}").mkdir()
        rsync(source, folder / f"copy-{number}")
    for number in reversed(range(len(history))):
        only_changed, in_place = options
        part = archives[number].part("source")
        restored = restore_directory(part, source, only_changed=only_changed, in_place=in_place)
        assert not restored.not_set
        copy = folder / f"copy-{number}"
        assert rsync(copy, source, "--dry-run", "--itemize-changes") == ""
        assert described(source) == described(copy)
        again = restore_directory(part, source, in_place=True, only_changed=True)
        assert (again.files, again.unchanged) == (0, restored.files + restored.unchanged)
        assert described(source) == described(copy)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=generations, options=options)
def test_random_directories_come_back_as_rsync_copies_them(
    history: list[list[tuple[Any, ...]]], options: tuple[bool, bool]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        follow(history, Path(folder), options)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=generations, options=options)
def test_many_random_directories_come_back(history: list[list[tuple[Any, ...]]], options: tuple[bool, bool]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        follow(history, Path(folder), options)
