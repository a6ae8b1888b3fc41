"""Snapshots, checkpoints, artifacts and backups for Prefect, in one repository: a directory or a bucket.

The public names are listed in `__init__.pyi`, and only there. Each is imported when you first use it, so importing the
package takes milliseconds and loads neither Prefect nor JAX. All errors are in `prefect_snapshots.errors`.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
