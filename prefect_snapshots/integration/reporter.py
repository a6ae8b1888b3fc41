"""Report to Prefect, for all kinds: events for automations, pages in the UI, and links to them.

A report never fails a run. The data is stored safely before, so a report that fails is only a warning in the log of the
run. Names, ids, tags and metadata are sent to the Prefect server unencrypted, even if the repository is encrypted.
"""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.events import emit_event

from ..documents import Document, code, markdown
from ..documents.texts import Unit
from ..repository import Repository
from ..repository.progress import Progress, watched
from .live import LiveArtifact, artifact_key
from .run_context import in_run, run_ids, run_logger
from .terminal import ProgressLine

LONG = 2.0
"""Seconds after which people begin to wonder whether the work goes on. Most saves are quicker, and show nothing."""


@dataclass(frozen=True)
class Reporter:
    """Send reports about one name of one kind. Outside of a run, nothing is sent by default.

    Args:
        repository: The repository with the data.
        kind: The kind, such as `"backups"`: part of the event's resource and of the key of the pages.
        name: The name, such as `"nightly"` or, of an artifact, `"default/model"`.
        outside: Whether events and pages are also sent outside of a run.
    """

    repository: Repository
    kind: str
    name: str
    outside: bool = False

    @property
    def key(self) -> str:
        """The key of the pages in the Prefect UI."""
        return artifact_key(self.kind, self.name)

    @property
    def about(self) -> str:
        """The Markdown that the UI shows above the pages."""
        return f"{self.kind.capitalize()} of {code(self.name)} in {code(self.repository.url)}"

    def emit(self, event: str, facts: dict[str, Any]) -> None:
        """Send an event to the feed, where automations see it.

        Args:
            event: What happened, such as `"backup.created"`. The prefix of this package is added.
            facts: The payload. The URL of the repository is added.
        """
        if not (self.outside or in_run()):
            return
        emit_event(
            f"prefect-snapshots.{event}",
            resource={
                "prefect.resource.id": f"prefect-snapshots.{self.kind}.{self.name}",
                "prefect.resource.name": self.name,
                "prefect-snapshots.repository": self.repository.url,
            },
            payload={"repository": self.repository.url, **facts},
        )

    def leave_page(self, document: Callable[[], Document], about: str = "") -> str:
        """Add a page. All pages with the same key form a history, at `/artifacts/key/<key>`.

        Args:
            document: A function that returns the content of the page. An error of it is only a warning.
            about: The Markdown that the UI shows above it. Default: the property `about`.

        Returns:
            `LiveArtifact.link` of the page. Empty if none is sent.
        """
        if not (self.outside or in_run()):
            return ""
        with only_warn(f"{self.kind.capitalize()} of {self.name} changed"):
            text = markdown(document())
            page = LiveArtifact(self.key, "markdown", about or self.about, lambda: text, shared=False)
            page.update()
            return page.link
        return ""

    def live_page(self, document: Callable[[], Document]) -> LiveArtifact:
        """Return the page of this flow run. You can update it as often as you like.

        Args:
            document: A function that returns the current content.
        """
        return LiveArtifact(self.key, "markdown", self.about, lambda: markdown(document()))

    def live_progress(self, about: str, percentage: Callable[[], float]) -> LiveArtifact:
        """Return the progress bar of this flow run.

        Args:
            about: The Markdown that the UI shows above it.
            percentage: A function that returns the progress, from 0 to 100.
        """
        return LiveArtifact(f"{self.key}-progress", "progress", about, percentage)

    @contextlib.contextmanager
    def progress_bar(
        self, what: str, expected: int = 0, unit: Unit = "byte", *, after: float = 0.0
    ) -> Iterator[Progress]:
        """Show a progress bar in the UI and in the terminal, and yield a callback for the `progress` of a manager.

        Args:
            what: What is in progress, such as `"Backup"`.
            expected: The estimated total in bytes, such as the size of the last backup. Used if the total is unknown.
            unit: What the manager counts.
            after: Seconds of work before there is a bar. Default: there is one at once.
        """
        share, ended, due = 0.0, False, time.monotonic() + after
        # The callback may be called by other threads, which are in no run.
        inside, context = in_run(), contextvars.copy_context()
        shown: tuple[ProgressLine, LiveArtifact | None] | None = None
        broken = False

        def show() -> tuple[ProgressLine, LiveArtifact | None]:
            about = f"{what} of {code(self.name)}"
            # Outside of a run, a page would start a server.
            bar = self.live_progress(about, lambda: 100.0 if ended else share) if inside else None
            return ProgressLine(f"{what} of {self.name}", unit), bar

        def progress(_: str, done: int, total: int) -> None:
            nonlocal share, shown, broken
            if broken or (shown is None and time.monotonic() < due):
                return
            broken = True  # until it is shown: otherwise there is one warning, and the work goes on
            with only_warn(f"The work goes on ({what} of {self.name})"):
                if shown is None:
                    shown = context.copy().run(show)
                line, bar = shown
                share = min(99.0, 100 * done / max(total or expected or done, 1))
                if bar is not None:
                    bar.update(context, patience=0)
                line.update(done, total or expected or None)
                broken = False

        if not after:
            shown = show()
        try:
            yield progress
        finally:
            if shown is not None:
                shown[0].close()
        ended = True
        if shown is not None and shown[1] is not None:
            shown[1].update()

    @contextlib.contextmanager
    def long_work(self, what: str) -> Iterator[Progress]:
        """Show how far the `with` block is, if it takes long, as `progress_bar` does.

        It counts what is stored and read of values. Yields a callback for operations that count themselves.

        Args:
            what: What is in progress, such as `"Save"`.
        """
        with self.progress_bar(what, after=LONG) as progress, watched(progress):
            yield progress

    def leave_table(self, rows: list[dict[str, Any]], summary: str, key: str = "") -> None:
        """Add a table to the UI.

        Args:
            rows: The rows, each a dictionary with the column titles as keys.
            summary: The Markdown that the UI shows above it, after the URL of the repository.
            key: The key in the Prefect UI. Default: the property `key`.
        """
        create_table_artifact(key=key or self.key, table=rows, description=f"{code(self.repository.url)}: {summary}")


@contextlib.contextmanager
def only_warn(what: str) -> Iterator[None]:
    """Turn an error in the `with` block into a warning in the log of the run.

    Args:
        what: What succeeded before the report, such as `"Backup 'b' was created"`.
    """
    try:
        yield
    except Exception as error:
        run_logger().warning("%s, but the report about it is not complete: %r", what, error)


def this_run() -> dict[str, Any] | None:
    """Return the names of the current flow run and of its flow and deployment, as a backup records them."""
    from prefect import runtime

    flow_run_id, _ = run_ids()
    if flow_run_id is None:
        return None
    return {
        "flow": runtime.flow_run.flow_name,
        "flow_run": runtime.flow_run.name,
        "flow_run_id": str(flow_run_id),
        "deployment": runtime.deployment.name,
    }
