"""Leaves of a snapshot as an `.npz` file, which `numpy.load` reads: one array for each leaf, by its path."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LeafError
from ..private_files import create_file
from ..values.decoding import BodyReader, decode_leaves
from ..values.manifest import LeafInfo

_KINDS = frozenset({"bool", "int", "float", "complex", "numpy", "numpy-scalar", "jax"})


def write_npz(path: Path, leaves: Sequence[LeafInfo], manifest: bytes, body: BodyReader) -> None:
    """Write leaves to a temporary file, flush it to disk, and rename it to `path`.

    Args:
        path: The path of the file.
        leaves: The leaves to write. A value that is a single leaf has no path, and is called `arr_0`, as NumPy does.
        manifest, body: The manifest and the body of the snapshot.

    Raises:
        LeafError: The file format cannot store a leaf unchanged. Nothing was written.
    """
    for leaf in leaves:
        _refuse_unless(leaf.kind in _KINDS, leaf.path, f"it is of the kind {leaf.kind}")
        # Archives are also unpacked by programs that follow such a path out of their directory.
        safe = not leaf.path or not {"", ".", ".."} & set(leaf.path.split("/"))
        _refuse_unless(safe, leaf.path, "its path is not a file name")
    values = decode_leaves(manifest, body, {leaf.path for leaf in leaves}, allow_pickle=False)
    arrays = {leaf.path or "arr_0": _array(leaf.path, values[leaf.path]) for leaf in leaves}
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        with create_file(temporary) as file:
            with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _array(path: str, value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    native = array.dtype.type.__module__ == "numpy" and not array.dtype.hasobject
    _refuse_unless(native, path, f"NumPy itself has no {array.dtype}")
    return array


def _refuse_unless(fits: bool, path: str, reason: str) -> None:
    if not fits:
        raise LeafError(
            path,
            f"An .npz file cannot store it, because {reason}. Choose leaves with --leaves, or write a .snapshots file, "
            "which stores everything.",
        )
