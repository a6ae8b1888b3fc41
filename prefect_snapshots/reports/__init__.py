"""What there is to say of the backups, snapshots, checkpoints and artifacts in a repository, as documents.

Everything comes from the repository: also what a run could not tell its server is here. Knows the rooms, and no
Prefect; faces show the documents.
"""

from __future__ import annotations

from .everything import describe_repository

__all__ = ["describe_repository"]
