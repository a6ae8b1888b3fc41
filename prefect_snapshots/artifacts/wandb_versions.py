"""Versions of artifacts in Weights & Biases: the record that W&B has of one, our note in its metadata, and its files.

A W&B version is a set of files. Everything else that a version has here (handler, modes, links, source) is its *note*,
under the key `NOTE` of its metadata. Anybody may have written what is read here, so all of it is checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import (
    DamagedVersion,
    IntegrityError,
    InvalidArgument,
    MissingDependency,
    NotSupported,
    PermissionDenied,
    StorageError,
    StorageUnavailable,
)
from ..repository.commits import Draft
from ..repository.contents import ContentReader, Stored, Writer
from ..repository.metadata import METADATA_LIMIT, clean_metadata
from ..repository.repository import Repository
from ..repository.times import parse_time
from ..trees.entries import Entry, check_entries
from ..trees.restoring import write_tree
from ..trees.stored import StoredTree
from .differences import pieces
from .folders import check_portable, scan_folder
from .infos import ArtifactInfo, ArtifactVersion

if TYPE_CHECKING:
    import wandb

NOTE = "prefect_snapshots"
"""The metadata key of the note: all that W&B has no field for."""

_MOST_KEYS = 100
"""The most keys that W&B accepts in the metadata of an artifact."""

_AGAIN = "Run `wandb artifact cache cleanup 0B` in case the damage is in wandb's cache on this machine, and try again."


class VersionNote(msgspec.Struct, omit_defaults=True, kw_only=True):
    """All that belongs to a version besides its files and the user's metadata."""

    handler: str | None = None
    suffix: str | None = None
    environment: dict[str, str] = {}
    source: dict[str, str] | None = None
    mode: int = 0o644
    """The mode of each file that is not among the entries."""
    entries: list[tuple[str, int, str]] = []
    """Path, type with mode, and target of all that W&B does not keep: links, directories, files with another mode."""

    def with_entries(self, entries: Sequence[Entry]) -> VersionNote:
        """Return this note with the entries of a folder that W&B does not keep."""
        files = [entry for entry in entries if stat.S_ISREG(entry.mode)]
        [(mode, _)] = Counter(stat.S_IMODE(entry.mode) for entry in files).most_common(1) or [(0o644, 0)]
        kept = {(str(parent), stat.S_IFDIR | 0o755) for entry in files for parent in PurePosixPath(entry.path).parents}
        kept |= {(entry.path, stat.S_IFREG | mode) for entry in files}
        others = [
            (entry.path, entry.mode, os.fsdecode(entry.link))
            for entry in entries
            if (entry.path, entry.mode) not in kept
        ]
        return msgspec.structs.replace(self, mode=mode, entries=others)

    def within(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return metadata with this note in it."""
        plain = msgspec.to_builtins(self)
        if len(json.dumps(plain)) > METADATA_LIMIT:
            raise InvalidArgument(
                "This folder has too many links, empty directories and unusual modes for the metadata of W&B. Pack it "
                "into an archive, and log that."
            )
        merged = {**metadata, NOTE: plain} if plain else dict(metadata)
        if len(merged) > _MOST_KEYS:
            raise InvalidArgument(
                f"W&B accepts up to {_MOST_KEYS} metadata keys, and one of them is needed for internal use. Pass at "
                f"most {_MOST_KEYS - 1}, not {len(metadata)}."
            )
        return merged


@dataclass(frozen=True, slots=True)
class WandbVersion:
    """A version that is stored in W&B."""

    artifact: wandb.Artifact
    note: VersionNote
    label: ArtifactVersion

    @classmethod
    def of(cls, artifact: wandb.Artifact, name: str, collection: str, version: str) -> WandbVersion:
        """Return a version from the answer of W&B, after checking it."""
        label = ArtifactVersion(name, collection, version)
        try:
            return cls(artifact, msgspec.convert(artifact.metadata.get(NOTE, {}), VersionNote), label)
        except msgspec.ValidationError as error:
            raise IntegrityError(
                f"{label} cannot be read: its metadata key {NOTE!r} was changed ({error}). Restore the key in W&B, or "
                "use another version."
            ) from None

    @property
    def number(self) -> int:
        return int(self.label.version[1:])

    @property
    def created_at(self) -> datetime:
        return parse_time(self.artifact.created_at)

    @property
    def expiry(self) -> datetime | None:
        ttl = self.artifact.ttl
        return None if ttl is None else self.created_at + ttl

    @property
    def metadata(self) -> dict[str, Any]:
        """The user's metadata, without the note."""
        return {key: value for key, value in self.artifact.metadata.items() if key != NOTE}

    @property
    def info(self) -> ArtifactInfo:
        label, note, artifact = self.label, self.note, self.artifact
        return ArtifactInfo(
            label.name,
            label.collection,
            label.version,
            self.created_at,
            self.expiry,
            note.handler,
            artifact.size,
            artifact.size,  # W&B does not report how much of it was stored already
            self.metadata,
            sorted(artifact.aliases),
            note.environment,
            note.source,
        )


class Files:
    """The files of a version, end to end in the order of their paths; downloaded when the first byte is read.

    For a value, the first file is the body, and the second one, if any, the manifest.
    """

    def __init__(self, version: WandbVersion) -> None:
        self._version = version
        self._temporary = contextlib.ExitStack()
        with asking(f"the manifest of {version.label}"):
            self._manifest = version.artifact.manifest.entries
        self.entries = _entries(version, self._manifest)
        self.tree = StoredTree(self, self.entries, label=str(version.label))
        self._files = [(entry, offset) for entry, offset in self.tree.files if entry.size]
        self.size = self.tree.stored
        self.is_value = version.note.handler is not None
        self.body_size = self.entries[0].size if self.is_value else self.size

    @property
    def manifest(self) -> bytes:
        """The manifest of a value, which follows its body."""
        data = bytearray(self.size - self.body_size)
        self.read_into([(self.body_size, memoryview(data))])
        return bytes(data)

    def identity(self, offset: int, length: int) -> object:
        """Return the digest of the file at an offset."""
        return self._manifest[self._at(offset)[0].path].digest if length else b""

    def read_into(self, targets: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each writable buffer with the verified bytes from its offset on."""
        for offset, view in targets:
            while view:
                entry, start = self._at(offset)
                with (self._folder / entry.path).open("rb") as file:
                    file.seek(offset - start)
                    count = file.readinto(view[: start + entry.size - offset])
                offset, view = offset + count, view[count:]

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` verified bytes from an offset on."""
        data = bytearray(length)
        self.read_into([(offset, memoryview(data))])
        return bytes(data)

    def fetch(self) -> StoredTree:
        """Download everything, and return the files.

        Raises:
            DamagedVersion: A file does not match its digest; the message names it.
        """
        assert self._folder
        return self.tree

    def content(self, folder: Path) -> ContentReader:
        """Return the version as content of a temporary repository in a folder, which must exist as long as it is
        read."""
        if self.is_value:
            manifest = self.manifest

            def store(writer: Writer) -> Stored:
                return writer.store(manifest, pieces(self))
        else:
            local = folder / "files"
            write_tree(self.fetch(), local)
            store = scan_folder(local).store

        repository = Repository(folder / "repository")
        stream = repository.stream("artifacts", self._version.label.name, lambda _: None)
        event = repository.commit(stream, lambda: Draft("version"), store=store)
        assert event is not None
        return repository.read(stream, event)

    def _fetch(self, folder: Path) -> None:
        from wandb.sdk.lib.hashutil import md5_file_b64, xxh128_file_b64

        label = str(self._version.label)
        with asking(f"downloading {label}"):
            try:
                # Not with `skip_cache`: wandb 0.31 then has one path for all threads, and for every later download.
                self._version.artifact.download(root=str(folder))
            except OSError as error:  # the errors of requests are OSErrors, too
                raise StorageError(f"{label} could not be downloaded: {error}. Try again.") from error
        for path, entry in self._manifest.items():
            digest_of = xxh128_file_b64 if entry.digest_algorithm().name == "MANIFEST_XXH128" else md5_file_b64
            if not (folder / path).is_file() or digest_of(folder / path) != entry.digest:
                raise DamagedVersion(label, f"file {path}", f"it does not match the digest in W&B. {_AGAIN}")

    @cached_property
    def _folder(self) -> Path:
        folder = self._temporary.enter_context(tempfile.TemporaryDirectory(prefix="prefect-snapshots-"))
        self._fetch(Path(folder))
        return Path(folder)

    def _at(self, offset: int) -> tuple[Entry, int]:
        return self._files[bisect_right(self._files, offset, key=lambda file: file[1]) - 1]

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.close()


def load_wandb() -> Any:
    """Import the package `wandb`.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise MissingDependency(
            'Weights & Biases needs the package wandb. Run `pip install "prefect-snapshots[wandb]"`.'
        ) from error
    return wandb


def is_absence(error: BaseException | None) -> bool:
    """Return whether an error of wandb means that something does not exist or is not visible.

    Subclasses of `ValueError` mean something else: that wandb cannot parse the answer.
    """
    return type(error) is ValueError


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """Convert errors of wandb to our own, with a message that says what was requested."""
    errors = load_wandb().errors
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        yield
    except (errors.Error, WandbApiFailedError) as error:
        cause = getattr(error, "exc", None) or error
        status = getattr(getattr(cause, "response", None), "http_status", None)
        message = f"W&B failed at {what}: {error}"
        if status in (401, 403) or isinstance(error, errors.UsageError | errors.AuthenticationError):
            raise PermissionDenied(
                f"{message}. Run `wandb login`, or ask the owner of the project for access."
            ) from error
        raise (StorageUnavailable if status and status >= 500 else StorageError)(f"{message}. Try again.") from error


def plain_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metadata as W&B keeps it.

    Raises:
        InvalidArgument: It has a value that JSON cannot hold, or the reserved key of the note.
    """
    cleaned = clean_metadata(metadata)
    if NOTE in cleaned:
        raise InvalidArgument(f"The metadata key {NOTE!r} is reserved. Choose another one.")
    try:
        json.dumps(cleaned, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"W&B keeps metadata as JSON, which cannot hold bytes, dates, NaN and infinity: {error}. Pass a string or "
            "a finite number instead."
        ) from None
    return cleaned


def _entries(version: WandbVersion, manifest: Mapping[str, Any]) -> list[Entry]:
    """Return all entries of a version, after checking that none of them leads out of its folder."""
    note, label = version.note, version.label
    entries: dict[str, Entry] = {}
    for path, file in manifest.items():
        if file.ref is not None:
            raise NotSupported(f"{label} only refers to {file.ref}. Download it with wandb's own Artifact.download().")
        for parent in list(PurePosixPath(path).parents)[:-1]:
            entries.setdefault(str(parent), Entry(str(parent).encode(), stat.S_IFDIR | 0o755))
        entries[path] = Entry(path.encode("utf-8", "surrogateescape"), stat.S_IFREG | note.mode, file.size or 0)
    for path, mode, link in note.entries:
        if path in manifest:
            entries[path] = Entry(path.encode(), mode, entries[path].size)
        elif not stat.S_ISREG(mode):
            entries[path] = Entry(path.encode(), mode, 0, link.encode())
    ordered = sorted(entries.values(), key=lambda entry: entry.raw)
    check_entries(ordered)
    check_portable(ordered)
    paths = [entry.path for entry in ordered]
    if note.handler is not None and (not paths or paths[1:] not in ([], [f"{paths[0]}.manifest"])):
        raise IntegrityError(
            f"{label} should be a single value, but has {len(paths)} files: {', '.join(paths[:5])}. Its metadata was "
            "changed in W&B. Use another version."
        )
    return ordered
