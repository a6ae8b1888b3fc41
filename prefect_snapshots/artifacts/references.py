"""References: files that stay where they are, with what identifies their content."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import msgspec
from blake3 import blake3

from ..arguments import checking_types
from ..errors import UNDECODABLE, IntegrityError, InvalidArgument, ReferenceChanged, ReferenceRefused
from ..repository.location import Buffer
from ..repository.location.elsewhere import is_within, list_elsewhere, open_elsewhere, url_of
from ..trees.entries import check_path
from .handlers import FileHandler

_PIECE = 8 * 1024 * 1024
"""How many bytes are read at a time: enough to keep a network busy, with little memory for files of any size."""

Place = str | os.PathLike[str]


class ReferencedFile(msgspec.Struct, frozen=True):
    """One file of a reference.

    Attributes:
        path: Its path below the URL. Empty if the URL is the file.
        size: Its size in bytes.
        checks: What identified its content: "version", "etag" or "modified", as the storage returned them, and
            "blake3" if the reference was made with `checksum=True`.
    """

    path: str
    size: int
    checks: dict[str, str]


class _Body(msgspec.Struct):
    url: str
    files: list[ReferencedFile]


@checking_types
@dataclass(frozen=True)
class FileReference:
    """Files elsewhere, as they were when they were logged. `load_artifact` returns one, after it has verified it.

    Attributes:
        url: The URL of the file or folder.
        files: The files.
        storage_options: Options of the file system. They are not stored.
        within: The URLs below which a web server may lead requests: those that were passed to `load_artifact`. None:
            anywhere. They are not stored.
    """

    url: str
    files: tuple[ReferencedFile, ...]
    storage_options: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    within: tuple[str, ...] | None = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def verify(self, *, checksum: bool = False) -> None:
        """Compare the files with what was recorded, without reading them.

        Args:
            checksum: Read the files, and compare their content with the recorded checksums.

        Raises:
            ReferenceChanged: A file has changed or is gone. The message names it.
            ReferenceRefused: A server has led to a URL that is not below one of `within`.
            InvalidArgument: `checksum` is True, and no checksums were recorded.
        """
        here = {file.path: file for file in list_elsewhere(self.url, self.storage_options, self.within)}
        for file in self.files:
            found = here.get(file.path)
            if found is None:
                raise self._changed(file, "it is gone")
            if found.size != file.size:
                raise self._changed(file, f"it has {found.size:,} bytes, not {file.size:,}")
            check = next((name for name in ("version", "etag", "modified") if name in file.checks), None)
            if check is not None and found.checks.get(check) != file.checks[check]:
                if "blake3" not in file.checks:
                    raise self._changed(file, f"its {check} is {found.checks.get(check)}, not {file.checks[check]}")
                self._compare(file)
        if checksum:
            for file in self.files:
                if "blake3" not in file.checks:
                    raise InvalidArgument(f"{self.url} was logged without checksums. Log it with checksum=True.")
                self._compare(file)

    @contextlib.contextmanager
    def open(self, path: str = "") -> Iterator[BinaryIO]:
        """Open one of the files for reading. Its content is not verified.

        Args:
            path: The path of the file. Default: the file at the URL itself.

        Raises:
            InvalidArgument: The reference has no such file.
            ReferenceRefused: A server has led to a URL that is not below one of `within`.
        """
        if not any(file.path == path for file in self.files):
            raise InvalidArgument(f"The reference to {self.url} has no file {path!r}.")
        url = f"{self.url}/{path}" if path else self.url
        with open_elsewhere(url, self.storage_options, self.within) as file:
            yield file

    def _compare(self, file: ReferencedFile) -> None:
        if self._checksum(file.path) != file.checks["blake3"]:
            raise self._changed(file, "its content differs")

    def _checksum(self, path: str) -> str:
        hasher = blake3()
        with self.open(path) as file:
            while piece := file.read(_PIECE):
                hasher.update(piece)
        return hasher.hexdigest()

    def _changed(self, file: ReferencedFile, how: str) -> ReferenceChanged:
        place = f"{self.url}/{file.path}".rstrip("/")
        return ReferenceChanged(
            f"{place} has changed since it was logged: {how}. Restore it, load another version, or log the "
            "reference again. To load the reference anyway, pass verify=False."
        )


def refer(url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None, checksum: bool) -> FileReference:
    """Return a reference to the files at a URL, as they are now."""
    options = dict(storage_options or {})
    found = list_elsewhere(url_of(url), options)
    files = tuple(ReferencedFile(file.path, file.size, file.checks) for file in found)
    reference = FileReference(url_of(url), files, options)
    if not checksum:
        return reference
    summed = (
        ReferencedFile(file.path, file.size, {**file.checks, "blake3": reference._checksum(file.path)})
        for file in files
    )
    return FileReference(reference.url, tuple(summed), options)


def _dump(value: Any, allow_pickle: bool) -> list[Buffer]:
    if type(value) is not FileReference:
        raise TypeError("it is not a FileReference. Call log_reference.")
    return [msgspec.json.encode(_Body(value.url, list(value.files)))]


def _load(
    data: memoryview,
    allow_pickle: bool,
    storage_options: Mapping[str, Any] | None = None,
    verify: bool = True,
    within: Place | Iterable[Place] | None = None,
) -> FileReference:
    places = _places(within)
    try:
        body = msgspec.json.decode(data, type=_Body)
        for file in body.files:
            if file.path:
                check_path(os.fsencode(file.path))
        url = url_of(body.url)
    except UNDECODABLE as error:
        raise IntegrityError(f"This reference is damaged: {error}") from None
    reference = FileReference(url, tuple(body.files), dict(storage_options or {}), places)
    if verify:
        # Whoever may run code here with a pickle need not be kept from sending requests.
        if not is_within(url, places) if places is not None else not allow_pickle:
            raise ReferenceRefused(
                f"This artifact refers to {url}. Its writer chose this URL, and you did not allow it. No request was "
                f"sent. If you trust the URL, pass within={url!r}, or a folder above it. To read only what was "
                "recorded, pass verify=False."
            )
        reference.verify()
    return reference


def _places(within: Place | Iterable[Place] | None) -> tuple[str, ...] | None:
    if within is None:
        return None
    if isinstance(within, str | os.PathLike) or not isinstance(within, Iterable):
        return (url_of(within),)
    return tuple(map(url_of, within))


REFERENCE = FileHandler("reference.json", _dump, _load)
