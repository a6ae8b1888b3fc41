"""Read and write the objects of a repository at a URL. This is the only package that uses fsspec.

A **location** contains **objects**: immutable byte strings under relative **paths** such as `packs/3f/3f09...`.
Every path segment begins with a letter, a digit or `_`, so that no path leads out of the location.

**Create** is the only exclusive operation (put-if-absent): if several writers create the same object, exactly one
succeeds. When it returns, the object survives a loss of power. This is what *durable* means here.
A **temporary** file is an object that is still being written. If its writer died, it is a **leftover**.

This package does not know what the bytes mean.

- `interface`: the base class of locations and of the objects that they return. `schemes`: the location for a URL.
- `local`, `memory`, `s3`, `gcs`, `generic`: one backend each. Other packages can add more with the entry-point group
  `prefect_snapshots.locations`.
- `limiting`: a location that writes at a limited rate.
- `files`, `large_files`: durable files, for `local`. `object_store`, `clients`: the base of `s3` and `gcs`.
- `object_locks`: locks of objects in buckets, and buckets as they were. `s3_versions`: the versions of objects on S3.
"""

from __future__ import annotations

from .interface import Appender, Buffer, ByteLocks, Location, ObjectInfo, ObjectWriter, Requests, checked
from .large_files import LargeFile
from .limiting import LimitedLocation
from .local import LocalLocation
from .memory import MemoryLocation
from .scheme_names import refuse_missing_slash
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
    "refuse_missing_slash",
]
