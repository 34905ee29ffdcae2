"""Cron expressions in time zones: their types in a spec, and the times that they name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field

from .base import says

if TYPE_CHECKING:
    from cronsim import CronSim

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
REPEATED = timedelta(hours=2)  # no zone sets its clock back further


def _iterator(cron: str, moment: datetime, *, reverse: bool = False) -> CronSim:
    from cronsim import CronSim  # the command starts without it

    return CronSim(MACROS.get(cron, cron), moment, reverse)


def _checked_cron(text: str) -> str:
    from cronsim import CronSimError

    try:
        _iterator(text, datetime(2030, 1, 1))
    except CronSimError as error:
        raise ValueError(f"{text!r} is not a cron expression: {error}; correct that field") from error
    return text


def _checked_zone(name: str) -> str:
    zone_of(name)
    return name


Cron = Annotated[
    str,
    Field(
        max_length=100,
        pattern=rf"^({'|'.join(MACROS)}|[^ @]+( +[^ ]+){{4}})$",
        json_schema_extra=says("must be five fields, such as '0 3 * * *' for 3:00 each day, or a word such as @daily"),
    ),
    AfterValidator(_checked_cron),
]
TimeZone = Annotated[
    str,
    Field(
        max_length=64,
        pattern=r"^([A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*)?$",
        json_schema_extra=says("must be the name of a time zone, such as Europe/Berlin"),
    ),
    AfterValidator(_checked_zone),
]


def zone_of(name: str) -> tzinfo:
    """Return the time zone of that name; UTC if it is empty. Raises ValueError."""
    try:
        return ZoneInfo(name) if name else UTC
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"no time zone is named {name!r}; write a name such as Europe/Berlin") from error


def next_time(cron: str, zone: str, after: datetime) -> datetime | None:
    """Return the first time after a moment; None if none comes within 50 years."""
    for time in _iterator(cron, after.astimezone(zone_of(zone))):
        if time.astimezone(UTC) > after:  # in the hour that a zone repeats, the local time may have passed before
            return time.astimezone(UTC)
    return None


def times_until(cron: str, zone: str, moment: datetime) -> Iterator[datetime]:
    """Yield the times up to a moment, that moment included, the newest first."""
    local = (moment + timedelta(seconds=1)).astimezone(zone_of(zone))
    if local.fold:  # the clock goes back: times of the hour that is repeated may look later than now
        local += REPEATED
    former = None
    for time in _iterator(cron, local, reverse=True):
        time = time.astimezone(UTC)
        if time <= moment and time != former:
            yield time
            former = time
