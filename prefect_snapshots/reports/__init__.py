"""Reports on the backups, snapshots, checkpoints and artifacts in a repository, as documents.

Everything in a report comes from the repository, so that it is complete even if a run could not reach its Prefect
server. This layer knows the four kinds, and not Prefect; the layers above show the documents.
"""

from __future__ import annotations

from .everything import describe_repository

__all__ = ["describe_repository"]
