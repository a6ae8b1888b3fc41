"""Processes for the tests of artifacts: each logs or promotes until it is done, or is killed.

    python artifact_writers.py log URL FIRST COUNT [OPTIONS]    # COUNT < 0: without end
    python artifact_writers.py upload URL FOLDER
    python artifact_writers.py promote URL TARGET

A line on standard output follows every version, and every piece of a copy.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from typing import Any

from prefect_snapshots import ArtifactRegistry, Repository


def tell(*what: Any) -> None:
    """Print a line at once."""
    print(*what, flush=True)


def main() -> None:
    """Do what the command line says."""
    what, url, *rest = sys.argv[1:]
    options = json.loads(rest.pop()) if rest and rest[-1].startswith("{") else {}
    registry = ArtifactRegistry(Repository(url, storage_options=options))
    if what == "log":
        first, limit = int(rest[0]), int(rest[1])
        for number in range(limit) if limit >= 0 else count():
            value = [first + number] * (10 if number % 2 else 10_000)
            tell(registry.log_artifact("shared", value).version, first + number)
    elif what == "upload":
        while True:
            tell("starting")
            tell(registry.log_files("folder", rest[0], progress=tell))
    else:
        tell(registry.promote_artifact("folder", to=ArtifactRegistry(rest[0]), progress=tell))


if __name__ == "__main__":
    main()
