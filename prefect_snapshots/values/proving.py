"""Prove that another process can load a value, by starting one that does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..errors import LeafError, UnserialisableLeaf
from .decoding import MemoryBody, decode
from .encoding import encode

_MANIFEST, _BODY, _FOUND = "manifest", "body", "found"
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from prefect_snapshots.values.proving import load_in; load_in(sys.argv[1])"
)


def prove_readable(value: Any) -> None:
    """Check that a fresh process can load a value, by starting one: it imports what the value needs.

    This finds what this process cannot: classes of modules that only exist here, or that cannot be imported. The
    process gets the value in files that only you can read, and uses no accelerator.

    Args:
        value: Any object.

    Raises:
        UnserialisableLeaf: It cannot be stored, or the other process cannot load it. The message names the leaf.

    Example:
        >>> prove_readable({"weights": [1.0, 2.0]})
    """
    encoded = encode(value, with_like=False)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        (files / _MANIFEST).write_bytes(encoded.manifest)
        with (files / _BODY).open("wb") as stream:
            stream.writelines(encoded.buffers)
        # Without -P, the first import would look into the working directory, which may be that of a stranger.
        command = [sys.executable, "-P", "-c", _CODE, folder, json.dumps(sys.path)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        found = files / _FOUND
        if done.returncode == 0 and found.exists():
            path, reason = json.loads(found.read_bytes())
            if reason:
                raise UnserialisableLeaf(path, f"A fresh process cannot load it: {reason}")
            return
    said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    raise UnserialisableLeaf("", f"A fresh process that loaded it ended with {done.returncode}: {''.join(said)}")


def load_in(folder: str) -> None:
    """Load the value in a folder, and write there what failed: the path of the leaf and the reason."""
    files = Path(folder)
    found = "", ""
    try:
        decode((files / _MANIFEST).read_bytes(), MemoryBody((files / _BODY).read_bytes()), allow_pickle=True)
    except LeafError as error:
        found = error.path, error.reason
    except Exception as error:  # runs code of any class
        found = "", repr(error)
    (files / _FOUND).write_text(json.dumps(found))
