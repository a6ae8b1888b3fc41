"""Reading a Parquet file on S3 through `snapshots://`, beside the same file through s3fs: seconds and requests.

The server is the one of the tests, behind a proxy that counts requests. s3fs verifies nothing, and reads uncompressed.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _measure import MB, NOTHING_WRITTEN, OURS, ROOT, Report, arguments, in_turns, scratch, seconds

sys.path.insert(0, str(ROOT / "tests"))

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import servers

from prefect_snapshots import ArtifactRegistry, Repository

PACKAGES = ("s3fs", "aiobotocore", "moto", "pyarrow")

COLUMNS = 20
RANGE = 64 * 1024
"""Bytes of a random read."""
PIECE = 1024 * 1024
"""Bytes that a program reads at once when it reads a file in order."""
_OPENING = 20
"""Requests to open the repository and find the file, at most."""

Open = Callable[[], Any]
"""Opens the file, by a file system that has not read anything yet."""


def table(size: int) -> pyarrow.Table:
    """Random columns of about this many bytes together: they cannot be compressed."""
    rows = size // (8 * COLUMNS)
    noise = np.random.default_rng(0)
    return pyarrow.table({f"column_{number}": noise.random(rows) for number in range(COLUMNS)})


def in_order(opened: Open) -> None:
    with opened() as file:
        while file.read(PIECE):
            pass


def one_column(opened: Open) -> None:
    with opened() as file:
        pyarrow.parquet.read_table(file, columns=["column_7"])


def at_random(opened: Open, count: int) -> None:
    noise = random.Random(0)
    with opened() as file:
        for _ in range(count):
            file.seek(noise.randrange(file.size - RANGE))
            if len(file.read(RANGE)) != RANGE:
                raise AssertionError("the file is shorter than it was")


def measure(folder: Path, report: Report) -> None:
    options = report.options
    file = folder / "table.parquet"
    pyarrow.parquet.write_table(table(options.size_mb * MB), file, row_group_size=100_000)
    with servers.moto() as upstream, servers.dropping_proxy(upstream) as proxy:
        storage = servers.s3_options(proxy.endpoint)
        url = f"s3://{servers.BUCKET}/repository"
        ArtifactRegistry(Repository(url, storage_options=storage)).log_files("table", file)
        plain = f"{servers.BUCKET}/table.parquet"
        fsspec.filesystem("s3", **storage).put(str(file), plain)

        def ours() -> Any:
            files = fsspec.filesystem("snapshots", repository=url, storage_options=storage, skip_instance_cache=True)
            return files.open("artifacts/table@v0/table.parquet")

        def s3fs() -> Any:
            return fsspec.filesystem("s3", **storage, skip_instance_cache=True).open(plain)

        at_once = partial(at_random, count=options.ranges)
        # Of a group of rows, which has 16 MB, a column is one stretch; a random read is in one or two of the packs.
        works: list[tuple[str, Callable[[Open], None], int]] = [
            ("read the file in order", in_order, options.size_mb // 2),
            (f"read one column of {COLUMNS}", one_column, options.size_mb),
            (f"{options.ranges} random reads of 64 KiB", at_once, 3 * options.ranges),
        ]
        for what, work, bound in works:

            def turn(opened: Open, work: Callable[[Open], None] = work) -> tuple[float, int]:
                before = Counter(proxy.requests)
                took = seconds(lambda: work(opened))
                return took, (Counter(proxy.requests) - before).total()

            found = in_turns({OURS: partial(turn, ours), "s3fs": partial(turn, s3fs)}, options.repeat)
            for contender, results in found.items():
                report.add(what, contender, [took for took, _ in results], "s", NOTHING_WRITTEN)
                report.add(f"{what}: requests", contender, [count for _, count in results], "requests", NOTHING_WRITTEN)
            highest = max(count for _, count in found[OURS])
            report.at_most(f"{what}: requests", highest, _OPENING + bound, "requests")


def main() -> int:
    parser = arguments(__doc__, repeat=5)
    parser.add_argument("--size-mb", type=int, default=200, help="size of the file")
    parser.add_argument("--ranges", type=int, default=100, help="random reads")
    options = parser.parse_args()
    with scratch(options.directory) as folder:
        report = Report("file system", options, PACKAGES, folder)
        measure(folder, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
