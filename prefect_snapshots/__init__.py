"""Snapshots, checkpoints, artifacts and backups for Prefect, in one repository: a directory or a bucket.

The public names are listed in `__init__.pyi`, and only there. Each is imported when you first use it, so importing the
package takes milliseconds and loads neither Prefect nor JAX. All errors are in `prefect_snapshots.errors`.
"""

from __future__ import annotations

import sys

import lazy_loader

_find, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    try:
        return _find(name)
    except AttributeError as error:
        if name.startswith("_"):
            raise
        from .messages import hint

        raise AttributeError(f"{__name__} has no public name {name!r}. {hint(name, __all__)}", name=name) from error


if not {"IPython", "marimo"}.isdisjoint(sys.modules):
    # In a notebook, results are shown as tables. Elsewhere this would only make the import slower.
    from .reports import notebooks

    notebooks.attach()
