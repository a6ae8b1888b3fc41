"""Runs the examples of a manual, so that it never shows what is not so.

`python tests/manual.py docs/cli.md` writes what they print into it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

HOME = "/home/ada"
"""What a manual calls the directory in which its examples run."""

INSTALLED = Path(sysconfig.get_path("scripts"))

_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def rewritten(manual: str, directory: Path, environment: Mapping[str, str], programs: Path = INSTALLED) -> str:
    """A manual with what its examples print now: `python` blocks run, and lines of `console` blocks that begin with $.

    Args:
        manual: in Markdown.
        directory: an empty one, in which they run one after the other.
        environment: of every process.
        programs: a folder that is searched for programs before those where Python's are installed.
    """
    path = os.pathsep.join([str(programs), str(INSTALLED), environment["PATH"]])
    settings = {**environment, "TZ": "UTC", "COLUMNS": "80", "PATH": path}

    def output(*command: str) -> str:
        done = subprocess.run(
            command,
            cwd=directory,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return "".join(f"{line.rstrip()}\n" for line in done.stdout.replace(str(directory), HOME).splitlines())

    def run(block: re.Match[str]) -> str:
        language, content = block.groups()
        if language == "python":
            complaint = output("python", "-c", content)
            assert not complaint, complaint
            return block[0]
        commands = re.findall(r"^\$ (.*)$", content, re.MULTILINE)
        said = "\n".join(f"$ {command}\n{output('bash', '-c', command)}" for command in commands)
        return f"```console\n{said}```"

    return _BLOCK.sub(run, manual)


def steady(text: str) -> list[str]:
    """The lines of a manual without what may differ whenever its examples run: times, sizes, random names, requests."""
    text = re.sub(r"\b[0-9a-f]{2}/[0-9a-f]{32}\b|\b[0-9a-f]{16}(?:[0-9a-f]{16})?\b", "NAME", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d[\d:.+]*", "TIME", text)
    text = re.sub(r"[_@]\d{8}_\d{6}(?:_|\b)", "_TIME_", text)
    text = re.sub(r"^(\s*host\s+).*$", r"\1HOST", text, flags=re.MULTILINE)
    text = re.sub(r"\b[\d.]+ (?:B|kB|MB|GB|TB)\b", "SIZE", text)
    text = re.sub(r'("(?:size|written|\w*bytes\w*|catalog|compacted|index|logs|packs)": )\d+', r"\1SIZE", text)
    text = re.sub(r'\b\d+ (GET|LIST)|("(?:GET|LIST)": )\d+', r"\1\2COUNT", text)
    return [" ".join(line.split()) for line in text.splitlines()]


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as directory:
            path.write_text(rewritten(path.read_text(), Path(directory), os.environ))
