"""Where a repository lives: a URL and its options. The only part that touches fsspec.

A **location** holds **objects**: immutable byte strings under relative **paths** such as `packs/3f/3f09...`.
Every path segment begins with a letter, a digit or `_`, so that no path leads out of the location.

To **create** an object is the one exclusive operation (put-if-absent): of any number of contending creates exactly one
wins, and when it returns, the object survives a loss of power. *Durable* always means that here.
A **temporary** file is an object that is still being written; one whose writer died is a **leftover**.

This package does not know what the bytes mean.

- `interface`: what a location does, and what it hands out. `schemes`: which location a URL means.
- `local`, `memory`, `s3`, `gcs`, `generic`: one backend each. Other packages bring more through the entry-point group
  `prefect_snapshots.locations`.
- `limiting`: a location that writes at a limited rate.
- `files`, `large_files`: durable files, for `local`. `object_store`, `clients`: the base of `s3` and `gcs`.
"""

from __future__ import annotations

from .interface import Appender, Buffer, ByteLocks, Location, ObjectInfo, ObjectWriter, Requests, checked
from .large_files import LargeFile
from .limiting import LimitedLocation
from .local import LocalLocation
from .memory import MemoryLocation
from .schemes import open_location

__all__ = [
    "Appender",
    "Buffer",
    "ByteLocks",
    "LargeFile",
    "LimitedLocation",
    "LocalLocation",
    "Location",
    "MemoryLocation",
    "ObjectInfo",
    "ObjectWriter",
    "Requests",
    "checked",
    "open_location",
]
