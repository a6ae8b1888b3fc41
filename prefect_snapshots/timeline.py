"""What a run leaves in the Prefect UI about artifacts: a page for each step in the life of one, an asset, an event.

The pages of an artifact have one key: what `/v2/artifacts/key/<key>` shows is its timeline. Reporting never fails a
run: a version is safe before anything is said about it, and what goes wrong here is a warning.

Events, for automations; the resource is `prefect-snapshots.artifacts.<collection>/<name>`, related to the run:

- `prefect-snapshots.artifact.logged`: `repository` (URL), `collection`, `name`, `version`, `handler`, `size` and
  `written` (bytes of the version, and those newly stored), `metadata`, `source` (where it was promoted from, or null);
- `prefect-snapshots.artifact.promoted`: `repository`, `collection`, `name`, `version`, `stage`, `previous` (the version
  that the stage was before; null if it is new), `moved_by`, `rollback`.

And of a release, with the resource `prefect-snapshots.releases.<collection>`:

- `prefect-snapshots.release.created`: `repository`, `collection`, `tag`, `artifacts` (versions by name), `metadata`.

The asset of an artifact has the key `snapshots://<id of the repository>/<key of the artifact>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import humanize
from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext

from .artifacts import ArtifactInfo, ArtifactRegistry, ArtifactVersion, Release
from .documents import Document, Facts, Heading, markdown
from .documents.texts import Kind, Value
from .live import LiveArtifact, artifact_key, artifact_url, plain
from .reports.artifacts import about_artifact, about_release, about_version
from .runs import emit, only_warn, run_ids, run_logger

LISTED = 10
"""Versions on a page, and steps of the timeline: the latest."""

Said = Mapping[str, tuple[Value, Kind]]


def report_logged(registry: ArtifactRegistry, version: ArtifactVersion) -> None:
    """Say that a version was logged, or came here by a promotion."""
    with only_warn(f"{version} is logged, but its report is not complete"):
        info = registry.get_artifact(version.name, version.version, collection=version.collection)
        size, written = humanize.naturalsize(info.size), humanize.naturalsize(info.written)
        run_logger().info("Logged %s: %s, %s written.%s", version, size, written, _link(version))
        if any(run_ids()):
            facts = {"handler": info.handler, "size": info.size, "written": info.written, "source": info.source}
            _emit("artifact.logged", registry, version, {**facts, "metadata": plain(info.metadata)})
            _materialize(registry, info)
            _leave_page(registry, version, str(version), about_version(info))


def report_promoted(registry: ArtifactRegistry, version: ArtifactVersion, stage: str) -> None:
    """Say that a stage is another version now."""
    with only_warn(f"{version} is {stage} now, but the report is not complete"):
        history = registry.get_alias_history(version.name, stage, version.collection)
        move = next((move for move in reversed(history) if move.version == version.version), None)
        if move is None or move is not history[-1]:
            return  # somebody moved it on meanwhile, and says so
        back = "went back to" if move.rollback else "is now"
        was = f", and was {move.previous}" if move.previous else ""
        run_logger().info("%s of %s %s %s%s.%s", stage, _label(version), back, version.version, was, _link(version))
        if any(run_ids()):
            facts = {"previous": move.previous, "moved_by": move.moved_by, "rollback": move.rollback}
            _emit("artifact.promoted", registry, version, {"stage": stage, **facts})
            title = f"{stage} {back} {version.version}{was}"
            said: Said = {"moved by": (move.moved_by, "text"), "moved (UTC)": (move.moved_at, "time")}
            _leave_page(registry, version, title, said)


def report_released(registry: ArtifactRegistry, release: Release) -> None:
    """Say that there is a release."""
    with only_warn(f"Release {release.tag!r} is there, but its report is not complete"):
        label = f"{release.collection}:{release.tag}"
        pinned = ", ".join(f"{name} {version}" for name, version in release.artifacts.items())
        run_logger().info("Released %s: %s.", label, pinned)
        if any(run_ids()):
            facts = {"tag": release.tag, "artifacts": release.artifacts, "metadata": plain(release.metadata)}
            said = {"collection": release.collection, **facts}
            emit("release.created", registry.repository, said, f"releases.{release.collection}", release.collection)
            text = markdown(Document(f"Release {release.tag}", tuple(about_release(release))))
            key = artifact_key(f"releases/{release.collection}")
            LiveArtifact(key, "markdown", f"Releases of `{release.collection}`", lambda: text, shared=False).update()


def report_read(registry: ArtifactRegistry, name: str, collection: str) -> None:
    """Have Prefect know that the run depends on an artifact."""
    with only_warn(f"{collection}/{name} is read, but that is not reported"):
        context = AssetContext.get()
        if context is not None:
            context.direct_asset_dependencies.add(_asset(registry, name, collection))
            context.update_tracked_assets()


# --- what is said -----------------------------------------------------------------------------------------------------


def _leave_page(registry: ArtifactRegistry, version: ArtifactVersion, title: str, facts: Said) -> None:
    """One more step of the timeline: what happened, then the versions as they are now."""
    label = _label(version)
    versions = about_artifact(registry, version.name, version.collection, LISTED)
    text = markdown(Document(title, (Facts(facts), Heading(f"All versions of {label}"), *versions)))
    key, about = artifact_key(label), f"Artifact `{label}`: {version.version}, in `{registry.repository.url}`"
    LiveArtifact(key, "markdown", about, lambda: text, shared=False).update()


def _emit(what: str, registry: ArtifactRegistry, version: ArtifactVersion, facts: dict[str, Any]) -> None:
    label = _label(version)
    said = {"collection": version.collection, "name": version.name, "version": version.version, **facts}
    emit(what, registry.repository, said, f"artifacts.{label}", label)


def _materialize(registry: ArtifactRegistry, info: ArtifactInfo) -> None:
    """Have Prefect say, when the task ends well, that it made the asset, and of which other ones."""
    context = AssetContext.get()
    if context is None:
        return
    asset = _asset(registry, info.name, info.collection)
    context.downstream_assets.add(asset)
    context.update_tracked_assets()
    context.add_asset_metadata(asset.key, {"version": info.version, "size": info.size, **plain(info.metadata)})


def _asset(registry: ArtifactRegistry, name: str, collection: str) -> Asset:
    label = f"{collection}/{name}"
    key = artifact_key(label)
    about = AssetProperties(name=label, url=artifact_url(key), description=f"In {registry.repository.url}")
    return Asset(key=f"snapshots://{registry.repository.id}/{key}", properties=about)


def _label(version: ArtifactVersion) -> str:
    return f"{version.collection}/{version.name}"


def _link(version: ArtifactVersion) -> str:
    return f" {artifact_url(artifact_key(_label(version)))}" if any(run_ids()) else ""
