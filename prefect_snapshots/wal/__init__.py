"""Archives of write-ahead logs (WAL), for recoveries to any point in time.

Of PostgreSQL servers, the files that a recovery needs; `backups` uses them to recover base backups. Of SQLite
databases, base copies and the frames of their logs.
"""

from .archiving import ArchivedFile as ArchivedFile
from .archiving import WalArchive as WalArchive
from .archiving import WalTimeline as WalTimeline
from .archiving import list_systems as list_systems
from .archiving_ahead import WaitingWal as WaitingWal
from .archiving_ahead import WalArchiver as WalArchiver
from .archiving_ahead import waiting_wal as waiting_wal
from .sqlite_archive import SQLiteArchive as SQLiteArchive
from .sqlite_archive import SQLiteState as SQLiteState
from .sqlite_archive import SQLiteWindow as SQLiteWindow
from .sqlite_archive import list_followed as list_followed
from .sqlite_following import SQLiteFollower as SQLiteFollower
