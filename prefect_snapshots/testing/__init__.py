"""Contracts for plug-ins: test classes that you inherit to check that your database, backend or handler works.

They need pytest. The tests of this project inherit them, too.
"""

from __future__ import annotations

from .databases import DatabaseContract, StoredDump
from .handlers import HandlerContract
from .locations import LocationContract, Place

__all__ = ["DatabaseContract", "HandlerContract", "LocationContract", "Place", "StoredDump"]
