"""Import data of the packages that this one follows: their files are read as they are, without the packages.

Each function takes the path of what the other package wrote, and stores it with its ids, times, versions and tags. You
can run it again: what is there already is not stored twice. Pickles are read only with `allow_pickle=True`. Everything
else in these files is data, too: a path in them never leads out of the imported directory.
"""

from .lazyscribe_files import import_lazyscribe
from .metis_folders import import_metis
from .reports import ImportReport
from .scaffold_folders import import_scaffold
from .snapperable_files import import_snapperable
from .snapshot_manager_files import import_snapshot_manager

__all__ = [
    "ImportReport",
    "import_lazyscribe",
    "import_metis",
    "import_scaffold",
    "import_snapperable",
    "import_snapshot_manager",
]
