"""`prefect-snapshots password`: manage the passwords of an encrypted repository, and trust a replaced repository."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cyclopts import App

from ..errors import RepositoryNotFound, WrongPassword
from .output import Answer, columns, printable, table
from .session import SessionArgument, new_password

Document = dict[str, Any]

app = App(name="password", help="Manage the passwords of an encrypted repository.")


@app.command(name="list")
def list_(*, session: SessionArgument) -> Answer:
    """List the passwords that open the repository, newest first."""
    repository = session.open()
    found = [{"name": info.name, "created": info.created.isoformat()} for info in repository.list_passwords()]
    return Answer({"repository": repository.url, "passwords": found}, _view)


@app.command
def add(
    name: str,
    /,
    *,
    new_password_command: str | None = None,
    new_password_file: str | None = None,
    session: SessionArgument,
) -> Answer:
    """Add another password that opens the repository.

    Use a different password for each person and machine, so that you can remove one without changing the others.

    Args:
        name: A name for the password. Everybody who can read the storage can see it.
        new_password_command: A shell command that prints the new password. Default: you type it twice.
        new_password_file: A file with the new password.
    """
    repository = session.open(writing=True)
    repository.add_password(name, new_password(new_password_command, new_password_file))
    return _answer(repository.url, repository.id, name, "added", f"Added the password {name!r} to {repository.url}.")


@app.command
def change(
    name: str | None = None,
    /,
    *,
    new_password_command: str | None = None,
    new_password_file: str | None = None,
    session: SessionArgument,
) -> Answer:
    """Replace a password. The data keeps its keys, so no data is rewritten.

    Anybody who knew the old password may have kept the secret. After a leak, copy the data into a new repository.

    Args:
        name: The name of the password. Default: the one that opens the repository now.
        new_password_command: A shell command that prints the new password. Default: you type it twice.
        new_password_file: A file with the new password.
    """
    repository = session.open(writing=True)
    if not repository.encrypted:
        raise WrongPassword(f"{repository.url} is not encrypted. A repository gets its password when it is created.")
    repository.change_password(new_password(new_password_command, new_password_file), name)
    return _answer(repository.url, repository.id, name, "changed", f"{repository.url} has a new password.")


@app.command
def remove(name: str, /, *, session: SessionArgument) -> Answer:
    """Remove a password, so that it no longer opens the repository.

    Anybody who knew it may have kept the secret or a copy of repository.json. After a leak, copy the data into a new
    repository.

    Args:
        name: The name of the password. You cannot remove the one that you open the repository with.
    """
    repository = session.open(writing=True)
    session.confirm(f"Remove the password {name!r} of {repository.url}?")
    repository.remove_password(name)
    return _answer(
        repository.url, repository.id, name, "removed", f"Removed the password {name!r} of {repository.url}."
    )


@app.command
def trust(*, session: SessionArgument) -> Answer:
    """Accept the repository that is at the URL now, after it was replaced.

    The id of every repository that you open is remembered, and another repository at the same URL is refused.
    Run this only if you know why it changed.
    """
    from ..repository import known
    from ..repository.configuration import read_config

    location = session.location()
    config = read_config(location)
    if config is None:
        raise RepositoryNotFound(f"There is no repository at {location.url}. Check the URL.")
    before = known.find(location)
    now = known.KnownRepository(config["id"], bool(config["passwords"]))
    encrypted = "encrypted" if now.encrypted else "not encrypted"
    if before is not None:
        session.confirm(
            f"Trust the repository {now.id} ({encrypted}) at {location.url} from now on, instead of {before.id}?"
        )
    known.forget(location)
    known.remember(location, now)
    document = {
        "repository": location.url,
        "id": now.id,
        "before": before.id if before else None,
        "encrypted": now.encrypted,
    }
    return Answer(document, remark=f"{location.url}: the repository {now.id} ({encrypted}) is trusted.")


def _answer(url: str, repository_id: str, name: str | None, done: str, remark: str) -> Answer:
    return Answer({"repository": url, "id": repository_id, "name": name, done: True}, remark=remark)


def _view(document: Document) -> Iterator[str]:
    if not document["passwords"]:
        yield f"{document['repository']} is not encrypted."
        return
    rows = [[printable(found["name"]), found["created"]] for found in document["passwords"]]
    yield from table(columns("name", "created"), rows)
