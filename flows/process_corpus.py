"""Embed a corpus, document by document: a run that was stopped, or killed, goes on where it stopped.

The corpus is Python's own standard library, unless another folder is given. A document is known by its path and its
content: when a file changes, that file is done again, and no other.

    python flows/process_corpus.py              embed what is not embedded yet, and print what is alike
    python flows/process_corpus.py demo         kill a run, resume it, and compare it with one that was left alone
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
    temporary_settings,
)
from rich.console import Console
from rich.table import Table

from prefect_snapshots import checkpointed, save_snapshot, use_repository
from prefect_snapshots.checkpoints import CheckpointManager
from prefect_snapshots.integration.blocks import current_repository
from prefect_snapshots.integration.live import artifact_key

VOCABULARY = 1 << 14
WIDTH = 128
"""Length of an embedding."""
SHOWN = 5
WORD = re.compile(rb"[A-Za-z_][A-Za-z_0-9]+")

PREFECT_SETTINGS = {PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120, PREFECT_SERVER_ANALYTICS_ENABLED: False}
"""Of the demo: when Prefect's own server first starts, it makes its database, which takes a small machine a minute."""

app = cyclopts.App(help=__doc__.partition("\n")[0])
tell = functools.partial(Console(highlight=False).print, soft_wrap=True)


@dataclass(frozen=True)
class Embedded:
    """What is kept of a document: how many words it has, and its embedding, of shape (WIDTH,) and length 1."""

    words: int
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class Alike:
    """Two documents, and the cosine of the angle between them."""

    one: str
    other: str
    cosine: float


# --- the flow ---------------------------------------------------------------------------------------------------------


@flow(name="process-corpus")
def process_corpus(
    folder: str | None = None, pattern: str = "**/*.py", name: str = "corpus", repository: str | None = None
) -> list[Alike]:
    """Embed the documents of a folder that are not embedded yet, and say which are most alike.

    Args:
        folder: of the documents. Default: Python's standard library.
        pattern: of their paths.
        name: of the checkpoints, and of the snapshot of the embeddings.
        repository: a URL or path. Default: the setting, the block `prefect-snapshots-repository/default`, or
            `./snapshots`.
    """
    root = folder or sysconfig.get_path("stdlib")
    with use_repository(current_repository(repository)):
        paths = list(documents(root, pattern))
        results = embed.with_options(name=name).map([os.path.join(root, path) for path in paths])
        found: list[Embedded] = list(results.iter_results())
        embeddings = np.stack([one.embedding for one in found]) if found else np.zeros((0, WIDTH), np.float32)
        save_snapshot({"paths": paths, "embeddings": embeddings}, name=f"{name}/embeddings", max_snapshots=3)
        pairs = most_alike(paths, embeddings)
        words = sum(one.words for one in found)
        get_run_logger().info(f"{len(paths):,} documents of {words:,} words. Most alike: {pairs[:1]}.")
        return pairs


def content(path: str) -> tuple[str, int]:
    """What stands for a document: where it is, and a checksum of what it says."""
    return path, zlib.crc32(Path(path).read_bytes())


@checkpointed(key=content, batch_size=100, retries=1)
def embed(path: str) -> Embedded:
    """Count the words of a document, and project the counts at random (Johnson and Lindenstrauss 1984)."""
    words = Counter(WORD.findall(Path(path).read_bytes()))
    counts = np.zeros(VOCABULARY, np.float32)
    for word, count in words.items():
        counts[zlib.crc32(word) % VOCABULARY] += np.log1p(count)
    return Embedded(words.total(), np.asarray(project(counts, directions())))


@functools.cache
def directions() -> jax.Array:
    """Random ones, shape (VOCABULARY, WIDTH), the same in every process."""
    return jax.random.normal(jax.random.key(0), (VOCABULARY, WIDTH))


@jax.jit
def project(counts: Any, directions: jax.Array) -> jax.Array:
    """Counts of shape (VOCABULARY,) to a unit vector of shape (WIDTH,)."""
    vector = counts @ directions
    return jnp.asarray(vector / (jnp.linalg.norm(vector) + 1e-12))


def documents(root: str, pattern: str) -> Iterator[str]:
    """Paths of the documents in a folder, relative to it, sorted."""
    for path in sorted(Path(root).glob(pattern)):
        relative = path.relative_to(root)
        if path.is_file() and "site-packages" not in relative.parts:
            yield str(relative)


def most_alike(paths: list[str], embeddings: NDArray[np.float32]) -> list[Alike]:
    """The pairs of different documents with the least angle between them."""
    cosines = np.triu(embeddings @ embeddings.T, 1)
    cosines[cosines > 1 - 1e-5] = 0  # copies of one another
    order = np.argsort(cosines, axis=None)[::-1][:SHOWN]
    rows, columns = np.unravel_index(order, cosines.shape) if len(paths) > 1 else ((), ())
    return [Alike(paths[i], paths[j], float(cosines[i, j])) for i, j in zip(rows, columns, strict=True)]


# --- on the command line ----------------------------------------------------------------------------------------------


@app.default
def main(
    folder: str | None = None, pattern: str = "**/*.py", name: str = "corpus", repository: str | None = None
) -> None:
    """Embed what is not embedded yet, and print what is alike.

    Parameters
    ----------
    folder
        Of the documents. Default: Python's standard library.
    pattern
        Of their paths.
    name
        Of the checkpoints, and of the snapshot of the embeddings.
    repository
        A URL or path; default: the setting, the block prefect-snapshots-repository/default, else ./snapshots.
    """
    show(process_corpus(folder, pattern, name, repository))


@app.command
def demo(
    folder: str | None = None, pattern: str = "**/*.py", kill_after: int = 300, repository: str = "./snapshots"
) -> None:
    """Kill a run, resume it, and compare it with one that was left alone.

    Parameters
    ----------
    folder
        Of the documents. Default: Python's standard library.
    pattern
        Of their paths.
    kill_after
        The run is killed as soon as so many documents are embedded.
    repository
        A URL or path. Every demo takes a new name in it.
    """
    name = f"corpus-demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with temporary_settings(PREFECT_SETTINGS), tempfile.TemporaryDirectory() as elsewhere:
        tell(f"[b]1.[/b] Embedding {name}, for comparison in another repository ...")
        undisturbed = process_corpus(folder, pattern, name, elsewhere)
        tell("[b]2.[/b] The same again, in another process ...")
        done = process_until_killed(kill_after, folder, pattern, name, repository)
        tell(f"   Killed it (SIGKILL). {done:,} documents are done.")
        tell("[b]3.[/b] Going on from there ...")
        resumed = process_corpus(folder, pattern, name, repository)
    if resumed != undisturbed:
        sys.exit("The resumed run ended with other embeddings than the undisturbed one.")
    tell("   Both ended with the same embeddings.\n")
    show(resumed)
    ui = get_current_settings().ui_url or "http://127.0.0.1:4200"
    key = artifact_key("checkpoints", name)
    tell(f"\nThe report: {ui}/artifacts/key/{key}, after [b]prefect server start[/b]")
    tell(f"The same here: [b]prefect-snapshots checkpoints show {name} -r {repository}[/b]")


def show(pairs: list[Alike]) -> None:
    """Print the pairs that are most alike."""
    table = Table("document", "most like it", "cosine")
    for pair in pairs:
        table.add_row(pair.one, pair.other, f"{pair.cosine:.4f}")
    tell(table)


def process_until_killed(kill_after: int, folder: str | None, pattern: str, name: str, repository: str) -> int:
    """Embed in another process, and kill it when enough is done. Returns how many documents are."""
    with get_client(sync_client=True) as client:
        # A Prefect server of its own would survive the kill.
        environment = {**os.environ, "PREFECT_API_URL": str(client.api_url)}
    options = [
        "--pattern",
        pattern,
        "--name",
        name,
        "--repository",
        repository,
        *(["--folder", folder] if folder else []),
    ]
    process = subprocess.Popen([sys.executable, __file__, *options], env=environment, stdout=subprocess.DEVNULL)
    try:
        while (done := sum(row.done for row in CheckpointManager(repository).list_checkpoints(name))) < kill_after:
            if process.poll() is not None:
                sys.exit(f"The run ended (exit {process.returncode}) before {kill_after} documents were done.")
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    return done


if __name__ == "__main__":
    app()
