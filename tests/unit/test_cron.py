"""Times of cron expressions: time zones, both changes of the clock, and times in the past."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from ultramarine.resources.cron import MACROS, Cron, TimeZone, next_time, times_until

BERLIN = "Europe/Berlin"
EXPRESSIONS = [
    "30 2 * * *",
    "0 3 * * *",
    "*/15 * * * *",
    "15 * * * *",
    "50 1,2 * * *",
    "0 0 * * *",
    "0 0 1 * MON",
    "@weekly",
]
ZONES = ["", BERLIN, "America/New_York", "America/Santiago", "Africa/Cairo", "Asia/Kolkata"]


def times(cron, zone, since, until):
    """All times after one moment, up to another."""
    found = []
    while (time := next_time(cron, zone, since)) is not None and time <= until:
        found.append(since := time)
    return found


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "day", "expected"),
    [
        ("30 2 * * *", "2030-03-31", ["2030-03-31T01:00"]),  # 2:30 does not exist: at 3:00, right after the gap
        ("30 2 * * *", "2030-10-27", ["2030-10-27T00:30"]),  # 2:30 comes twice: the first one alone
        ("0 * * * *", "2030-03-31", [f"2030-03-31T{hour:02}:00" for hour in range(22)]),  # 23 hours from 23:00 on
        ("0 3 * * *", "2030-03-31", ["2030-03-31T01:00"]),
        ("0 3 * * *", "2030-10-27", ["2030-10-27T02:00"]),
    ],
)
def test_the_clock_changes_both_ways(cron, day, expected):
    """A time in the hour that is skipped comes right after it, and one in the hour that is repeated comes once."""
    begin = utc(day)
    until = begin + timedelta(hours=22) - timedelta(seconds=1)

    assert times(cron, BERLIN, begin - timedelta(seconds=1), until) == [utc(text) for text in expected]


def test_hours_count_by_the_real_time_when_they_are_repeated():
    """A wildcard in the hour runs in both of the hours that the clock shows as 2."""
    found = times("0 * * * *", BERLIN, utc("2030-10-26T23:30"), utc("2030-10-27T02:30"))

    assert found == [utc(f"2030-10-27T0{hour}:00") for hour in (0, 1, 2)]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(ZONES),
    st.datetimes(datetime(2029, 1, 1), datetime(2031, 1, 1)),
    st.integers(0, 96),
)
def test_the_past_has_the_times_of_the_future(cron, zone, begin, hours):
    """The times that lie in the past are those that were to come, in any zone and across any change of the clock."""
    since = begin.replace(microsecond=0, tzinfo=UTC)
    until = since + timedelta(hours=hours)

    past = list(takewhile(lambda time: time > since, times_until(cron, zone, until)))
    assert past[::-1] == times(cron, zone, since, until)


def test_a_time_that_never_comes():
    """An expression whose day exists in no year ends instead of looking forever."""
    assert next_time("0 0 29 2 *", "", utc("2030-01-01")) == utc("2032-02-29")
    with pytest.raises(ValidationError, match="day-of-month"):
        TypeAdapter(Cron).validate_python("0 0 31 2 *")


@pytest.mark.parametrize("text", [*MACROS, "0 3 * * *", "*/5 0-6 1,15 * MON-FRI", "0  0 L * *", "0 0 * * 5#2"])
def test_expressions_that_are_read(text):
    """Five fields with names, steps, ranges, the last day and the n-th weekday are read, and words such as @daily."""
    assert TypeAdapter(Cron).validate_python(text) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("60 3 * * *", "Bad minute"),
        ("0 24 * * *", "Bad hour"),
        ("0 3 * 13 *", "Bad month"),
        ("0 3 * * MOON", "Bad day-of-week"),
        ("*/0 * * * *", "Bad minute"),
        ("0 3 * *", "match pattern"),
        ("0 0 3 * * *", "match pattern"),
        ("@reboot", "match pattern"),
        ("", "match pattern"),
    ],
)
def test_expressions_that_are_refused(text, words):
    """A refusal names the field of the expression."""
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(Cron).validate_python(text)


@pytest.mark.parametrize("name", ["Europe/Nowhere", "Mars", "../etc/passwd"])
def test_a_zone_that_does_not_exist_is_refused(name):
    """An unknown time zone is refused by its name."""
    with pytest.raises(ValidationError, match=r"no time zone|match pattern"):
        TypeAdapter(TimeZone).validate_python(name)
