"""`prefect-snapshots check`, `prune`, `repair` and `stats`: maintain a whole repository."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

from cyclopts import Parameter, Token, convert

from ..errors import InvalidArgument, error_classes
from ..messages import hint
from .backup_sources import AS_CONFIGURED, Sources, manager_of
from .backups import diagnosis
from .copies import SAME, Other
from .output import Answer, columns, count_text, fields, printable, size_text, table, terminal_width
from .session import SessionArgument

Document = dict[str, Any]

DAMAGED = 3
"""Exit code: damage was found, or something is lost."""


_LONGEST_GRACE = timedelta(days=36525)
"""A century. The calendar of Python, in which it is shown, ends at year 1."""


def _parse_grace(_: object, tokens: Sequence[Token]) -> timedelta:
    try:
        grace: timedelta = convert(timedelta, tokens)
    except OverflowError:
        grace = timedelta.max
    if grace > _LONGEST_GRACE:
        raise ValueError(f'"{tokens[0].value}" is too long.')
    if grace < timedelta():
        raise ValueError(f'"{tokens[0].value}" is negative.')
    return grace


Grace = Annotated[timedelta, Parameter(converter=_parse_grace)]


def check(
    *, read_data: bool = False, against: str | None = None, other: Other = SAME, session: SessionArgument
) -> Answer:
    """Verify that all committed data exists. The exit code is 3 if something is missing or damaged.

    Args:
        read_data: Also read and verify every byte.
        against: The URL or path of a copy of the repository. Also find newest versions that were taken away here, and
            data that was replaced in one of the two.
    """
    repository = session.open()
    copy = None if against is None else other.open(session, against)
    with session.progress() as progress:
        report = repository.check(read_data, against=copy, progress=progress)
    document = {"repository": repository.url, "ok": report.ok, "read_data": read_data, **asdict(report)}
    return Answer(document, _view_problems, _summary(document), status=0 if report.ok else DAMAGED)


def doctor(*, sources: Sources = AS_CONFIGURED, session: SessionArgument) -> Answer:
    """Test everything that your flows need: repository, sources, Prefect server, workers and deployments.

    It creates an object in the repository and deletes it. The exit code is 1 if something is wrong.
    """
    from ..integration.deployed import diagnose_prefect
    from ..reports.diagnosis import diagnose_sources, finding, look_at_repository

    repository = session.open(create=True)
    findings = [
        finding(f"repository {repository.url}", lambda: look_at_repository(repository, probe=True)),
        *diagnose_sources(manager_of(repository, sources)),
        *diagnose_prefect(),
    ]
    return diagnosis(findings, "Everything is in order.")


def explain(error: str, /) -> Answer:
    """Say what an error means, and what to do about it. No repository is needed.

    Args:
        error: The name of the error, as in the message.
    """
    known = {kind.__name__.lower(): kind for kind in error_classes()}
    kind = known.get(error.lower())
    if kind is None:
        raise InvalidArgument(f"There is no error {error!r}. {hint(error, [each.__name__ for each in known.values()])}")
    what, remedy = kind.explanation()
    document = {
        "error": kind.__name__,
        "what_happened": what,
        "what_to_do": remedy,
        "inherits": [base.__name__ for base in kind.__bases__],
    }
    return Answer(document, _view_explained)


def prune(*, dry_run: bool = False, grace: Grace = timedelta(days=1), session: SessionArgument) -> Answer:
    """Reclaim the space of deleted data. This is safe while other processes write.

    Args:
        dry_run: Only show what would be freed.
        grace: Do not delete unreferenced data younger than this, such as 90s or 7d: it may belong to an upload that
            is still running. Safety does not depend on it. Default: 24h.
    """
    repository = session.open(writing=not dry_run)
    with session.progress() as progress:
        report = repository.prune(dry_run, grace=grace.total_seconds(), progress=progress)
    document = {"repository": repository.url, "grace_seconds": grace.total_seconds(), **asdict(report)}
    return Answer(document, _view_freed, told=not dry_run)


def extend_locks(*, session: SessionArgument) -> Answer:
    """Extend the Object Lock of everything in a bucket of S3 or Google, where it may end soon. Run it on a schedule.

    Pass `--storage-option object_lock_days=30`, the number of days that the locks should have from now on.
    """
    repository = session.open(writing=True)
    count = repository.extend_locks()
    return Answer(
        {"repository": repository.url, "extended": count},
        remark=f"The locks of {count_text(count, 'object')} were extended.",
    )


def repair(
    *,
    dry_run: bool = False,
    copy: Annotated[str | None, Parameter(name="--from")] = None,
    unencrypted: bool = False,
    other: Other = SAME,
    session: SessionArgument,
) -> Answer:
    """Recover what can be recovered, and list what is lost. Asks first. The exit code is 3 if something is lost.

    Stop all other writers first: repair replaces damaged objects.

    Args:
        dry_run: Only show what would be done.
        copy: The URL or path of a copy of the repository. What is damaged here is read there, and verified.
        unencrypted: Allow to repair an encrypted repository from a copy that is not encrypted.
    """
    repository = session.open(writing=not dry_run)
    second = None if copy is None else other.open(session, copy)
    if not dry_run:
        session.confirm(f"Repair {repository.url}? No other process may write to it meanwhile.")
    with session.progress() as progress:
        report = repository.repair(dry_run, copy=second, unencrypted=unencrypted, progress=progress)
    document = {"repository": repository.url, **asdict(report)}
    return Answer(document, _view_repaired, status=DAMAGED if report.lost else 0)


def stats(*, session: SessionArgument) -> Answer:
    """Show the contents and size of the repository, and what deduplication and compression saved."""
    repository = session.open()
    found = repository.stats()
    document = {
        "repository": repository.url,
        "id": repository.id,
        "encrypted": repository.encrypted,
        **asdict(found),
        "stored_bytes": found.stored_bytes,
        "saved_bytes": found.saved_bytes,
    }
    return Answer(document, _view_statistics)


# --- views -------------------------------------------------------------------------------------------------------


def _view_explained(document: Document) -> Iterator[str]:
    from textwrap import wrap

    for key in ("what_happened", "what_to_do"):
        # The page links to others, which a terminal cannot open.
        yield from wrap(re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", document[key]), terminal_width())
    yield f"In Python, catch `prefect_snapshots.errors.{document['error']}`."


def _summary(document: Document) -> str:
    read = f", {size_text(document['bytes_read'])} read" if document["read_data"] else ""
    looked = (
        f"{count_text(document['versions'], 'version')}, {count_text(document['packs'], 'pack')}, "
        f"{count_text(document['chunks'], 'chunk')}{read}"
    )
    found = count_text(len(document["problems"]), "problem") if document["problems"] else "no problems"
    return f"{document['repository']}: {found} ({looked})"


def _view_problems(document: Document) -> Iterator[str]:
    yield from _problems(document["problems"])
    for note in document["notes"]:
        yield f"note: {printable(note)}"


def _problems(problems: list[Document]) -> Iterator[str]:
    for problem in problems:
        yield printable(f"{problem['path']}: {problem['what']}")
        for version in problem["versions"]:
            yield printable(f"  hits {version}")


def _view_freed(document: Document) -> Iterator[str]:
    import humanize

    would = "would be " if document["dry_run"] else ""
    packs = count_text(document["packs_deleted"], "pack")
    copied = document["packs_rewritten"]
    kept = f", {copied:,} of them after copying what is still needed" if copied else ""
    yield f"{would}freed now: {size_text(document['bytes_freed'])} in {packs}{kept}"
    grace = humanize.precisedelta(timedelta(seconds=document["grace_seconds"]))
    waiting = count_text(document["packs_waiting"], "pack")
    yield f"after the grace time of {grace}: {size_text(document['bytes_waiting'])} in {waiting}"
    if document["packs_not_rewritten"]:
        yield (
            f"{count_text(document['packs_not_rewritten'], 'pack')} with some garbage stayed, because the disk is too "
            "full to free them. Free some other space, or delete more versions, and prune again."
        )


def _view_repaired(document: Document) -> Iterator[str]:
    would = "would " if document["dry_run"] else ""
    if not document["actions"]:
        yield "There is nothing to repair."
    for action in document["actions"]:
        yield f"{would}{printable(action)}"
    if document["lost"]:
        yield "Lost:"
        yield from _problems(document["lost"])


def _view_statistics(document: Document) -> Iterator[str]:
    stored, logical = document["stored_bytes"], document["logical_bytes"]
    yield from fields(
        {
            "repository": document["repository"],
            "id": document["id"],
            "encrypted": "yes" if document["encrypted"] else "no",
            "versions": f"{document['versions']:,} in {count_text(document['streams'], 'stream')}",
            "size": f"{size_text(logical)} of versions, without deduplication",
            "stored": f"{size_text(stored)}, of which {size_text(document['bytes'].get('packs', 0))} are versions",
            "saved": size_text(document["saved_bytes"]),
            "requests": ", ".join(f"{count:,} {verb}" for verb, count in document["requests"].items()),
        }
    )
    yield ""
    rows = [
        [kind, f"{document['objects'][kind]:,}", size_text(document["bytes"][kind])]
        for kind in sorted(document["objects"])
    ]
    yield from table(columns("kind", ">objects", ">bytes"), rows)
