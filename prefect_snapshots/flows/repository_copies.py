"""A flow that copies a repository to a second place.

It emits `prefect-snapshots.repository.copied` or, if something could not be copied,
`prefect-snapshots.repository.not-copied`, with the resource `prefect-snapshots.repositories.<URL>` of the source:
`target` (URL), `versions`, `size` and `written` (bytes), `count` (of problems) and `problems` (strings, the first of
them).
"""

from __future__ import annotations

from prefect import flow

from ..documents.texts import count_text, size_text
from ..errors import IntegrityError
from ..integration.blocks import current_repository
from ..integration.reporter import Reporter, only_warn
from ..integration.run_context import run_logger
from ..repository.copies import CopyReport
from .failing import fails_with_one_error
from .maintenance import LISTED

COPY = "prefect-snapshots-copy"
"""Key of the report in the Prefect UI."""


@flow(name="copy-repository")
@fails_with_one_error
def copy_repository(
    target: str,
    repository: str | None = None,
    kinds: list[str] | None = None,
    names: list[str] | None = None,
    unencrypted: bool = False,
) -> CopyReport:
    """Copy what is missing in another repository. The run fails if something could not be copied.

    Args:
        target: The other repository: a block such as `prefect-snapshots-repository/second`, or a URL or path, which is
            opened with the password of the settings.
        repository: The repository to copy, in the same form. Default: the one that `blocks.current_repository` returns.
        kinds: Copy only these kinds. Default: all.
        names: Copy only these names or patterns. Default: all.
        unencrypted: Allow to copy an encrypted repository to one without encryption.

    Raises:
        IntegrityError: Some versions or names could not be copied. The report lists them. The others were copied.
    """
    source, other = current_repository(repository), current_repository(target)
    report = source.copy_to(other, kinds=kinds or (), names=names or (), unencrypted=unencrypted)
    what = f"{count_text(report.versions, 'version')}, {size_text(report.size)}, {size_text(report.written)} written"
    run_logger().info("Copied %s to %s: %s.", source.url, other.url, what)
    with only_warn(f"{source.url} is copied"):
        reporter = Reporter(source, "repositories", source.url)
        facts = {
            "target": other.url,
            "versions": report.versions,
            "size": report.size,
            "written": report.written,
            "count": len(report.problems),
            "problems": [f"{problem.path}: {problem.what}" for problem in report.problems[:LISTED]],
        }
        reporter.emit("repository.copied" if report.ok else "repository.not-copied", facts)
        reporter.leave_table(
            [{"where": problem.path, "what": problem.what} for problem in report.problems],
            f"{what} to {other.url}. {count_text(len(report.problems), 'problem')}.",
            COPY,
        )
    if report.problems:
        first = report.problems[0]
        raise IntegrityError(
            f"{count_text(len(report.problems), 'problem')} while {source.url} was copied to {other.url}. The first is "
            f"{first.path}: {first.what}. Everything else was copied."
        )
    return report
