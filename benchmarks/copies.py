"""Copying a repository of backups to another one with another password, beside `restic copy` and `rclone sync`.

A directory is backed up and copied for the first time; then 1 % of its files change, it is backed up again, and what is
new is copied. `rclone sync` copies the objects of our repository as they are, with their keys: it neither verifies nor
decrypts, and copies deletes. Every measurement is a process of its own. The last part counts requests of a copy to S3.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _measure import MB, OURS, POWER_LOSS, ROOT, Report, arguments, in_turns, scratch, seconds, size_of

sys.path.insert(0, str(ROOT / "tests"))

import servers

from prefect_snapshots import BackupManager, Repository

PACKAGES = ("blake3", "zstandard", "cryptography")
RESTIC = "restic copy"
RCLONE = "rclone sync"

CHANGED = 0.01
FILE = 64 * 1024
"""Bytes of a file. Half of them are text, which can be compressed."""

_COPY = """
import sys
from prefect_snapshots import Repository
source, target = (Repository(url, password=url[-6:]) for url in sys.argv[1:])
assert source.copy_to(target).ok
"""


def write_file(path: Path, chance: random.Random) -> None:
    words = [chance.randbytes(3).hex() for _ in range(200)]
    text = " ".join(chance.choices(words, k=FILE // 14)).encode()
    path.write_bytes(text + chance.randbytes(FILE // 2))


def change(data: Path, chance: random.Random, count: int) -> None:
    for number in chance.sample(range(count), max(int(count * CHANGED), 1)):
        write_file(data / str(number), chance)


def ours(folder: Path) -> Callable[[], object]:
    return partial(run, [sys.executable, "-c", _COPY, folder / "source", folder / "target"])


def restic(folder: Path) -> Callable[[], object]:
    target, source = folder / "restic-target", folder / "restic-source"
    return partial(run, ["restic", "--quiet", "--repo", target, "copy", "--from-repo", source])


def rclone(folder: Path) -> Callable[[], object]:
    return partial(run, ["rclone", "sync", folder / "source", folder / "rclone-target"])


def run(command: list[str | Path], password: str = "target", other: str = "source") -> None:
    secrets = {"RESTIC_PASSWORD": password, "RESTIC_FROM_PASSWORD": other}
    subprocess.run(command, env={**os.environ, **secrets}, check=True)


def back_up(folder: Path, data: Path, programs: set[str]) -> None:
    BackupManager(Repository(folder / "source", password="source"), directories=[data]).create_backup()
    if RESTIC in programs:
        run(["restic", "--quiet", "--repo", folder / "restic-source", "backup", data], "source")


def prepare(folder: Path, programs: set[str]) -> None:
    if RESTIC in programs:
        run(["restic", "--quiet", "--repo", folder / "restic-target", "init"])
        # The same chunks in both, as restic advises.
        source, target = folder / "restic-source", folder / "restic-target"
        same = ["--copy-chunker-params", "--from-repo", str(target)]
        run(["restic", "--quiet", "--repo", source, "init", *same], "source", "target")


def measure(folder: Path, report: Report) -> None:
    count = max(report.options.size_mb * MB // FILE, 2)
    programs = {OURS, *(name for name in (RESTIC, RCLONE) if shutil.which(name.partition(" ")[0]))}
    figures: dict[tuple[str, str], list[float]] = {}
    grown: dict[tuple[str, str], list[float]] = {}
    for turn in range(report.options.repeat):
        chance, place = random.Random(turn), folder / str(turn)
        data = place / "data"
        data.mkdir(parents=True)
        for number in range(count):
            write_file(data / str(number), chance)
        prepare(place, programs)
        copies = {OURS: ours(place), RESTIC: restic(place), RCLONE: rclone(place)}
        targets = {OURS: "target", RESTIC: "restic-target", RCLONE: "rclone-target"}
        for what in ("first copy", "copy after 1 % changed", "copy of nothing new"):
            if what != "copy of nothing new":
                back_up(place, data, programs)
            before = {name: size_of(place / targets[name]) for name in programs if (place / targets[name]).exists()}
            found = in_turns({name: partial(seconds, copies[name]) for name in sorted(programs)}, 1)
            for name, took in found.items():
                figures.setdefault((what, name), []).extend(took)
                size = size_of(place / targets[name]) - before.get(name, 0)
                grown.setdefault((what, name), []).append(size / MB)
            change(data, chance, count)
        shutil.rmtree(place)
    for (what, name), values in figures.items():
        report.add(what, name, values, "s", POWER_LOSS)
        report.add(f"{what}: written", name, grown[what, name], "MB", POWER_LOSS)
    small = "copy after 1 % changed"
    report.at_most(f"{small}: written", max(grown[small, OURS]), 0.04 * count * FILE / MB + 1, "MB")
    count_requests(folder, report)


def count_requests(folder: Path, report: Report) -> None:
    """Count the requests of copies to S3: the first one, and one without anything new."""
    source = Repository(folder / "source")
    (folder / "data").mkdir()
    write_file(folder / "data" / "file", random.Random(0))
    for number in range(20):
        BackupManager(source, name=f"name-{number}", directories=[folder / "data"]).create_backup()
    with servers.moto() as upstream, servers.dropping_proxy(upstream) as proxy:
        # To open a name takes 9 requests, one after the other or together.
        for what, bound in (("first copy of 20 names to S3", 22), ("copy of nothing new to S3", 10)):
            before = Counter(proxy.requests)
            options = servers.s3_options(proxy.endpoint)
            source.copy_to(Repository(f"s3://{servers.BUCKET}/copy", storage_options=options))
            requests = (Counter(proxy.requests) - before).total()
            report.add(what, OURS, [requests], "requests", POWER_LOSS)
            report.at_most(what, requests, bound * 20 + 20, "requests")


def main() -> int:
    parser = arguments(__doc__, repeat=3)
    parser.add_argument("--size-mb", type=int, default=1000, help="size of the directory")
    options = parser.parse_args()
    with scratch(options.directory) as folder:
        report = Report("copies", options, PACKAGES, folder)
        measure(folder, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
