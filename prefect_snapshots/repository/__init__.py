"""The ground floor: storage that deduplicates, verifies and never loses what was committed.

It knows no Prefect, no JAX and no databases. Rooms above use `Repository`.
"""

from .repository import Repository, use_repository

__all__ = ["Repository", "use_repository"]
