"""Import versions of artifacts one after another, so that they keep their order, numbers and times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ..artifacts import Artifact, ArtifactRegistry, ArtifactVersion
from ..errors import ArtifactNotFound, SnapshotsError
from ..messages import printable
from ..repository.progress import Progress
from .reports import UNREADABLE, ImportReport, NotImported, reason, watched_items

_IMPORTED_FROM, _NUMBER = "imported_from", "version"


@dataclass(frozen=True, slots=True)
class ForeignVersion:
    """One version of an artifact of another package.

    Attributes:
        collection: The collection that it goes into.
        name: The name of the artifact.
        number: Its version there, such as "v3".
        created_at: When it was logged there. None if that is not known.
        log: Logs it as a version of an artifact. May raise `NotImported`.
    """

    collection: str
    name: str
    number: str
    created_at: datetime | None
    log: Callable[[Artifact], ArtifactVersion]

    @property
    def label(self) -> str:
        """The version in messages."""
        return f"{self.collection}/{self.name}:{self.number}"


def import_versions(
    registry: ArtifactRegistry, versions: list[ForeignVersion], origin: str, progress: Progress | None
) -> ImportReport:
    """Log versions that are not here yet, in the order of the list.

    Args:
        registry: Where to log them.
        versions: The versions, those of one artifact oldest first.
        origin: The package that logged them.
        progress: Called with a label, how many versions were looked at, and how many there are.
    """
    report = ImportReport()
    known: dict[tuple[str, str], set[str]] = {}
    for version in watched_items("importing", versions, progress):
        try:
            artifact = registry.artifact(version.name, version.collection)
            there = known.setdefault((version.collection, version.name), _imported(artifact, origin))
            if version.number in there:
                report.present.append(version.label)
                continue
            source = {_IMPORTED_FROM: origin, _NUMBER: version.number}
            if version.created_at is not None:
                source["created_at"] = version.created_at.isoformat()
            logged = version.log(artifact.logged_from(source))
        except (SnapshotsError, NotImported, OSError, *UNREADABLE) as error:
            report.left_out.append(printable(f"{version.label} was not imported: {reason(error)}."))
            continue
        report.imported.append(version.label)
        if logged.version != version.number:
            told = f"{version.label} is {logged.version} here, because that number was the next one."
            report.left_out.append(printable(told))
    return report


def _imported(artifact: Artifact, origin: str) -> set[str]:
    """Return the numbers that the versions of an artifact had where they were imported from."""
    try:
        infos = artifact.list_versions()
    except ArtifactNotFound:
        return set()
    sources = (info.source or {} for info in infos)
    return {source[_NUMBER] for source in sources if source.get(_IMPORTED_FROM) == origin and _NUMBER in source}
