"""Appending to a file, which a thread of its own syncs at most once a second."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

from ...errors import StorageError
from .files import write_all
from .interface import Appender
from .os_errors import translated
from .writing import Buffer, closed, several

_SYNC_INTERVAL = 1.0


class FileAppender(Appender):
    """Appends to an open file. `where` is what messages call it."""

    def __init__(self, where: str, file: int) -> None:
        self._where = where
        self._file = file
        self._lock = threading.Lock()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def append(self, buffers: Buffer | Sequence[Buffer]) -> None:
        with self._lock:
            self._check()
            if self._closing.is_set():
                raise closed(self._where)
            try:
                with translated(self._where):
                    write_all(self._file, several(buffers))
            except BaseException as error:
                self._failure = error
                raise
        if not self._dirty.is_set():
            self._dirty.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_synced, name="prefect-snapshots-sync", daemon=True)
                self._thread.start()

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        self._dirty.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._check()
            with translated(self._where):
                os.fsync(self._file)
        finally:
            os.close(self._file)

    def abort(self) -> None:
        with contextlib.suppress(StorageError):
            self.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise StorageError(
                f"{self._where}: an earlier write failed, so that it is not continued"
            ) from self._failure

    def _keep_synced(self) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            if self._closing.wait(_SYNC_INTERVAL):
                return
            self._dirty.clear()
            try:
                with translated(self._where):
                    os.fsync(self._file)
            except StorageError as error:  # the next call raises it
                self._failure = error
                return
