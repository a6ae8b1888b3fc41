"""Convert points in time between the forms that users pass and the stored form: nanoseconds since 1970 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ..errors import InvalidArgument

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(value: datetime | str) -> datetime:
    """Return a point in time in UTC.

    Args:
        value: A datetime with a time zone, or an ISO 8601 string (UTC if it has no zone).

    Raises:
        InvalidArgument: The value is a datetime without a time zone, a string that is not a date, or outside of the
            years 1 to 9999 in UTC.

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
        raise InvalidArgument(f"{value!s} is outside of the years 1 to 9999 in UTC. Pass another time.") from None


def to_nanoseconds(moment: datetime) -> int:
    """Return a point in time as nanoseconds since 1970 in UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def from_nanoseconds(nanoseconds: int) -> datetime:
    """Return a point in time in UTC, rounded to microseconds."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
