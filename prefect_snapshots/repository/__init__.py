"""Storage that deduplicates, verifies what it reads, and never loses what was committed.

It does not use Prefect, JAX or databases. The kinds are built on `Repository` and `tracking.TrackedStream`.
"""

from .choosing import use_repository
from .repository import Repository

__all__ = ["Repository", "use_repository"]
