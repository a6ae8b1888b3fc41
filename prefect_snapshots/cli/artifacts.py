"""`prefect-snapshots artifacts ...`: log, list, download, compare, promote, release and delete versions.

A version is a number (`3` or `v3`), `latest`, a stage such as `production`, or a time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from ..errors import ArtifactNotFound, InvalidArgument
from ..messages import hint
from .completion import artifact_names, artifact_versions, collections, completed, release_tags, stages
from .naming import choose
from .output import (
    PIN,
    Answer,
    columns,
    count_text,
    deleted,
    fields,
    made_by_fields,
    printable,
    renamed,
    size_text,
    table,
    time_text,
    value_text,
    view_description,
)
from .retention import NO_RETENTION, Retention, cleaned, required_policy
from .session import Session, SessionArgument, parse_options, parse_value

if TYPE_CHECKING:
    from ..artifacts import ArtifactRegistry, ArtifactVersion

app = App(name="artifacts", help="Log, list, download, compare, promote, release and delete versions of artifacts.")

Collection = Annotated[str, Parameter(alias="-c", help="The collection of the artifact."), completed(collections)]
Name = Annotated[str, completed(artifact_names)]
Version = Annotated[str, completed(artifact_versions)]
Stage = Annotated[str, completed(stages)]
Tag = Annotated[str, completed(release_tags)]
Asof = Annotated[bool, Parameter(help="If the version is a time, take the latest version as of then.")]


# --- looking ----------------------------------------------------------------------------------------------------------


@app.command(name="list")
def list_all(
    name: Name | None = None,
    /,
    *,
    where: str | None = None,
    collection: Annotated[str | None, Parameter(alias="-c"), completed(collections)] = None,
    session: SessionArgument,
) -> Answer:
    """List the artifacts, or the versions of one of them, newest first.

    Args:
        name: List the versions of this artifact. The beginning of a name is enough.
        where: List the versions that meet a condition, such as "loss < 0.1 and tags = 'best'". Dots lead into nested
            metadata.
        collection: Only this collection. Default: all of them; with a NAME or a condition: default.
    """
    if name is not None:
        return _list_versions(*_named(session, collection or "default", name), where)
    from ..repository.tracking import leaving_out_damage

    if where is not None:
        registry = _registry(session, collection or "default")
        if collection is not None:
            _check_collection(registry, collection)
        return _list_versions(registry, None, where)
    registry = _registry(session, "default")
    if collection is not None:
        _check_collection(registry, collection)
    names = registry.list_collection_names() if collection is None else [collection]
    rows: list[dict[str, Any]] = []
    for each in names:
        for artifact in registry.list_names(each):
            with contextlib.suppress(ArtifactNotFound), leaving_out_damage(f"Artifact {each}/{artifact}"):
                rows += _row_of(registry, each, artifact)
    document = {"repository": registry.repository.url, "artifacts": rows}
    return Answer(document, _view_artifacts, "" if rows else "There are no artifacts.")


def _row_of(registry: ArtifactRegistry, collection: str, name: str) -> list[dict[str, Any]]:
    versions = registry.list_versions(name, collection)
    if not versions:
        return []
    row = {
        "collection": collection,
        "name": name,
        "versions": len(versions),
        "latest": versions[0].version,
        "created_at": versions[0].created_at,
        "aliases": registry.get_aliases(name, collection),
        "written": sum(version.written for version in versions),
    }
    return [row]


@app.command
def show(
    name: Name,
    version: Version = "latest",
    /,
    *,
    asof: Asof = False,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Show the metadata of a version, and the files that a download of it gives.

    Args:
        name: The artifact, or the beginning of its name.
        version: A number, latest, a stage or a time. Default: latest.
    """
    registry, name = _named(session, collection, name)
    info = registry.get_artifact(name, version, "asof" if asof else "exact")
    url = None
    if info.handler == "reference":
        reference = registry.load_artifact(name, info.version, validate=False, verify=False)
        url, found = reference.url, [(file.path or reference.url, file.size) for file in reference.files]
    else:
        found = registry.list_files(name, info.version)
    files = [{"path": path, "size": size} for path, size in found]
    return Answer({"repository": registry.repository.url, **asdict(info), "url": url, "files": files}, _view_version)


@app.command
def card(
    name: Name,
    version: Version = "latest",
    /,
    *,
    to: Path | None = None,
    asof: Asof = False,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Print the card of a version: a page of Markdown with its description and what it records.

    Args:
        name: The artifact, or the beginning of its name.
        version: A number, latest, a stage or a time. Default: latest.
        to: Write the card to this file. Asks before it replaces one.
    """
    registry, name = _named(session, collection, name)
    info = registry.get_artifact(name, version, "asof" if asof else "exact")
    text = registry.get_card(name, info.version)
    if to is not None:
        if to.exists():
            session.confirm(f"{to} exists. Replace it?")
        to.write_text(text, encoding="utf-8")
    document = {
        "name": name,
        "collection": collection,
        "version": info.version,
        "card": text,
        "to": None if to is None else str(to.absolute()),
    }
    if to is not None:
        return Answer(document, remark=f"Wrote the card of {collection}/{name} {info.version} to {to}.")
    return Answer(document, lambda shown: (printable(line) for line in shown["card"].splitlines()))


@app.command
def lineage(
    name: Name,
    version: Version = "latest",
    /,
    *,
    asof: Asof = False,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Show what a version was made from, and what was made from it.

    Versions that are logged in a flow run record what the run has read before.

    Args:
        name: The artifact, or the beginning of its name.
        version: A number, latest, a stage or a time. Default: latest.
    """
    registry, name = _named(session, collection, name)
    info = registry.get_artifact(name, version, "asof" if asof else "exact")
    steps = [asdict(step) for step in registry.get_lineage(name, info.version)]
    document = {
        "name": name,
        "collection": collection,
        "version": info.version,
        "made_by": None if info.made_by is None else asdict(info.made_by),
        "lineage": steps,
    }
    remark = "" if steps or info.made_by else f"{collection}/{name} {info.version} was not logged in a flow run, "
    return Answer(document, _view_lineage, remark and f"{remark}and nothing else was made from it.")


@app.command
def diff(
    name: Name,
    old: Version,
    new: Version = "latest",
    /,
    *,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Show what differs between two versions: files, lines of text, leaves of pytrees.

    Nothing is unpickled.

    Args:
        name: The artifact, or the beginning of its name.
        old: A version.
        new: Another version.
    """
    registry, name = _named(session, collection, name)
    differences = registry.diff(name, old, new)
    document = {
        "name": name,
        "old": old,
        "new": new,
        "differences": [
            {"path": each.path, "kind": each.kind, "old": each.old, "new": each.new, "text": getattr(each, "text", "")}
            for each in differences
        ],
    }
    count = count_text(len(differences), "difference")
    remark = f"{count}." if differences else "They are identical."
    return Answer(document, _view_differences, remark)


@app.command
def history(
    name: Name, stage: Stage | None = None, /, *, collection: Collection = "default", session: SessionArgument
) -> Answer:
    """Show who moved which stage and when, newest first.

    Args:
        name: The artifact, or the beginning of its name.
        stage: Only this stage.
    """
    registry, name = _named(session, collection, name)
    moves = registry.get_alias_history(name, stage)
    document = {"name": name, "collection": collection, "moves": [asdict(move) for move in reversed(moves)]}
    return Answer(document, _view_moves, "" if moves else "No stage was ever set.")


# --- logging and downloading ------------------------------------------------------------------------------------------


@app.command
def log(
    name: Name,
    path: Path,
    /,
    *,
    metadata: list[str] | None = None,
    expiry: str | None = None,
    if_changed: bool = False,
    follow_links: bool = False,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Log a file or a folder as a new version. The repository is created if there is none.

    Args:
        name: The artifact.
        path: The file or folder.
        metadata: KEY=VALUE to store with it. A value is parsed as JSON if possible, else it is a string. Repeat it for
            several.
        expiry: When the version expires: an ISO 8601 time, in UTC if it has no time zone.
        if_changed: Create no version if the latest one has the same content.
        follow_links: Log what links in the folder lead to, instead of the links.
    """
    registry = _registry(session, collection, create=True)
    with session.progress("byte") as progress:
        version = registry.log_files(
            name,
            path,
            metadata=_metadata(metadata),
            expiry=expiry,
            if_changed=if_changed,
            follow_links=follow_links,
            progress=progress,
        )
    return _logged(registry, version)


@app.command
def edit(
    name: Name,
    version: Version = "latest",
    /,
    *,
    add: list[Path] | None = None,
    below: str | None = None,
    remove: list[str] | None = None,
    follow_links: bool = False,
    metadata: list[str] | None = None,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Log a new version of a folder that has some files added, replaced or removed. The others are not copied.

    Args:
        name: The artifact, or the beginning of its name.
        version: The version to begin with. Default: latest.
        add: A file or a folder to add. Files of the same paths are replaced. Repeat it for several.
        below: The folder in the artifact to put added files into. Default: the top.
        remove: Remove the files that match a pattern as in .gitignore, such as "plots/" or "*.csv". Repeatable.
        follow_links: Add what links in an added folder lead to, instead of the links.
        metadata: KEY=VALUE to store with the new version. Repeat it for several.
    """
    if not add and not remove:
        raise InvalidArgument("Pass what to change with --add or --remove.")
    registry, name = _named(session, collection, name, writing=True)
    with registry.draft(name, version, metadata=_metadata(metadata)) as draft:
        if remove:
            draft.remove(remove)
        for path in add or ():
            draft.add(path, below, follow_links=follow_links)
    assert draft.version is not None
    return _logged(registry, draft.version)


@app.command
def refer(
    name: str,
    url: str,
    /,
    *,
    checksum: bool = False,
    url_option: list[str] | None = None,
    if_changed: bool = False,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Log files that stay where they are: their sizes, and what identifies their content.

    Args:
        name: The name of the artifact.
        url: A path, or the URL of a file or a folder.
        checksum: Also read the files, and record a checksum of each.
        url_option: KEY=VALUE for the file system of the URL, such as anon=true. It is not stored. Repeat it for more.
        if_changed: Log nothing if the latest version is identical.
    """
    registry = _registry(session, collection, writing=True)
    options = parse_options(url_option or ())
    version = registry.log_reference(name, url, storage_options=options, checksum=checksum, if_changed=if_changed)
    reference = registry.load_artifact(name, version.version, verify=False)
    files = [{"path": file.path, "size": file.size, "checks": file.checks} for file in reference.files]
    document = {
        "name": name,
        "collection": collection,
        "version": version.version,
        "new": version.new,
        "url": reference.url,
        "files": files,
    }
    what = f"a reference to {count_text(len(files), 'file')}, {size_text(reference.size)}"
    return Answer(document, remark=_told(version, what))


@app.command
def download(
    name: Name,
    version: Version = "latest",
    /,
    *,
    to: Path,
    paths: Annotated[list[str] | None, Parameter(name="--only")] = None,
    clean: bool = False,
    asof: Asof = False,
    expired: bool = False,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Write the files of a version into a directory. Every byte is verified.

    A directory that does not exist appears only when it is complete. In one that exists, files of the same names are
    replaced and others are kept: it asks first.

    Args:
        name: The artifact, or the beginning of its name.
        version: A number, latest, a stage or a time. Default: latest.
        to: The directory.
        paths: Download only the files that match a pattern as in .gitignore, such as "plots/" or "*.csv". Repeatable.
        clean: Delete everything else in the directory.
        expired: Download the version even if it has expired.
    """
    registry, name = _named(session, collection, name)
    info = registry.get_artifact(name, version, "asof" if asof else "exact")
    if to.is_dir() and any(to.iterdir()):
        what = "delete everything else in it" if clean else "replace files of the same names"
        session.confirm(f"Write {info.name} {info.version} into {to}, and {what}?")
    with session.progress("byte") as progress:
        done = registry.download_artifact(
            name, None, info.version, to, paths=paths, clean=clean, validate=not expired, progress=progress
        )
    document = {"name": name, "collection": collection, "version": info.version, "to": str(done.path)}
    return Answer(document, remark=f"Downloaded {done.version} to {done.path}.")


@app.command
def verify(
    name: str,
    version: str = "latest",
    /,
    *,
    folder: Path,
    follow_links: bool = False,
    asof: Asof = False,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Compare a folder on the disk, such as a download, with a version, byte by byte.

    The exit code is 1 if they differ.

    Args:
        name: The artifact, or the beginning of its name.
        version: A number, latest, a stage or a time. Default: latest.
        folder: The folder.
        follow_links: Compare what links in the folder lead to, instead of the links.
    """
    registry, name = _named(session, collection, name)
    info = registry.get_artifact(name, version, "asof" if asof else "exact")
    differences = registry.verify_folder(name, folder, info.version, follow_links=follow_links)
    found = [asdict(each) for each in differences]
    document = {"name": name, "collection": collection, "version": info.version, "ok": not found, "differences": found}
    remark = f"{folder} {'differs from' if found else 'is identical to'} {collection}/{name}:{info.version}."
    return Answer(document, _view_differences if found else None, remark, status=1 if found else 0)


# --- stages and releases ----------------------------------------------------------------------------------------------


@app.command
def promote(
    name: Name,
    version: Version = "latest",
    /,
    *,
    to: str | None = None,
    expected: Version | None = None,
    to_collection: str | None = None,
    to_repository: str | None = None,
    to_storage_option: list[str] | None = None,
    allow_older: bool = False,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Promote a version to a stage, or into another collection or repository.

    Between repositories, only data that the target lacks is copied. The version appears when it is complete.

    Args:
        name: The artifact, or the beginning of its name.
        version: A number, latest, a stage or a time. Default: latest.
        to: The stage, such as production.
        expected: Promote only if the stage is this version now, or 'none' if it must be new.
        to_collection: The collection of the target. Default: the same.
        to_repository: The URL or path of the target. It is created if there is none.
        to_storage_option: KEY=VALUE for the file system of the target. Repeat it for more.
        allow_older: Copy the version even if the target has a newer one.
    """
    elsewhere = to_collection is not None or to_repository is not None
    if (to is not None) == elsewhere:
        raise InvalidArgument("Say where to promote: pass --to STAGE, or --to-collection or --to-repository.")
    if expected is not None and to is None:
        raise InvalidArgument("--expected needs --to: it says what the stage must be.")
    if to_storage_option and to_repository is None:
        raise InvalidArgument("--to-storage-option needs --to-repository: it configures that repository.")
    registry, name = _named(session, collection, name, writing=to_repository is None)
    if to is not None:
        known = ... if expected is None else None if expected == "none" else expected
        promoted = registry.promote_artifact(name, version, to=to, expected=known)
        remark = f"{to} of {collection}/{name} is {promoted.version}."
        return Answer({**_reference(promoted), "stage": to}, remark=remark)
    if to_repository is None:
        target = type(registry)(registry.repository, to_collection or collection)
    else:
        other = session.at(to_repository, parse_options(to_storage_option or ()))
        target = _registry(other, to_collection or collection, create=True)
    with session.progress("byte") as progress:
        promoted = registry.promote_artifact(name, version, to=target, allow_older=allow_older, progress=progress)
    document = {**_reference(promoted), "new": promoted.new, "repository": target.repository.url}
    done = f"Promoted to {promoted} in {target.repository.url}."
    remark = done if promoted.new else f"Nothing to copy: {promoted} in {target.repository.url} is this version."
    return Answer(document, remark=remark)


@app.command
def rollback(name: Name, stage: Stage, /, *, collection: Collection = "default", session: SessionArgument) -> Answer:
    """Move a stage back to its previous version. Asks first.

    Args:
        name: The artifact, or the beginning of its name.
        stage: The stage, such as production.
    """
    registry, name = _named(session, collection, name, writing=True)
    now = registry.get_artifact(name, stage).version
    session.confirm(f"Move {stage} of {collection}/{name} back? It is {now} now.")
    version = registry.rollback(name, stage)
    document = {**_reference(version), "stage": stage, "previous": now}
    return Answer(document, remark=f"{stage} of {collection}/{name} is {version.version} again, and was {now}.")


@app.command
def release(
    tag: str,
    /,
    *,
    artifact: list[str] | None = None,
    metadata: list[str] | None = None,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Create a release: a tag for one version of each of several artifacts. It never changes.

    Args:
        tag: Any name that no release of the collection has.
        artifact: NAME=VERSION; NAME alone means its latest. Repeat it for more. Default: the latest of all artifacts.
        metadata: KEY=VALUE to store with it. Repeat it for several.
    """
    chosen = None
    if artifact is not None:
        chosen = {name: version or None for name, _, version in (each.partition("=") for each in artifact)}
    registry = _registry(session, collection, writing=True)
    released = registry.create_release(tag, chosen, metadata=_metadata(metadata))
    remark = f"Released {tag}: {count_text(len(released.artifacts), 'artifact')}."
    return Answer(asdict(released), _view_release, remark)


@app.command
def releases(*, collection: Collection = "default", session: SessionArgument) -> Answer:
    """List the releases of a collection, newest first."""
    registry = _registry(session, collection)
    if collection != "default":
        _check_collection(registry, collection)
    found = registry.list_releases()
    document = {"collection": collection, "releases": [asdict(each) for each in found]}
    return Answer(document, _view_releases, "" if found else "There are no releases.")


@app.command(name="copy-release")
def copy_release(
    tag: Tag,
    /,
    *,
    to: str,
    to_storage_option: list[str] | None = None,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Copy a release into another repository: its versions under the same numbers, and nothing else.

    Args:
        tag: The tag of the release.
        to: The URL or path of the target. It is created if there is none.
        to_storage_option: KEY=VALUE for the file system of the target. Repeat it for more.
    """
    registry = _registry(session, collection)
    other = session.at(to, parse_options(to_storage_option or ()))
    with session.progress("byte") as progress:
        copy = registry.copy_release(tag, other.open(create=True), progress=progress)
    copied = copy.find_release(tag)
    document = {"repository": copy.repository.url, **asdict(copied)}
    return Answer(document, remark=f"Copied {count_text(len(copied.artifacts), 'artifact')} to {copy.repository.url}.")


# --- renaming, keeping and deleting -----------------------------------------------------------------------------------


@app.command
def rename(
    name: Name, new_name: str, /, *, dry_run: bool = False, collection: Collection = "default", session: SessionArgument
) -> Answer:
    """Rename an artifact. Its versions keep their numbers, stages, metadata and releases. No data is copied.

    If it is interrupted, run it again to finish.

    Args:
        name: The whole name of the artifact.
        new_name: The new name.
        dry_run: Only check whether it can be renamed.
    """
    registry, name = _named(session, collection, name, writing=not dry_run, whole=True)
    versions = len(registry.list_versions(name))
    registry.rename_artifact(name, new_name, dry_run=dry_run)
    document = {"name": new_name, "previous": name, "collection": collection, "versions": versions, "dry_run": dry_run}
    return renamed(f"{collection}/{name}", f"{collection}/{new_name}", count_text(versions, "version"), document)


@app.command
def delete(
    name: Name,
    version: Version | None = None,
    /,
    *,
    force: bool = False,
    dry_run: bool = False,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Delete a version, or an artifact with all its versions. Asks first.

    Args:
        name: The whole name of the artifact.
        version: A number, latest, a stage or a time. Default: all versions.
        force: Delete versions even if they are pinned, released or have a stage.
        dry_run: Only show what would be deleted.
    """
    registry, name = _named(session, collection, name, writing=not dry_run, whole=True)
    infos = registry.list_versions(name) if version is None else [registry.get_artifact(name, version)]
    size = size_text(sum(info.size for info in infos))
    if version is None:
        question = f"Delete all of {collection}/{name}: {count_text(len(infos), 'version')}, {size}?"
        delete_them = functools.partial(registry.delete_artifact, name, force=force)
    else:
        question = f"Delete {collection}/{name} {infos[0].version} ({size})?"
        delete_them = functools.partial(registry.delete_version, name, infos[0].version, force=force)
    delete_them(dry_run=True)  # what is refused is refused before anybody is asked
    if not dry_run:
        session.confirm(question)
        delete_them()
    document = {"name": name, "collection": collection, "deleted": [asdict(info) for info in infos]}
    return deleted(f"{count_text(len(infos), 'version')} of {collection}/{name}", document, dry_run)


@app.command
def describe(
    name: Name,
    version: Version | None = None,
    /,
    *,
    description: str | None = None,
    add_tag: list[str] | None = None,
    remove_tag: list[str] | None = None,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Describe an artifact or a version: set its description, add or remove tags. Without any of these, show them.

    Args:
        name: The artifact, or the beginning of its name.
        version: A number, latest, a stage or a time. Default: describe the artifact itself.
        description: The text. An empty one removes it.
        add_tag: A tag to add. Repeat it for several.
        remove_tag: A tag to remove. Repeat it for several.
    """
    changes = description is not None or bool(add_tag) or bool(remove_tag)
    registry, name = _named(session, collection, name, writing=changes)
    exact = None if version is None else registry.get_artifact(name, version).version
    if changes:
        registry.describe_artifact(
            name,
            ... if exact is None else exact,
            description=description,
            add_tags=add_tag,
            remove_tags=remove_tag,
        )
    about = registry.get_description(name) if exact is None else registry.get_artifact(name, exact)
    document = {
        "name": name,
        "collection": collection,
        "version": exact,
        "description": about.description,
        "tags": about.tags,
    }
    return Answer(document, view_description)


@app.command
def pin(
    name: Name, version: Version = "latest", /, *, collection: Collection = "default", session: SessionArgument
) -> Answer:
    """Exempt a version from retention.

    Args:
        name: The artifact, or the beginning of its name.
        version: A number, latest, a stage or a time. Default: latest.
    """
    return _set_pinned(session, collection, name, version, True)


@app.command
def unpin(
    name: Name, version: Version = "latest", /, *, collection: Collection = "default", session: SessionArgument
) -> Answer:
    """Allow retention to delete a version again.

    Args:
        name: The artifact, or the beginning of its name.
        version: A number, latest, a stage or a time. Default: latest.
    """
    return _set_pinned(session, collection, name, version, False)


@app.command
def cleanup(
    name: Name | None = None,
    /,
    *,
    dry_run: bool = False,
    retention: Retention = NO_RETENTION,
    collection: Collection = "default",
    session: SessionArgument,
) -> Answer:
    """Delete versions that the retention policy does not keep.

    The latest version always stays, and so do versions that are pinned, released, or have a stage.
    `prefect-snapshots prune` reclaims the space.

    Args:
        name: Clean up only this artifact. Default: every artifact of the collection.
        dry_run: Only show what would be deleted, and why the rest is kept.
    """
    policy = required_policy(retention)
    registry = _registry(session, collection, writing=not dry_run)
    chosen = None if name is None else _choose(registry, name)
    return cleaned(registry.cleanup(policy, dry_run, name=chosen), "version")


# --- helpers ----------------------------------------------------------------------------------------------------------


def _registry(session: Session, collection: str, *, writing: bool = False, create: bool = False) -> ArtifactRegistry:
    from ..artifacts import ArtifactRegistry

    return ArtifactRegistry(session.open(writing=writing, create=create), collection)


def _named(
    session: Session, collection: str, name: str, *, writing: bool = False, whole: bool = False
) -> tuple[ArtifactRegistry, str]:
    """Return the registry, and the whole name of the artifact that is meant."""
    registry = _registry(session, collection, writing=writing)
    return registry, _choose(registry, name, whole=whole)


def _choose(registry: ArtifactRegistry, name: str, *, whole: bool = False) -> str:
    from ..repository.names import check_name

    known = registry.list_names()
    if not known:  # the registry knows better what is not there: the collection, or the name
        return name
    if not any(each.startswith(name) for each in known):
        check_name(name)
    return choose(name, known, f"artifact in {registry.active_collection}", ArtifactNotFound, whole=whole)


def _check_collection(registry: ArtifactRegistry, collection: str) -> None:
    """Check that a collection that the user has named exists.

    Raises:
        ArtifactNotFound: It does not. The message names similar ones.
    """
    known = registry.list_collection_names()
    if collection not in known:
        raise ArtifactNotFound(f"There is no collection {collection!r}. {hint(collection, known)}")


def _set_pinned(session: Session, collection: str, name: str, version: str, pinned: bool) -> Answer:
    registry, name = _named(session, collection, name, writing=True)
    exact = registry.get_artifact(name, version).version
    (registry.pin if pinned else registry.unpin)(name, exact)
    said = f"{'Pinned' if pinned else 'Unpinned'} {collection}/{name} {exact}."
    return Answer(asdict(registry.get_artifact(name, exact)), remark=said)


def _reference(version: ArtifactVersion) -> dict[str, Any]:
    """Return the name of a version in documents."""
    return {"name": version.name, "collection": version.collection, "version": version.version}


def _metadata(pairs: Sequence[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, separator, value = pair.partition("=")
        if not key or not separator or key in found:
            raise InvalidArgument(f"--metadata takes KEY=VALUE, each key once, not {pair!r}.")
        found[key] = parse_value(value)
    return found


def _logged(registry: ArtifactRegistry, version: ArtifactVersion) -> Answer:
    info = registry.get_artifact(version.name, version.version)
    remark = _told(version, f"{size_text(info.size)}, {size_text(info.written)} of it written")
    return Answer({"repository": registry.repository.url, "new": version.new, **asdict(info)}, remark=remark)


def _told(version: ArtifactVersion, what: str) -> str:
    """Return what to say of a version that was to be logged."""
    return f"Logged {version}: {what}." if version.new else f"No new version: {version} has the same content."


def _list_versions(registry: ArtifactRegistry, name: str | None, where: str | None) -> Answer:
    versions = registry.list_versions(name) if where is None else registry.search(where, name)
    document = {
        "repository": registry.repository.url,
        "name": name,
        "collection": registry.active_collection,
        "versions": [asdict(version) for version in versions],
    }
    written = size_text(sum(version.written for version in versions))
    of = registry.active_collection if name is None else f"{registry.active_collection}/{name}"
    return Answer(document, _view_versions, f"{count_text(len(versions), 'version')} of {of}: {written} written")


def _view_artifacts(document: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            row["collection"],
            row["name"],
            f"{row['versions']:,}",
            row["latest"],
            ", ".join(f"{alias} {version}" for alias, version in row["aliases"].items()),
            time_text(row["created_at"], seconds=False),
            size_text(row["written"]),
        )
        for row in document["artifacts"]
    ]
    yield from table(
        columns("collection…", "artifact…", ">versions", "latest", "stages…", "logged (local)", ">written"), rows
    )


def _view_versions(document: dict[str, Any]) -> Iterator[str]:
    every = document["name"] is None
    rows = [
        (
            PIN if row["pinned"] else "",
            *([row["name"]] if every else []),
            row["version"],
            ", ".join(row["aliases"]),
            ", ".join(row["tags"]),
            time_text(row["created_at"], seconds=False),
            row["handler"] or "files",
            ", ".join(f"{key}={value_text(value)}" for key, value in row["metadata"].items()),
            size_text(row["size"]),
            size_text(row["written"]),
        )
        for row in document["versions"]
    ]
    yield from table(
        columns(
            "",
            *(["artifact…"] if every else []),
            "version",
            "stages…",
            "tags…",
            "logged (local)",
            "what",
            "metadata…",
            ">size",
            ">written",
        ),
        rows,
    )


def _view_version(document: dict[str, Any]) -> Iterator[str]:
    source = document["source"] or {}
    origin = source.get("snapshot") or source.get("version") or ""
    yield from fields(
        {
            "artifact": f"{document['collection']}/{document['name']}",
            "version": f"{PIN + ' ' if document['pinned'] else ''}{document['version']}",
            "stages": ", ".join(document["aliases"]),
            "tags": ", ".join(document["tags"]),
            "logged": f"{time_text(document['created_at'])} (local)",
            "expires": f"{time_text(document['expiry'])} (local)" if document["expiry"] else "",
            "what": document["handler"] or "files",
            "size": f"{size_text(document['size'])}, {size_text(document['written'])} of it written",
            "from": f"{origin} of {source.get('name')} in {source.get('url')}" if origin else "",
            "refers to": document["url"] or "",
            **made_by_fields(document["made_by"]),
            "needs": ", ".join(f"{package} {version}" for package, version in document["environment"].items()),
        }
    )
    if document["metadata"]:
        yield "metadata"
        yield from fields({f"  {key}": value_text(value) for key, value in document["metadata"].items()})
    if document["description"]:
        yield ""
        yield from map(printable, document["description"].splitlines())
    yield ""
    yield from table(columns("file", ">size"), [(file["path"], size_text(file["size"])) for file in document["files"]])


def _view_lineage(document: dict[str, Any]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [
        (
            f"{step['distance']:+d}",
            step["kind"],
            step["name"],
            step["version"],
            step["repository"] or "",
            step["flow_run"] or "",
        )
        for step in document["lineage"]
    ]
    made_by = document["made_by"]
    if rows or made_by:
        name, run = f"{document['collection']}/{document['name']}", made_by["flow_run"] if made_by else ""
        own = ("0", "artifacts", name, document["version"], "", run)
        rows.insert(sum(step["distance"] < 0 for step in document["lineage"]), own)
    yield from table(columns(">step", "kind", "name…", "version…", "repository…", "flow run…"), rows)


def _view_differences(document: dict[str, Any]) -> Iterator[str]:
    rows = [(each["path"], each["kind"], each["old"] or "", each["new"] or "") for each in document["differences"]]
    yield from table(columns("path…", "kind", "old…", "new…"), rows)
    for each in document["differences"]:
        if each["text"]:
            yield ""
            yield from map(printable, each["text"].splitlines())


def _view_moves(document: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            time_text(move["moved_at"]),
            move["alias"],
            move["previous"] or "",
            move["version"] or "(removed)",
            move["moved_by"],
            "rolled back" if move["rollback"] else "",
        )
        for move in document["moves"]
    ]
    yield from table(columns("moved (local)", "stage", "from", "to", "by…", ""), rows)


def _view_release(document: dict[str, Any]) -> Iterator[str]:
    yield from table(columns("artifact", "version"), list(document["artifacts"].items()))


def _view_releases(document: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            each["tag"],
            time_text(each["created_at"], seconds=False),
            ", ".join(f"{name} {version}" for name, version in each["artifacts"].items()),
        )
        for each in document["releases"]
    ]
    yield from table(columns("tag", "released (local)", "artifacts…"), rows)
