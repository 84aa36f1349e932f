"""Times as the stream writes them: RFC 3339, UTC, microseconds, ``Z``."""

from datetime import UTC, datetime

_STREAM = "%Y-%m-%dT%H:%M:%S.%fZ"


def as_utc(time: datetime) -> datetime:
    """Return the same moment in UTC; a naive time is UTC already, as in the tables."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def parse_time(text: str) -> datetime:
    """Read a time of the stream; raises ``ValueError`` for any other text."""
    return datetime.strptime(text, _STREAM).replace(tzinfo=UTC)


def format_time(time: datetime) -> str:
    """Write a time as the stream does, years before 1000 with four digits, too."""
    return as_utc(time).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
