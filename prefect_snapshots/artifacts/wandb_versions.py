"""Versions of artifacts in Weights & Biases: what W&B says of one, what we noted beside it, and its files.

A version of W&B is a set of files. What else belongs to it here (the handler of a value, modes, links, where it was
promoted from) is its *note*, under the one key `NOTE` of its metadata. Others may have written everything that is read
here, so that all of it is checked.
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
from .interface import ArtifactInfo, ArtifactVersion

if TYPE_CHECKING:
    import wandb

NOTE = "prefect_snapshots"
"""The key of the metadata that holds what W&B has no place for."""

_MOST_KEYS = 100
"""Of the metadata of an artifact, which W&B takes."""


_AGAIN = "If the damage is in wandb's cache on this machine, `wandb artifact cache cleanup 0B` clears it"


class Note(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What belongs to a version beside its files and the user's metadata."""

    handler: str | None = None
    suffix: str | None = None
    environment: dict[str, str] = {}
    source: dict[str, str] | None = None
    mode: int = 0o644
    """Of every file that is not among the entries."""
    entries: list[tuple[str, int, str]] = []
    """Path, type and mode, and target of what W&B does not keep: links, directories, files with another mode."""

    def with_entries(self, entries: Sequence[Entry]) -> Note:
        """This note, with what W&B does not keep of a folder."""
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
        """Metadata with this note."""
        plain = msgspec.to_builtins(self)
        if len(json.dumps(plain)) > METADATA_LIMIT:
            raise InvalidArgument(
                "the links, empty directories and unusual modes of this folder are too many for the metadata of W&B: "
                "put the folder into an archive"
            )
        merged = {**metadata, NOTE: plain} if plain else dict(metadata)
        if len(merged) > _MOST_KEYS:
            raise InvalidArgument(f"metadata with {len(merged)} keys; W&B keeps up to {_MOST_KEYS}, one for our note")
        return merged


@dataclass(frozen=True, slots=True)
class Version:
    """A version that W&B has."""

    artifact: wandb.Artifact
    note: Note
    label: ArtifactVersion

    @classmethod
    def of(cls, artifact: wandb.Artifact, name: str, collection: str, version: str) -> Version:
        """What W&B says of a version, checked."""
        label = ArtifactVersion(name, collection, version)
        try:
            return cls(artifact, msgspec.convert(artifact.metadata.get(NOTE, {}), Note), label)
        except msgspec.ValidationError as error:
            raise IntegrityError(f"somebody changed {NOTE!r} in the metadata of {label}: {error}") from None

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
        """The user's, without our note."""
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
            artifact.size,  # W&B does not say how much of it was there already
            self.metadata,
            sorted(artifact.aliases),
            note.environment,
            note.source,
        )


class Files:
    """The files of a version, end to end in the order of their paths: downloaded when the first byte is read.

    Of a value the first file is the body, and the second one, if there is one, the manifest.
    """

    def __init__(self, version: Version) -> None:
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
        """What follows the body of a value."""
        data = bytearray(self.size - self.body_size)
        self.read_into([(self.body_size, memoryview(data))])
        return bytes(data)

    def identity(self, offset: int, length: int) -> object:
        """The digest of the file at an offset."""
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
        """Return so many verified bytes from an offset on."""
        data = bytearray(length)
        self.read_into([(offset, memoryview(data))])
        return bytes(data)

    def fetch(self) -> StoredTree:
        """Download everything, and return the files.

        Raises:
            DamagedVersion: Naming the file that is not what was logged.
        """
        assert self._folder
        return self.tree

    def content(self, folder: Path) -> ContentReader:
        """All of it in a repository of its own, for as long as the folder is there."""
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
            except OSError as error:  # as which requests reports what fails, too
                raise StorageError(f"{label} could not be downloaded: {error}") from error
        for path, entry in self._manifest.items():
            digest_of = xxh128_file_b64 if entry.digest_algorithm().name == "MANIFEST_XXH128" else md5_file_b64
            if not (folder / path).is_file() or digest_of(folder / path) != entry.digest:
                raise DamagedVersion(
                    label, f"file {path}", f"it does not match the digest that W&B has of it. {_AGAIN}"
                )

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
    """The package `wandb`.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise MissingDependency('W&B needs the package wandb: pip install "prefect-snapshots[wandb]"') from error
    return wandb


def is_absence(error: BaseException | None) -> bool:
    """Whether wandb says so that something is not there, or not visible. A subclass: it cannot read the answer."""
    return type(error) is ValueError


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """Raise what wandb raises as an error of ours, which says what was asked for."""
    errors = load_wandb().errors
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        yield
    except (errors.Error, WandbApiFailedError) as error:
        cause = getattr(error, "exc", None) or error
        status = getattr(getattr(cause, "response", None), "http_status", None)
        message = f"W&B failed at {what}: {error}"
        if status in (401, 403) or isinstance(error, errors.UsageError | errors.AuthenticationError):
            raise PermissionDenied(f"{message}. Run `wandb login`, or ask for access") from error
        raise (StorageUnavailable if status and status >= 500 else StorageError)(message) from error


def plain_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata as W&B keeps it.

    Raises:
        InvalidArgument: it is not what JSON holds, or has the key of our note.
    """
    cleaned = clean_metadata(metadata)
    if NOTE in cleaned:
        raise InvalidArgument(f"the metadata key {NOTE!r} is reserved: choose another one")
    try:
        json.dumps(cleaned, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"W&B keeps metadata as JSON, without bytes, dates, NaN and infinity: {error}") from None
    return cleaned


def _entries(version: Version, manifest: Mapping[str, Any]) -> list[Entry]:
    """Everything that a version holds, checked: nothing of it leads anywhere else."""
    note, label = version.note, version.label
    entries: dict[str, Entry] = {}
    for path, file in manifest.items():
        if file.ref is not None:
            raise NotSupported(f"{label} only refers to {file.ref}: download it with wandb's own Artifact.download")
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
        raise IntegrityError(f"{label} is noted as a value, and holds {len(paths)} files: {', '.join(paths[:5])}")
    return ordered
