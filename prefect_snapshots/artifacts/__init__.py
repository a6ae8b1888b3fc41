"""Artifacts: files, folders and values in immutable versions, promoted from stage to stage, released together.

This package uses the repository, but neither Prefect nor the other kinds. Handlers for values are found through the
entry-point group `prefect_snapshots.handlers`. Their dependencies are imported when they are used.
"""

from ..repository.descriptions import Description
from ..repository.provenance import MadeBy, Origin
from .artifact import Artifact
from .differences import Difference, FileDifference
from .downloads import Download, LoggedFolder
from .drafts import FolderDraft
from .handlers import FileHandler, Handler, list_handlers, register_handler
from .history import Move, VersionLike
from .infos import ArtifactInfo, ArtifactVersion, Release
from .lineage import LineageStep
from .manager import ArtifactHandle, ArtifactManager
from .models import ModelLogger
from .references import FileReference, ReferencedFile
from .registry import ArtifactRegistry
from .wandb import WandbArtifactRegistry
from .wandb_artifact import WandbArtifact

__all__ = [
    "Artifact",
    "ArtifactHandle",
    "ArtifactInfo",
    "ArtifactManager",
    "ArtifactRegistry",
    "ArtifactVersion",
    "Description",
    "Difference",
    "Download",
    "FileDifference",
    "FileHandler",
    "FileReference",
    "FolderDraft",
    "Handler",
    "LineageStep",
    "LoggedFolder",
    "MadeBy",
    "ModelLogger",
    "Move",
    "Origin",
    "ReferencedFile",
    "Release",
    "VersionLike",
    "WandbArtifact",
    "WandbArtifactRegistry",
    "list_handlers",
    "register_handler",
]
