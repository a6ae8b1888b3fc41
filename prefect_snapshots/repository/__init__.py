"""Storage that deduplicates, verifies what it reads, and never loses what was committed.

It does not use Prefect, JAX or databases. The kinds are built on `Repository` and `tracking.TrackedStream`.
"""

from .choosing import use_repository
from .contents import StagedPart
from .repository import Repository

__all__ = ["Repository", "StagedPart", "use_repository"]
