"""WandbArtifactRegistry: the artifacts of a Weights & Biases project, with the methods of every other store.

A collection is an artifact *type* of W&B; versions, aliases and the TTL are those of W&B. `wandb` is imported when a
registry is created. If W&B cannot keep a promise of `ArtifactRegistry`, `WandbArtifact` says so.
"""

from __future__ import annotations

from ..arguments import checking_types
from ..errors import NotSupported
from ..retention import CleanupReport, RetentionPolicy
from .infos import ArtifactInfo
from .manager import ArtifactManager
from .wandb_artifact import WandbArtifact
from .wandb_project import WandbProject, check_wandb_name


@checking_types
class WandbArtifactRegistry(ArtifactManager):
    """Keep artifacts in a Weights & Biases project, with the methods of `ArtifactRegistry`.

    To log, you need an active run of this project (`wandb.init`). All other methods use the credentials of `wandb
    login` or `WANDB_API_KEY`. The name of an artifact is unique in a project, also across collections.

    All methods that take the name of an artifact are those of `ArtifactManager`. `WandbArtifact` says for each of them
    what differs in W&B: pins, cleanup, rollback and the history of aliases raise `NotSupported`.

    Args:
        project: The W&B project. A project named `wandb-registry-...` is a W&B registry, which only takes links.
        collection: The collection that methods use if they get none: an artifact type of W&B, such as "model".
        entity: The team or user. Default: that of the active run if it belongs to this project, else the one in the
            settings of wandb.
        allow_pickle: Whether values stored with pickle may be loaded. Pass False if others can write to the project.

    Raises:
        MissingDependency: wandb is not installed.

    See docs/artifacts.md for an example that runs.
    """

    def __init__(
        self, project: str, collection: str = "default", entity: str | None = None, *, allow_pickle: bool = True
    ) -> None:
        self._project = WandbProject(project, entity)
        self.active_collection = check_wandb_name(collection, "collection")
        self.allow_pickle = allow_pickle

    @property
    def project(self) -> str:
        """The name of the project."""
        return self._project.name

    @property
    def entity(self) -> str | None:
        """The team or user. None: that of the active run, or of the settings of wandb."""
        return self._project.entity

    def artifact(self, name: str, collection: str | None = None) -> WandbArtifact:
        return WandbArtifact(self._project, check_wandb_name(name), self._in(collection), self.allow_pickle)

    def list_collection_names(self) -> list[str]:
        return self._project.collections()

    def list_names(self, collection: str | None = None) -> list[str]:
        return self._project.names(self._in(collection))

    def list_artifacts(self, collection: str | None = None) -> list[ArtifactInfo]:
        kind = self._in(collection)
        every = [WandbArtifact(self._project, name, kind, self.allow_pickle) for name in self.list_names(kind)]
        found = [artifact.newest() for artifact in every]
        return sorted((info for info in found if info is not None), key=lambda info: info.created_at, reverse=True)

    def cleanup(
        self,
        policy: RetentionPolicy | None = None,
        dry_run: bool = False,
        *,
        name: str | None = None,
        collection: str | None = None,
    ) -> CleanupReport:
        """Raise `NotSupported`: W&B deletes versions by their TTL. Use `set_artifact_expiry`.

        Args:
            policy, dry_run, name, collection: Ignored.
        """
        raise NotSupported("W&B deletes versions by their TTL. Call set_artifact_expiry, or delete_version.")

    def _in(self, collection: str | None) -> str:
        return self.active_collection if collection is None else check_wandb_name(collection, "collection")

    def __repr__(self) -> str:
        return f"WandbArtifactRegistry({self._project.path!r}, collection={self.active_collection!r})"
