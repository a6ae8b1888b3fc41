"""A repository as a read-only file system: `snapshots://` for fsspec, and what the command line and its browser show.

- `segments`: the paths.
- `kinds`: the names and versions of each kind. `nodes` and `leaves`: the files of a version.
- `contained`: what is at a path. `recent_chunks`: remembers the chunks that were read last.
- `fsspec_files`: the file system for fsspec.
"""

from .contained import Contained, RepositoryFiles
from .fsspec_files import SnapshotsFileSystem

__all__ = ["Contained", "RepositoryFiles", "SnapshotsFileSystem"]
