"""The `prefect-snapshots` command: inspect and maintain a repository. `program` reads the command line."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


def main() -> None:
    """Run the command line of this process, and exit."""
    try:
        from .program import run  # takes long enough that people press Ctrl-C

        status = run()
    except KeyboardInterrupt:
        print("prefect-snapshots: Interrupted.", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status)
