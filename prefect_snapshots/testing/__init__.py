"""Contracts for plug-ins: tests that you inherit to find out whether a backend of yours does what it has to.

They need pytest. The tests of this project inherit them, too.
"""

from __future__ import annotations

from .databases import DatabaseContract, StoredDump
from .handlers import HandlerContract
from .locations import LocationContract, Place

__all__ = ["DatabaseContract", "HandlerContract", "LocationContract", "Place", "StoredDump"]
