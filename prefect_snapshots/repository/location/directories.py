"""The directories of a location, created durably where they are missing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .files import sync_directory

_FLAGS = os.O_RDONLY | os.O_DIRECTORY


class Directories:
    """Those at and below `root`."""

    def __init__(self, root: str) -> None:
        self._root = root
        # Those whose entry in their parent is known to be durable.
        self._durable: set[str] = set()

    @contextlib.contextmanager
    def opened(self, directory: str) -> Iterator[int]:
        """The descriptor of a directory, which is created if need be."""
        if directory not in self._durable:
            self._make_durable(directory)
        try:
            descriptor = os.open(directory, _FLAGS)
        except FileNotFoundError:
            # Somebody removed it since.
            self._durable.clear()
            self._make_durable(directory)
            descriptor = os.open(directory, _FLAGS)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _make_durable(self, directory: str) -> None:
        """Create a directory and those above it, and make their entries durable.

        One that exists already is synced as well: whoever created it may have died, or not have come to that yet.
        Above the location only what is missing is touched.
        """
        above = os.path.dirname(directory)
        inside = directory.startswith(self._root + "/")
        if above not in self._durable if inside else not os.path.isdir(above):
            self._make_durable(above)
        created = False
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
            created = True
        # The directory that holds the location may be one that we cannot open, as /home is for some.
        with contextlib.nullcontext() if created or inside else contextlib.suppress(PermissionError):
            descriptor = os.open(above, _FLAGS)
            try:
                sync_directory(descriptor)
            finally:
                os.close(descriptor)
        self._durable.add(directory)
