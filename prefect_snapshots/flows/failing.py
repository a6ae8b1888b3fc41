"""Make the flows of this package end with a single line in the log, which says what failed and what to do."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from prefect.exceptions import TerminationSignal
from prefect.states import Failed

from ..errors import SnapshotsError
from ..integration.run_context import run_logger
from ..integration.terminal import hide_traceback_of_interrupt

_REMEDY = "What was complete is stored, and nothing is stored in part. Start it again to do the rest."
_REMEDIES = {
    "restore_backup": "If data was being replaced, `prefect-snapshots backups resume-restore` finishes or undoes that. "
    "Otherwise nothing was changed.",
    "restore_drill": "Your data was not touched. The next drill deletes what this one has left.",
}
"""What to do after an interrupt, by the name of the function."""

P = ParamSpec("P")
R = TypeVar("R")


def fails_with_one_error(fn: Callable[P, R]) -> Callable[P, R]:
    """Make a flow function log an error of this package as one line, instead of as two tracebacks.

    Prefect logs the traceback of every exception that a flow raises, and once more when the process of the flow run
    ends. An error of this package already says what failed and what to do, so the flow returns a failed state with this
    error instead: the caller of the flow still gets the exception, without the frames of this package, and `retries`
    still apply. With the log level DEBUG, the exception is raised with its whole traceback.

    An interrupt is one line, too: what state things are in, and how to go on.

    Args:
        fn: The function to which `@flow` is applied next.
    """

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return fn(*args, **kwargs)
        except SnapshotsError as error:
            logger = run_logger()
            if logger.isEnabledFor(logging.DEBUG):
                raise
            message = f"{type(error).__name__}: {error} [prefect-snapshots explain {error.public_name()}]"
            logger.error("%s", message)  # noqa: TRY400  # the message says it all
            error.__cause__ = None  # Prefect writes its traceback to the log when the process of the flow run ends
            return cast(R, Failed(message=message, data=error.with_traceback(None)))
        except (KeyboardInterrupt, TerminationSignal):
            run_logger().warning("The run was interrupted. %s", _REMEDIES.get(fn.__name__, _REMEDY))
            hide_traceback_of_interrupt()
            raise

    # Prefect looks up the names of annotations in the module of the function that it gets, which is this one.
    call.__signature__ = inspect.signature(fn, eval_str=True)  # type: ignore[attr-defined]
    return call
