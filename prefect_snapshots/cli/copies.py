"""`prefect-snapshots copy`, and the options that name a second repository."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from .output import Answer, count_text, printable, size_text
from .session import Session, SessionArgument, parse_options

if TYPE_CHECKING:
    from ..repository import Repository

_INCOMPLETE = 3
"""Exit code: something could not be copied."""


@Parameter(name="*")
@dataclass(frozen=True)
class OtherRepository:
    """How to open the other repository. Default: with the same password as the first one.

    Args:
        other_storage_option: KEY=VALUE for the file system of the other repository. Repeat it for more.
        other_password_command: A shell command that prints the password of the other repository.
        other_password_file: A file with the password of the other repository.
        other_no_password: The other repository is not encrypted.
    """

    other_storage_option: list[str] | None = None
    other_password_command: str | None = None
    other_password_file: str | None = None
    other_no_password: bool = False

    def open(self, session: Session, url: str, *, create: bool = False) -> Repository:
        """Open the other repository: read-only, or to write to it and create it if there is none."""
        other = session.at(url, parse_options(self.other_storage_option or ()))
        command, file, plain = self.other_password_command, self.other_password_file, self.other_no_password
        if command or file or plain:
            other = replace(other, password_command=command, password_file=file, no_password=plain)
        return other.open(create=create)


SAME = OtherRepository()
Other = Annotated[OtherRepository, Parameter(name="*")]
Kind = Literal["snapshots", "checkpoints", "artifacts", "backups", "results", "wal"]


def copy(
    source: str,
    target: str,
    /,
    *,
    kind: list[Kind] | None = None,
    name: list[str] | None = None,
    since: str | None = None,
    dry_run: bool = False,
    unencrypted: bool = False,
    other: Other = SAME,
    session: SessionArgument,
) -> Answer:
    """Copy what is missing into another repository, such as a second place for your backups.

    Deletes are not copied. The exit code is 3 if something could not be copied.

    Args:
        source: The URL or path of the repository to copy. The global options open it.
        target: The URL or path of the copy. It is created if there is none.
        kind: Copy only this kind. Repeat it for more.
        name: Copy only this name, or names that match this pattern, such as "train-*". Repeat it for more. Artifacts
            are called COLLECTION:NAME.
        since: Leave out versions from before this time, for ever.
        dry_run: Only show what would be copied.
        unencrypted: Allow to copy an encrypted repository to one that is not encrypted.
    """
    first = session.at(source, session.storage_options).open()
    second = other.open(session, target, create=True)
    with session.progress() as progress:
        report = first.copy_to(
            second,
            kinds=kind or (),
            names=name or (),
            since=since,
            dry_run=dry_run,
            unencrypted=unencrypted,
            progress=progress,
        )
    document = {"source": first.url, "target": second.url, "ok": report.ok, **asdict(report)}
    return Answer(document, _view_copied, _summary(document), status=0 if report.ok else _INCOMPLETE)


def _view_copied(document: dict[str, Any]) -> Iterator[str]:
    for problem in document["problems"]:
        yield printable(f"{problem['path']}: {problem['what']}")


def _summary(document: dict[str, Any]) -> str:
    would = "would be copied" if document["dry_run"] else "copied"
    parts = [
        f"{count_text(document['versions'], 'version')} ({size_text(document['size'])})",
        count_text(document["events"], "other change"),
    ]
    if document["segments"]:
        parts.append(f"{count_text(document['segments'], 'file')} of results")
    written = "" if document["dry_run"] else f", {size_text(document['written'])} written"
    left = f". {count_text(len(document['problems']), 'problem')}" if document["problems"] else ""
    return f"{', '.join(parts)} {would} to {document['target']}{written}{left}."
