"""Convert points in time between the forms that users pass and the stored form: nanoseconds since 1970 in UTC."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ..errors import InvalidArgument

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_moment(value: object) -> bool:
    """Return whether a value is a point in time: a datetime or date of Python, pandas or NumPy."""
    numpy: Any = sys.modules.get("numpy")
    return isinstance(value, date) or (numpy is not None and isinstance(value, numpy.datetime64))


def parse_time(value: Any) -> datetime:
    """Return a point in time in UTC.

    Args:
        value: A datetime with a time zone, also one of pandas; an ISO 8601 string, a date or a `numpy.datetime64`
            (all in UTC if they have no zone).

    Raises:
        InvalidArgument: The value is something else, a datetime without a time zone, a string that is not a date, or
            outside of the years 1 to 9999 in UTC.

    Example:
        >>> parse_time("2026-01-31 12:00").isoformat()
        '2026-01-31T12:00:00+00:00'
    """
    if is_moment(value) and not isinstance(value, datetime):
        # Text is the only form in which NumPy has dates of every unit, and "NaT" for none.
        value = str(value.astype("datetime64[us]")) if hasattr(value, "astype") else value.isoformat()
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidArgument(f"{value!r} is not an ISO 8601 date or time, such as 2026-01-31T12:00:00.") from None
        moment = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed
    elif not isinstance(value, datetime):
        raise InvalidArgument(
            f"A time must be a datetime with a time zone or an ISO 8601 string, not {type(value).__name__}. Convert a "
            "UNIX timestamp with datetime.fromtimestamp(seconds, timezone.utc)."
        )
    elif value.tzinfo is None:
        raise InvalidArgument(f"{value!r} has no time zone. Add one, as in datetime.now(timezone.utc).")
    else:
        moment = value
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidArgument(f"{value!s} is outside of the years 1 to 9999 in UTC. Pass another time.") from None


def to_nanoseconds(moment: datetime) -> int:
    """Return a point in time as nanoseconds since 1970 in UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def from_nanoseconds(nanoseconds: int) -> datetime:
    """Return a point in time in UTC, rounded to microseconds."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
