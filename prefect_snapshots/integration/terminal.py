"""Show long work while it runs: as a live line in a terminal, and elsewhere as a line of the log now and then.

The live line is below Prefect's own log, so it uses the console of Prefect's handler: two consoles on one terminal
would write over each other. A pipe, a worker and a CI job have no terminal: their logs would be full of control codes.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import get_current_settings

from ..documents.texts import Pace, Unit
from ..repository.threads import Lock
from .run_context import run_logger

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 30.0
"""Seconds between two lines of the log: a reader sees that the work goes on, and a day of work has 3,000 lines."""


class ProgressLine:
    """The progress of one operation, for people who watch it. Any thread may update it.

    Args:
        label: What is in progress, such as `"Backup of shop"`.
        unit: What is counted. Steps are shown as a percentage, because they take different times.
        hidden: The beginning of the names of task runs whose successful ends the terminal does not list meanwhile.
    """

    def __init__(self, label: str, unit: Unit, *, hidden: str = "") -> None:
        self._label = label
        self._hidden = hidden
        self._logger = run_logger()
        self._pace = Pace(unit)
        self._said = time.monotonic()
        self._task: Any = None
        self._shown = _display.add(self)
        self._ended = False

    @property
    def label(self) -> str:
        """What is in progress."""
        return self._label

    def hides(self, record: logging.LogRecord) -> bool:
        """Return whether a line of the log says only what the live line counts."""
        return bool(
            self._hidden
            and record.levelno == logging.INFO
            and str(getattr(record, "task_run_name", "")).startswith(self._hidden)
            and record.getMessage().startswith("Finished in state Completed")
        )

    def update(self, done: int, total: int | None = None, failed: int = 0) -> None:
        """Show how much is done.

        Args:
            done: What is done, in items, bytes or steps.
            total: How much there is to do. None if that is not known.
            failed: How many items failed.
        """
        if self._ended:
            return
        text = self._pace.text(done, total, failed)
        now = time.monotonic()
        if self._shown:
            _display.update(self, done, total, text)
        elif now >= self._said + EVERY:
            self._said = now
            self._logger.info("%s: %s", self._label, text)

    def close(self) -> None:
        """Remove the live line. Closing twice changes nothing."""
        if not self._ended:
            self._ended = True
            if self._shown:
                _display.remove(self)


@contextlib.contextmanager
def progress_line(label: str, unit: Unit) -> Iterator[ProgressLine]:
    """Show the progress of the `with` block."""
    line = ProgressLine(label, unit)
    try:
        yield line
    finally:
        line.close()


def hide_traceback_of_interrupt() -> None:
    """Let Python exit without a traceback if this interrupt ends it. The log already says what was interrupted.

    With the log level DEBUG, Python shows it.
    """
    if run_logger().isEnabledFor(logging.DEBUG) or getattr(sys.excepthook, "_hides_interrupts", False):
        return
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            before(kind, error, trace)

    hook._hides_interrupts = True  # type: ignore[attr-defined]
    sys.excepthook = hook


class _Display:
    """The live lines of this process. The first one starts the display, the last one ends it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lines: dict[ProgressLine, Any] = {}
        self._bars: Progress | None = None
        self._handler: PrefectConsoleHandler | None = None

    def add(self, line: ProgressLine) -> bool:
        """Show a line. Return False if there is no terminal for it."""
        with self._lock:
            if self._bars is None and not self._start():
                return False
            assert self._bars is not None
            self._lines[line] = self._bars.add_task(line.label, total=None, text="")
            return True

    def update(self, line: ProgressLine, done: int, total: int | None, text: str) -> None:
        with self._lock:
            if self._bars is not None and line in self._lines:
                self._bars.update(self._lines[line], completed=done, total=total or None, text=text)

    def remove(self, line: ProgressLine) -> None:
        with self._lock:
            task = self._lines.pop(line, None)
            if self._bars is None or task is None:
                return
            self._bars.remove_task(task)
            if not self._lines:
                self._stop()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether Prefect's handler may write a line of the log."""
        return not any(line.hides(record) for line in list(self._lines))

    def end(self) -> None:
        """Give the terminal back when Python exits: the display hides the cursor."""
        with self._lock:
            self._lines.clear()
            self._stop()

    def _start(self) -> bool:
        handler = _terminal()
        if handler is None:
            return False
        from rich.errors import LiveError
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        # Prefect's console has none of rich's own styles, so each is named by its colour.
        bar = BarColumn(20, "bright_black", complete_style="green", finished_style="green", pulse_style="green")
        text = TextColumn("{task.fields[text]}", markup=False)
        columns = (TextColumn("{task.description}", markup=False), *([bar] if _in_colour() else []), text)
        bars = Bars(*columns, console=handler.console, transient=True, refresh_per_second=4)
        try:
            bars.start()
        except LiveError:  # the flow has a live display on this console
            return False
        self._bars, self._handler = bars, handler
        handler.addFilter(self)
        _end_at_exit()
        return True

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        if self._handler is not None:
            self._handler.removeFilter(self)
        self._bars = self._handler = None

    def forget(self) -> None:
        """Leave the terminal to the parent, in a forked child."""
        self._lines.clear()
        self._bars = self._handler = None


_display = _Display()
os.register_at_fork(after_in_child=_display.forget)
_registered = False


def _end_at_exit() -> None:
    global _registered
    if not _registered:
        _registered = True
        atexit.register(_display.end)


def _in_colour() -> bool:
    return bool(get_current_settings().logging.colors)


def _terminal() -> PrefectConsoleHandler | None:
    """Return Prefect's handler if it writes to a terminal that a person watches."""
    if os.environ.get("CI") or os.environ.get("PREFECT__FLOW_RUN_ID"):
        return None
    # Prefect's configuration gives the handler to the root logger; people's own often to that of Prefect.
    for handler in (*logging.getLogger("prefect").handlers, *logging.getLogger().handlers):
        if isinstance(handler, PrefectConsoleHandler):
            with contextlib.suppress(ValueError):  # a closed stream
                if handler.stream.isatty() and not handler.console.is_dumb_terminal:
                    return handler
    return None
