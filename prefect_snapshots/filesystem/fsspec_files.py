"""`SnapshotsFileSystem`: a repository as a read-only file system of fsspec, registered as `snapshots://`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, NoReturn

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from ..arguments import check_names
from ..errors import IntegrityError, PathNotFound, ReadOnlyRepository
from ..messages import logger
from ..repository.choosing import RepositoryLike, as_repository, selected_repository
from ..repository.passwords import Password
from ..repository.provenance import note_input
from ..repository.repository import SETTING, Repository, unnamed_place
from .contained import Contained, RepositoryFiles, described, leave_out, reader_of

_OPTIONS = frozenset({"repository", "storage_options", "password", "id"}) | frozenset(
    {"asynchronous", "batch_size", "listings_expiry_time", "loop", "max_paths", "use_listings_cache"}
)
"""Our options, and those of every file system of fsspec. A misspelled `repository` would open another repository."""
_LINE = 64 * 1024
"""Bytes to look for the end of a line in at once: one chunk on average."""
_AHEAD_FIRST = 256 * 1024
"""Bytes to read ahead when a program begins to read in order: the largest chunk, so at most one is read in vain."""
_AHEAD_MOST = 8 * 1024 * 1024
"""Bytes to read ahead at most: two requests at the same time, and what is remembered of one read."""


class SnapshotsFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Read the artifacts, releases, backups and snapshots of a repository as files.

    fsspec creates it for `snapshots://`, with these arguments as its `storage_options`. Reading a part of a file reads
    only the chunks of this part. Every byte is verified. Nothing can be written.

    Listing a directory whose version can move (`@latest`, an alias or a time) fixes the version for this object, until
    it is listed again: the files of a dataset are read from one version.

    Args:
        repository: A URL, a path, a `Repository` or the Prefect block. Default: the repository of the enclosing
            `use_repository`, then the one in the settings, then `./snapshots`.
        storage_options: Options for the file system of the repository, such as an endpoint. Default: none.
        password: The password of the repository. Default: the one in the settings.
        id: The id that the repository must have. Default: any.
        options: Options of all file systems of fsspec, such as `skip_instance_cache`.

    Raises:
        InvalidArgument: An option is not known.

    Example:
        >>> import fsspec
        >>> from prefect_snapshots import ArtifactRegistry
        >>> _ = ArtifactRegistry("memory://example-files").log_artifact("notes", "hello", "text")
        >>> files = fsspec.filesystem("snapshots", repository="memory://example-files")
        >>> files.ls("artifacts", detail=False)
        ['artifacts/notes@v0']
        >>> files.cat("artifacts/notes@latest/notes.txt")
        b'hello'
    """

    protocol: ClassVar[str] = "snapshots"
    root_marker = ""

    def __init__(
        self,
        repository: RepositoryLike | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        password: Password = None,
        id: str | None = None,
        **options: Any,
    ) -> None:
        check_names("snapshots://", options, _OPTIONS)
        super().__init__(**options)
        self._given = repository
        self._options: dict[str, Any] = {"storage_options": storage_options, "password": password, "id": id}
        self._files: tuple[object, RepositoryFiles] | None = None

    @property
    def files(self) -> RepositoryFiles:
        """The files of the repository. The default repository is the one at the time of the call."""
        key = (
            selected_repository() or os.environ.get(SETTING) or unnamed_place() if self._given is None else self._given
        )
        if self._files is None or self._files[0] != key:
            if isinstance(key, str | os.PathLike):
                repository = Repository(key, read_only=True, allow_pickle=False, **self._options)
            else:
                repository = as_repository(key)
            self._files = key, RepositoryFiles(repository)
        return self._files[1]

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped if isinstance(stripped, list) else stripped.strip("/")

    def resolve(self, path: str) -> str:
        """Return a path with the exact version, which never changes, instead of "latest", an alias or a time.

        Args:
            path: A path.

        Raises:
            PathNotFound: There is nothing at this path.

        Example:
            >>> import fsspec
            >>> from prefect_snapshots import ArtifactRegistry
            >>> _ = ArtifactRegistry("memory://example-resolve").log_artifact("notes", "hello", "text")
            >>> fsspec.filesystem("snapshots", repository="memory://example-resolve").resolve("artifacts/notes@latest")
            'artifacts/notes@v0'
        """
        return self.files.find(self._strip_protocol(path)).exact

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Return the name, type and size of what is at a path.

        Raises:
            PathNotFound: There is nothing at this path.
        """
        return _info(self.files.find(self._strip_protocol(path)))

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """List a directory: kinds, names, versions (newest first) or files.

        Args:
            path: The path of a directory, or of a file, which is then the only entry.
            detail: Whether to return what `info` returns, instead of names.
            options: Ignored.

        Raises:
            PathNotFound: There is nothing at this path.
        """
        path = self._strip_protocol(path)
        found = self.files.children(path)
        if not found and (single := self.files.find(path)).type != "directory":
            found = [single]
        return [_info(each) if detail else each.path for each in found]

    def walk(
        self, path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = "omit", **options: Any
    ) -> Iterator[Any]:
        """Yield directories with their contents, as `os.walk` does. `find`, `glob` and `du` use it.

        A damaged version below the path is left out with a warning. A path within it is an error.

        Args:
            path: The directory to begin with.
            maxdepth: How many levels are listed. Default: all.
            topdown: Whether a directory comes before its contents.
            on_error: What happens to an error: "omit", "raise", or a function that is called with it.
            options: Passed to `ls`.

        Raises:
            IntegrityError: The version that the path leads to is damaged.
        """
        # fsspec walks into each directory with this method, and passes only the other options on.
        is_below = "first_on_error" in options
        on_error = options.pop("first_on_error", on_error)
        try:
            yield from super().walk(path, maxdepth, topdown, on_error, first_on_error=on_error, **options)
        except IntegrityError as error:
            if not is_below or on_error == "raise":
                raise
            leave_out(self._strip_protocol(path), error)
            if callable(on_error):
                on_error(error)

    def exists(self, path: str, **options: Any) -> bool:
        """Return whether there is something at a path. Other errors than that are raised."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def created(self, path: str) -> datetime:
        """Return when the version of a path was committed, in UTC."""
        found = self.files.find(self._strip_protocol(path))
        if found.version is None:
            raise PathNotFound(f"{found.path!r} is no part of a version, and has no time.")
        return found.version.created_at

    def modified(self, path: str) -> datetime:
        """Return when a file was last changed, in UTC: when its version was committed, if that is unknown."""
        found = self.files.find(self._strip_protocol(path))
        return self.created(path) if found.modified is None else datetime.fromtimestamp(found.modified, UTC)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget which versions were listed.

        Args:
            path: Ignored: everything is forgotten.
        """
        if self._files is not None:
            self._files[1].forget()
        super().invalidate_cache(path)

    def get_file(self, rpath: str, lpath: Any, callback: Any = None, outfile: Any = None, **options: Any) -> None:
        """Copy one file to the local disk. Links that lead to no file of the version are left out with a warning."""
        found = self.files.find(self._strip_protocol(rpath))
        if found.type in ("link", "other"):
            logger.warning("%s was not copied, because it is %s.", found.path, described(found))
            return
        given = {} if callback is None else {"callback": callback}
        super().get_file(rpath, lpath, outfile=outfile, **given, **options)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        cache_type: str = "none",
        **options: Any,
    ) -> VerifiedFile:
        if mode != "rb":
            self._refuse()
        found = self.files.find(path)
        opened = VerifiedFile(self, found, block_size, cache_type, cache_options)
        if found.version is not None and found.version.origin is not None:
            inside = found.path.partition("@")[2].partition("/")[2]
            note_input(self.files.repository, *found.version.origin(inside))
        return opened

    # --- writing: nothing ------------------------------------------------------------------------------------------

    def _refuse(self, *args: Any, **options: Any) -> NoReturn:
        """Refuse to write.

        Raises:
            ReadOnlyRepository: Always.
        """
        raise ReadOnlyRepository(
            "The file system snapshots:// is read-only, and nothing was changed. Log an artifact, save a snapshot or "
            "make a backup instead."
        )

    mkdir = makedirs = rmdir = rm = rm_file = _rm = cp_file = mv = put_file = pipe_file = touch = _refuse


class VerifiedFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """An open file. Its bytes are read when they are needed, and verified.

    A program that reads in order gets more and more bytes at once, up to 8 MB. Other reads get exactly the chunks with
    their bytes.

    Args:
        fs: The file system.
        found: The file.
        block_size: Bytes that a cache of fsspec reads at once. Default: 5 MB.
        cache_type: The cache of fsspec. "none" is best: chunks are remembered anyway.
        cache_options: Options for that cache.
    """

    def __init__(
        self,
        fs: SnapshotsFileSystem,
        found: Contained,
        block_size: int | None,
        cache_type: str,
        cache_options: dict[str, Any] | None,
    ) -> None:
        super().__init__(
            fs, found.path, "rb", block_size, cache_type=cache_type, cache_options=cache_options, size=found.size
        )
        self._read = reader_of(found)
        self._exact = found.exact
        self._next = self._ready = self._ahead = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # With the exact path, another process reads the same bytes, whatever "latest" means there.
        reopen, (fs, _, *rest) = super().__reduce__()
        return reopen, (fs, self._exact, *rest)

    def readuntil(self, char: bytes = b"\n", blocks: int | None = None) -> bytes:
        """Return the bytes up to the next occurrence of a byte, such as the end of a line."""
        line: bytes = super().readuntil(char, blocks or _LINE)
        return line

    def _fetch_range(self, start: int, end: int) -> bytes:
        if start != self._next:
            self._ready = self._ahead = 0
        elif start and end > self._ready and end - start < _AHEAD_MOST:
            self._ahead = min(2 * max(self._ahead, _AHEAD_FIRST // 2, end - start), _AHEAD_MOST)
            self._ready = min(start + self._ahead, self.size)
            self._next = end
            return self._read(start, self._ready - start)[: end - start]
        self._next = end
        return self._read(start, end - start)


def _info(found: Contained) -> dict[str, Any]:
    info: dict[str, Any] = {"name": found.path, "type": found.type, "size": found.size}
    if found.modified is not None:
        info["mtime"] = found.modified
    if found.version is not None:
        info["created"] = found.version.created_at.timestamp()
        info["version"] = found.version.key
        if found.version.aliases and "/" not in found.path.partition("@")[2]:
            info["aliases"] = list(found.version.aliases)
    if found.mode is not None:
        info["mode"] = found.mode
    if found.link is not None:
        info |= {"islink": True, "destination": found.link}
    return info
