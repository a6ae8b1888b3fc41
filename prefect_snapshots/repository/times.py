"""Points in time as users give them, and as they are stored: nanoseconds since 1970 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ..errors import InvalidArgument

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(value: datetime | str) -> datetime:
    """Return a point in time in UTC.

    Args:
        value: A datetime with a zone, or an ISO 8601 string; a string without a zone is UTC.

    Raises:
        InvalidArgument: The value is a naive datetime, which could mean any zone, or a string that is no date, or
            lies outside the years 1 to 9999 in UTC.

    Example:
        >>> parse_time("2026-01-31 12:00").isoformat()
        '2026-01-31T12:00:00+00:00'
    """
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidArgument(f"{value!r} is not an ISO 8601 date or time, such as 2026-01-31T12:00:00.") from None
        moment = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed
    elif value.tzinfo is None:
        raise InvalidArgument(f"{value!r} has no time zone. Add one, as in datetime.now(timezone.utc).")
    else:
        moment = value
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidArgument(f"{value!s} lies outside the years 1 to 9999 in UTC. Pass another time.") from None


def to_nanoseconds(moment: datetime) -> int:
    """Nanoseconds since 1970 in UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def from_nanoseconds(nanoseconds: int) -> datetime:
    """Return the point in time, to the microsecond, in UTC."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
