"""Artifacts in the Prefect UI that show the progress of a run. Updates are rare, but the last one is always sent.

A failure here is only a warning, because the data that an artifact describes is already safe.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
import hashlib
import math
import os
import re
import threading
import time
import weakref
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.context import SettingsContext, get_settings_context
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, Settings, get_current_settings

from ..messages import logger
from ..repository.threads import Lock, before_threads_end
from .private_apis import stop_retrying_events
from .run_context import run_ids, run_logger

_INTERVAL = 1.0
"""The least seconds between two updates of an artifact: people see no difference, and the server has less to do."""
_AFTER_FAILURE = 60.0
"""Seconds to wait after the server could not be reached, so that it is not flooded when it is back."""
_FAILURES = 10
"""Failures in a row after which an update is dropped: about ten minutes with the pauses, enough for a server to
restart."""
_TIMEOUT = 10.0
"""Seconds to wait for an answer before Prefect's client tries again. A busy SQLite database needs several."""
_PATIENCE = 1.0
"""The most seconds that a caller waits for an update, so that work never waits long for a page."""


class LiveArtifact:
    """An artifact of the current flow run (or task run, outside of a flow) that is updated while the run continues.

    Args:
        key: The key of the artifact, as `artifact_key` returns it.
        kind: "markdown", whose content is a string, or "progress", whose content is a percentage (0 to 100).
        description: The Markdown shown above it in the UI.
        render: A function that returns its current content.
        shared: Update the artifact with this key if the flow run already has one. If False, always create one.
    """

    def __init__(
        self,
        key: str,
        kind: Literal["markdown", "progress"],
        description: str,
        render: Callable[[], str | float],
        *,
        shared: bool = True,
    ) -> None:
        self._key = key
        self._kind = kind
        self._description = description
        self._render = render
        self._shared = shared
        self._flow_run_id, self._task_run_id = run_ids()
        self._id: UUID | None = None
        self._failures = 0
        self._due = _retry_at.get(_api_url(), 0.0)
        self._context: contextvars.Context | None = None
        self._timer: threading.Timer | None = None
        self._lock = Lock()
        self._sending = Lock()
        _flush_at_exit()
        _all.add(self)

    def update(self, context: contextvars.Context | None = None, *, patience: float = _PATIENCE) -> None:
        """Send the current content now, or as soon as the interval since the last update is over.

        Args:
            context: The context of the run. Default: the current one.
            patience: The most seconds to wait. After that, the update continues in the background.
        """
        with self._lock:
            self._context = context or contextvars.copy_context()
            self._failures = 0
            if self._timer is not None:
                return
            at_once = time.monotonic() >= self._due
            timer = self._wait()
        if at_once and patience:
            timer.join(patience)

    @property
    def link(self) -> str:
        """A space and the URL of the artifact in the UI, for the end of a log line. Empty if it is not there yet.

        Without a server that outlives the run there is no URL. Then a line in the log says, once, how to see the pages.
        """
        ui = get_current_settings().ui_url
        if self._id is None:
            return ""
        if not ui:
            _say_how_to_see_pages(self._id)
            return ""
        return f" {ui}{_path(self._id)}"

    def _wait(self) -> threading.Timer:
        """Start a timer that sends the update when it is due. Call it with the lock held."""
        timer = self._timer = threading.Timer(max(0.0, self._due - time.monotonic()), self.flush)
        timer.daemon = True
        with contextlib.suppress(RuntimeError):  # Python is about to exit, and will flush
            timer.start()
        return timer

    def flush(self) -> bool:
        """Send the current content now, unless it was sent already. If this fails, try again later.

        Returns:
            Whether nothing is left to send.
        """
        with self._sending:
            with self._lock:
                context, self._context = self._context, None
                timer, self._timer = self._timer, None
                self._due = time.monotonic() + _INTERVAL
            if timer is not None:
                timer.cancel()
            if context is None or context.copy().run(self._send):
                return True
            with self._lock:
                self._failures += 1
                if self._timer is None and self._failures < _FAILURES:
                    self._context = context
                    self._wait()
            return False

    def _send(self) -> bool:
        """Send the current content. Return whether this succeeded."""
        try:
            with SettingsContext(profile=get_settings_context().profile, settings=_impatient(_api_url())):
                content = self._render()
                self._put(content if isinstance(content, str) else round(content, 1))
        except Exception as error:
            self._due = _retry_at[_api_url()] = time.monotonic() + _AFTER_FAILURE
            _client.cache_clear()
            # Not to the log of the run: that goes to the same server, and the run may be over.
            logger.warning("The artifact %r (%s) is not up to date: %r", self._key, self._description, error)
            return False
        _retry_at.pop(_api_url(), None)
        return True

    def _put(self, content: str | float) -> None:
        opened = _client(_api_url())  # it closes when nothing refers to it
        client = opened.client
        if self._id is None and self._shared and self._flow_run_id is not None:
            # Another process of the same flow run may have created it.
            wanted = ArtifactFilter(
                key=ArtifactFilterKey(any_=[self._key]),
                flow_run_id=ArtifactFilterFlowRunId(any_=[self._flow_run_id]),
            )
            self._id = next((found.id for found in client.read_artifacts(artifact_filter=wanted, limit=1)), None)
        if self._id is not None:
            client.update_artifact(self._id, ArtifactUpdate(data=content))
            return
        created = client.create_artifact(
            ArtifactCreate(
                key=self._key,
                type=self._kind,
                description=self._description,
                data=content,
                flow_run_id=self._flow_run_id,
                task_run_id=self._task_run_id,
            )
        )
        self._id = created.id


def artifact_key(kind: str, name: str) -> str:
    """Return the key of the pages about a name: readable, and different for every kind and name.

    Example:
        >>> artifact_key("snapshots", "train/epoch")
        'prefect-snapshots-snapshots-train-epoch-1975'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return "-".join(
        filter(None, ("prefect-snapshots", kind, slug[:200], hashlib.sha256(name.encode()).hexdigest()[:4]))
    )


def history_url(key: str) -> str | None:
    """Return the URL of all pages with a key in the Prefect UI. None without a server that outlives the run."""
    ui = get_current_settings().ui_url
    return f"{ui}/artifacts/key/{key}" if ui else None


def _path(artifact_id: UUID) -> str:
    return f"/artifacts/artifact/{artifact_id}"


_said_how = False


def _say_how_to_see_pages(artifact_id: UUID) -> None:
    """Say once in this process how to see pages that a temporary server has stored in the database of Prefect."""
    global _said_how
    if not _said_how:
        _said_how = True
        run_logger().info(
            "This run has pages. To see them, run `prefect server start`, and open http://127.0.0.1:4200%s",
            _path(artifact_id),
        )


def plain(value: Any) -> Any:
    """Return metadata with only values that JSON can represent."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else value


def flush() -> bool:
    """Send all pending updates now. Without this call, they are sent when they are due, or when Python exits.

    Returns:
        Whether nothing is left to send.
    """
    sent = [artifact.flush() for artifact in list(_all)]
    return all(sent)


def _forget() -> None:
    """Clear the state of the parent in a forked child, which must not send its updates or use its connection."""
    _all.clear()
    _client.cache_clear()


os.register_at_fork(after_in_child=_forget)

_all: weakref.WeakSet[LiveArtifact] = weakref.WeakSet()
_retry_at: dict[str | None, float] = {}
"""When to try an unreachable server again, by URL. It holds for new artifacts, too."""


def _api_url() -> str | None:
    return get_current_settings().api.url


@functools.lru_cache(maxsize=4)
def _impatient(api_url: str | None) -> Settings:
    """Return the settings of the run with only one retry. Otherwise an exit would wait a minute for a dead server.

    Cached for each server, because making them takes 30 ms, longer than an update.
    """
    return get_current_settings().copy_with_update({PREFECT_CLIENT_MAX_RETRIES: 1})


class _Opened:
    """A client whose connections are closed when nobody uses it any more. Another thread may forget it meanwhile."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self.client: SyncPrefectClient = stack.enter_context(
                get_client(httpx_settings={"timeout": _TIMEOUT}, sync_client=True)
            )
            # Not when Python exits: the last updates are sent then.
            weakref.finalize(self, stack.pop_all().close).atexit = False


@functools.lru_cache(maxsize=4)
def _client(api_url: str | None) -> _Opened:
    """Return a separate client: the client of the run has longer timeouts, and may be closed before the last update."""
    return _Opened()


@functools.cache
def _flush_at_exit() -> None:
    """Register the last update during a run, not on import, so that it is sent before a temporary server stops.

    Exit functions are called in reverse order, and such a server is started (and registered) before the run.
    """
    EventsWorker.instance()  # registers itself, too, and has to come first to be waited for last
    # The first call comes while Prefect can still send events; the second one sends what background saves add later.
    before_threads_end(_flush_and_hurry)
    atexit.register(_client.cache_clear)
    atexit.register(flush)


def _flush_and_hurry() -> None:
    """Send all pending updates. If the server cannot be reached, stop the process from trying for an hour."""
    flush()
    if any(retry_at > time.monotonic() for retry_at in _retry_at.values()):
        _all.clear()  # this was the last attempt
        stop_retrying_events()
