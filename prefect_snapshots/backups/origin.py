"""The origin of a backup: the machine, and the state of the code."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec

_GIT_SECONDS = 10.0
"""Seconds that git may take: a work tree on a slow network must not delay a backup for long."""


class Git(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the code when a backup was made."""

    commit: str | None
    branch: str | None
    """The branch. None if no branch was checked out."""
    dirty: bool
    """Whether tracked files were changed and not committed."""

    def __str__(self) -> str:
        return f"{self.branch or 'no branch'}@{(self.commit or 'no commit')[:7]}{' (changed)' if self.dirty else ''}"


def host() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


def git_state(folders: Iterable[Path]) -> Git | None:
    """Return the state of the code in the first folder that is in a git work tree, or else in the working directory.

    This changes nothing, and runs no program that the git repository configures.

    Returns:
        The state. None if git is not installed, does not answer in time, or manages none of these folders.
    """
    return next((state for folder in (*folders, Path.cwd()) if (state := _git(folder)) is not None), None)


def _git(folder: Path) -> Git | None:
    command = ["git", "-C", str(folder), "--no-optional-locks", "-c", "core.fsmonitor=false"]
    command += ["status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=all"]
    # Variables such as GIT_DIR, which git sets for its hooks, would lead to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            text=True,
            errors="replace",
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    facts = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# ") and " " in line[2:])
    commit, branch = facts.get("branch.oid"), facts.get("branch.head")
    return Git(
        commit=None if commit == "(initial)" else commit,
        branch=None if branch == "(detached)" else branch,
        dirty=any(not line.startswith("#") for line in lines),
    )
