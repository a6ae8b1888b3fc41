"""A URL and its options: where a repository lives, and the only part that touches fsspec.

A **location** holds **objects**: immutable byte strings under relative **paths** such as `packs/3f/3f09...`.
Every path segment begins with a letter, a digit or `_`, so that no path leads out of the location.

To **create** an object is the one exclusive operation (put-if-absent): of any number of contending creates exactly one
wins, and when it returns, the object survives a loss of power. Whatever is called durable here is meant in that sense.
A **temporary** file is an object that is still being written; one whose writer died is a **leftover**.

Nothing is known here about what the bytes mean. This module is the face: `interface` says what a location does, and
`local`, `memory`, `s3`, `gcs` and `generic` do it.
"""

from __future__ import annotations

from .counting import Requests
from .gcs import GCSLocation
from .generic import GenericLocation
from .interface import Appender, ByteLocks, Location, ObjectInfo
from .large_files import LargeFile
from .local import LocalLocation
from .memory import MemoryLocation
from .s3 import S3Location
from .urls import open_location
from .writing import Buffer, ObjectWriter

__all__ = [
    "Appender",
    "Buffer",
    "ByteLocks",
    "GCSLocation",
    "GenericLocation",
    "LargeFile",
    "LocalLocation",
    "Location",
    "MemoryLocation",
    "ObjectInfo",
    "ObjectWriter",
    "Requests",
    "S3Location",
    "open_location",
]
