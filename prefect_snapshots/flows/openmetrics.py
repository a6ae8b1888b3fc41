"""Write figures as an OpenMetrics file, which the textfile collector of Prometheus' node exporter reads."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidArgument
from ..private_files import create_file

_SUFFIX = ".prom"
"""What the collector reads. The path may come from whoever starts a run, and must not be that of any other file."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """One figure.

    Attributes:
        name: What it is, with its unit, such as `"backup_size_bytes"`. The prefix of this package is added.
        about: One sentence about it.
        labels: What tells it apart from others of this name.
        value: The figure.
    """

    name: str
    about: str
    labels: Mapping[str, str]
    value: float


def checked_metrics_file(path: str) -> Path:
    """Return the path of a file of figures.

    Raises:
        InvalidArgument: Its name does not end with `.prom`, or its folder does not exist.
    """
    file = Path(path)
    if file.suffix != _SUFFIX:
        raise InvalidArgument(f"The name of the metrics file must end with {_SUFFIX}, not {file.name!r}.")
    if not file.parent.is_dir():
        raise InvalidArgument(f"The folder of the metrics file does not exist: {file.parent}. Create it.")
    return file


def openmetrics(gauges: Iterable[Gauge]) -> str:
    """Return figures in the text format of OpenMetrics.

    Example:
        >>> print(openmetrics([Gauge("backup_size_bytes", "Size.", {"name": "shop"}, 1500)]))
        # TYPE prefect_snapshots_backup_size_bytes gauge
        # HELP prefect_snapshots_backup_size_bytes Size.
        prefect_snapshots_backup_size_bytes{name="shop"} 1500
        # EOF
        <BLANKLINE>
    """
    # All figures of one name have to follow one another.
    families: dict[str, list[Gauge]] = {}
    for gauge in gauges:
        families.setdefault(gauge.name, []).append(gauge)
    lines = []
    for name, members in families.items():
        full = f"prefect_snapshots_{name}"
        lines += [f"# TYPE {full} gauge", f"# HELP {full} {members[0].about}"]
        for gauge in members:
            labels = ",".join(f'{label}="{_escaped(text)}"' for label, text in gauge.labels.items())
            lines.append(f"{full}{{{labels}}} {gauge.value!r}")
    return "\n".join([*lines, "# EOF", ""])


def write_metrics(file: Path, gauges: Iterable[Gauge]) -> None:
    """Replace a file of figures at once, so that the collector never reads half of it."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with create_file(temporary) as writing:
            writing.write(openmetrics(gauges).encode())
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
