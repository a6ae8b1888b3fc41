"""Processes that are forked from a server that has imported what they run: a new interpreter takes half a second."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from unittest.mock import patch

_MODULES = ["histories", "history_rounds", "test_backup_trees", "test_trees", "s3fs", "aiobotocore.session", "_measure"]
"""What processes run and use. The last one is imported again for a program of `benchmarks/` that starts processes."""


@functools.cache
def context() -> ForkServerContext:
    """Return the context of the server, which the first call starts."""
    multiprocessing.set_forkserver_preload(_MODULES)
    # Before Python 3.13 the server gets our path, and finds none of the modules, silently: it does not use the path.
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")
