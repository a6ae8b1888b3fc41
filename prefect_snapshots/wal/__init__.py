"""Archives of the write-ahead log (WAL) of PostgreSQL servers: the files that a recovery to any point in time needs.

Knows files, and no server. `backups` uses it to recover base backups.
"""

from .archiving import ArchivedFile as ArchivedFile
from .archiving import WalArchive as WalArchive
from .archiving import WalTimeline as WalTimeline
from .archiving import list_systems as list_systems
