"""Where something was made: the machine, and the state of the code."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

_GIT_SECONDS = 10.0
"""Seconds that git may take: a work tree on a slow network must not delay a backup for long."""
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class Git(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the code when something was made."""

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
    places = [*folders]
    with contextlib.suppress(OSError):  # the working directory may have been deleted
        places.append(Path.cwd())
    return next((state for folder in places if (state := _git(folder)) is not None), None)


def _git(folder: Path) -> Git | None:
    place = Path(os.path.realpath(folder))
    if not any(os.path.lexists(each / ".git") for each in (place, *place.parents)):
        return None  # starting git to find out takes as long as backing up hundreds of files
    command = ["status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=all"]
    # The folder may come from anybody: its configuration can name programs as filters of files, to watch for changes,
    # and, through the address of a remote, to fetch objects that are missing.
    if (listed := _run(folder, ["config", "--list", "--null", "--name-only"])) is None:
        return None
    keys = [key for key in os.fsdecode(listed).split("\0") if key.startswith("filter.")]
    settings = {"core.fsmonitor": "false"}
    for name in {key.partition(".")[2].rpartition(".")[0] for key in keys}:
        settings |= {f"filter.{name}.clean": "", f"filter.{name}.process": "", f"filter.{name}.required": "false"}
    if (found := _run(folder, command, settings)) is None:
        return None
    lines = found.decode(errors="replace").splitlines()
    facts = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# ") and " " in line[2:])
    commit, branch = facts.get("branch.oid"), facts.get("branch.head")
    return Git(
        commit=None if commit == "(initial)" else commit,
        branch=None if branch == "(detached)" else branch,
        dirty=any(not line.startswith("#") for line in lines),
    )


def _run(folder: Path, arguments: Sequence[str], settings: Mapping[str, str] = _NO_SETTINGS) -> bytes | None:
    """Return the output of git. None if it fails, or is not there.

    Args:
        folder: Where it runs.
        arguments: Its arguments.
        settings: Settings that replace those of the repository.
    """
    # Variables such as GIT_DIR, which git sets for its hooks, would lead to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_ALLOW_PROTOCOL": "", "GIT_CONFIG_COUNT": str(len(settings))}
    # An argument such as `-c` would split the name of a setting at the first equals sign.
    for number, (name, value) in enumerate(settings.items()):
        environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "--no-optional-locks", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
