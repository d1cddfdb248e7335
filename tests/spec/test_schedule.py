"""When a cron expression is due, on ordinary days and on the two odd ones, and what becomes of due ticks."""

from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import cron
from orchestrator.domain import schedule
from orchestrator.domain.errors import Invalid, InvalidSchedule
from orchestrator.domain.schedule import CatchUp, FiringOutcome, Misfire, Overlap, Schedule, ticks, zone_of

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
NAIVE = datetime(2011, 1, 1, tzinfo=UTC).replace(tzinfo=None)
NEW_YORK = zone_of("America/New_York")
ZONES = [
    "America/New_York",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Australia/Lord_Howe",  # half an hour
    "Europe/Berlin",
    "Europe/Dublin",
    "Pacific/Apia",  # left out a whole day
    "Pacific/Auckland",
    "UTC",
]


def between(expression, zone, start, end):
    """The ticks after one instant up to another."""
    found = []
    for tick in ticks(cron.parse(expression), zone, after=start):
        if tick > end:
            return found
        found.append(tick)
    return found


@cache
def changes(zone, year):
    """The instants of a year at which the wall's clock in a zone is put on or back, to the minute."""
    at, found = datetime(year, 1, 1, tzinfo=UTC), []
    while at.year == year:
        if at.astimezone(zone).utcoffset() != (at + HOUR).astimezone(zone).utcoffset():
            step = at
            while step.astimezone(zone).utcoffset() == at.astimezone(zone).utcoffset():
                step += MINUTE
            found.append(step)
        at += HOUR
    return found


class TestADailyJob:
    def test_at_half_past_two_runs_once_on_the_day_that_has_no_half_past_two(self):
        found = between(
            "30 2 * * *", NEW_YORK, datetime(2026, 3, 7, 12, tzinfo=UTC), datetime(2026, 3, 9, 12, tzinfo=UTC)
        )
        assert [t.astimezone(NEW_YORK).strftime("%d %H:%M") for t in found] == ["08 03:00", "09 02:30"]

    def test_at_half_past_one_runs_once_on_the_day_that_has_two(self):
        found = between(
            "30 1 * * *",
            NEW_YORK,
            datetime(2026, 10, 31, 12, tzinfo=UTC),
            datetime(2026, 11, 2, 12, tzinfo=UTC),
        )
        assert [t.strftime("%d %H:%M") for t in found] == ["01 05:30", "02 06:30"]

    @given(
        zone=st.sampled_from(ZONES).map(ZoneInfo),
        hour=st.integers(0, 23),
        minute=st.integers(0, 59),
        day=st.dates(NAIVE.date(), date(2035, 1, 1)),
    )
    @settings(max_examples=120, deadline=None)
    def test_runs_once_a_day_in_every_zone(self, zone, hour, minute, day):
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        found = list(islice(ticks(cron.parse(f"{minute} {hour} * * *"), zone, after=start), 5))
        days = [t.astimezone(zone).date() for t in found]
        # Apia had no 30 December 2011: that day's tick comes as the day is left out
        apart = [(b - a).days for a, b in pairwise(days)]
        assert all(n == 1 for n in apart) or (zone.key == "Pacific/Apia" and days[0].year == 2011)

    @given(zone=st.sampled_from(ZONES).map(ZoneInfo), year=st.integers(2012, 2035), data=st.data())
    @settings(max_examples=100, deadline=None)
    def test_runs_once_on_both_days_that_change_the_clock(self, zone, year, data):
        moments = changes(zone, year)
        if not moments:
            return
        moment = data.draw(st.sampled_from(moments))
        local = moment.astimezone(zone) - timedelta(minutes=data.draw(st.integers(-120, 120)))
        found = between(
            f"{local.minute} {local.hour} * * *",
            zone,
            moment - timedelta(hours=36),
            moment + timedelta(hours=36),
        )
        dates = [t.astimezone(zone).date() for t in found]
        assert dates.count(moment.astimezone(zone).date()) == 1
        assert len(dates) == len(set(dates))


class TestARepeatingJob:
    @given(
        zone=st.sampled_from(ZONES).map(ZoneInfo),
        at=st.datetimes(NAIVE, NAIVE + 9000 * DAY).map(lambda d: d.replace(tzinfo=UTC)),
    )
    @settings(max_examples=100, deadline=None)
    def test_for_every_15_minutes_runs_every_15_minutes_whatever_the_clock_does(self, zone, at):
        found = list(islice(ticks(cron.parse("*/15 * * * *"), zone, after=at), 300))
        assert {b - a for a, b in pairwise(found)} == {15 * MINUTE}

    @pytest.mark.parametrize("zone", [z for z in ZONES if z != "UTC"])
    @pytest.mark.parametrize("year", [2011, 2026])
    def test_is_due_at_each_instant_whose_wall_time_matches_and_at_no_other(self, zone, year):
        zone = ZoneInfo(zone)
        for moment in changes(zone, year):
            start, end = moment - 4 * HOUR, moment + 4 * HOUR
            minutes = [start + n * MINUTE for n in range(1, 481)]
            wanted = [m for m in minutes if m.astimezone(zone).minute in {0, 20, 40}]
            assert between("*/20 * * * *", zone, start, end) == wanted


class TestTicks:
    EXPRESSIONS = (
        "30 2 * * *",
        "*/7 * * * *",
        "15,45 1-3 * * *",
        "0 */2 * * *",
        "0 0 1 * *",
        "5 4 * * SUN",
        "0 12 L * *",
    )

    @given(
        expression=st.sampled_from(EXPRESSIONS),
        zone=st.sampled_from(ZONES).map(ZoneInfo),
        at=st.datetimes(NAIVE, NAIVE + 7000 * DAY).map(lambda d: d.replace(tzinfo=UTC)),
    )
    @settings(max_examples=120, deadline=None)
    def test_come_in_order_and_none_twice(self, expression, zone, at):
        found = list(islice(ticks(cron.parse(expression), zone, after=at), 60))
        assert found[0] > at
        assert all(a < b for a, b in pairwise(found))

    @given(
        expression=st.sampled_from(EXPRESSIONS[:4]), zone=st.sampled_from(ZONES).map(ZoneInfo), data=st.data()
    )
    @settings(max_examples=100, deadline=None)
    def test_do_not_depend_on_where_one_begins_to_look(self, expression, zone, data):
        year = data.draw(st.integers(2012, 2030))
        moments = changes(zone, year) or [datetime(year, 6, 1, tzinfo=UTC)]
        moment = data.draw(st.sampled_from(moments))
        start, end = moment - 6 * HOUR, moment + 6 * HOUR
        inside = start + timedelta(seconds=data.draw(st.integers(0, 12 * 3600)))
        assert [t for t in between(expression, zone, start, end) if t > inside] == between(
            expression, zone, inside, end
        )

    def test_of_an_hour_that_comes_twice_are_not_lost_between_its_two_passes(self):
        first_pass = datetime(2026, 11, 1, 5, 50, tzinfo=UTC)
        assert between("*/30 * * * *", NEW_YORK, first_pass, first_pass + HOUR) == [
            datetime(2026, 11, 1, 6, 0, tzinfo=UTC),
            datetime(2026, 11, 1, 6, 30, tzinfo=UTC),
        ]


class TestAnExpression:
    @pytest.mark.parametrize(
        ("expression", "says"),
        [
            ("* * *", "has five fields"),
            ("* * * * * *", "has 6"),
            ("", "has 0"),
            ("60 * * * *", "The minute of"),
            ("0 24 * * *", "The hour of"),
            ("0 0 32 * *", "The day of the month of"),
            ("0 0 * 13 *", "The month of"),
            ("0 0 * * FUNDAY", "The day of the week of"),
            ("0 0 30 2 *", "The day of the month of"),
            ("9" * 5000 + " * * * *", "has five fields"),
        ],
    )
    def test_that_is_wrong_is_refused_in_a_sentence(self, expression, says):
        with pytest.raises(InvalidSchedule, match=r"\.$") as refused:
            cron.parse(expression)
        assert says in str(refused.value)
        assert len(str(refused.value)) < 600

    @given(st.text(max_size=40) | st.text("0123456789*/,-L#W MONFEB ", max_size=40))
    @settings(max_examples=300, deadline=None)
    def test_of_any_text_is_read_or_refused(self, text):
        try:
            read = cron.parse(text)
        except InvalidSchedule:
            return
        assert next(ticks(read, NEW_YORK, after=datetime(2026, 1, 1, tzinfo=UTC)), None) is not None

    @pytest.mark.parametrize("short", ["@daily", "@hourly", " @Weekly "])
    def test_may_be_a_word(self, short):
        assert len(cron.parse(short).fields.split()) == 5


class TestAZone:
    @pytest.mark.parametrize(
        "name",
        ["", "Nowhere", "America", "../../etc/passwd", "/etc/localtime", "localtime", "a" * 300, "x\0"],
    )
    def test_that_there_is_not_is_refused(self, name):
        with pytest.raises(InvalidSchedule, match="There is no time zone"):
            zone_of(name)


class TestADueTick:
    NOW = datetime(2026, 3, 20, 12, 0, 30, tzinfo=UTC)
    FEW = CatchUp(most=3, window=timedelta(hours=2))

    def due(self, since, catch_up=FEW, expression="*/15 * * * *"):
        return schedule.due(
            cron.parse(expression), zone_of("UTC"), since=since, now=self.NOW, catch_up=catch_up
        )

    def test_counts_from_the_next_one_up_to_now(self):
        found = self.due(datetime(2026, 3, 20, 11, 45, tzinfo=UTC))
        assert [t.minute for t in found.ticks] == [45, 0]
        assert found.next_at == datetime(2026, 3, 20, 12, 15, tzinfo=UTC)
        assert found.passed_over is None

    def test_of_a_long_outage_is_one_of_the_newest(self):
        since = datetime(2026, 3, 20, 10, 30, tzinfo=UTC)
        found = self.due(since)
        assert [t.strftime("%H:%M") for t in found.ticks] == ["11:30", "11:45", "12:00"]
        assert found.passed_over == since

    def test_is_not_looked_for_outside_the_window(self):
        since = datetime(2020, 1, 1, tzinfo=UTC)
        found = self.due(since, CatchUp(most=100, window=timedelta(hours=1)))
        assert [t.strftime("%H:%M") for t in found.ticks] == ["11:15", "11:30", "11:45", "12:00"]
        assert found.passed_over == since


T = [datetime(2026, 3, 20, hour, tzinfo=UTC) for hour in (9, 10, 11, 12)]
F, Q, M, V = (
    FiringOutcome.FIRED,
    FiringOutcome.QUEUED,
    FiringOutcome.SKIPPED_MISFIRE,
    FiringOutcome.SKIPPED_OVERLAP,
)


class TestWhatBecomesOfDueTicks:
    """Four hourly ticks are due at once, the newest one ten seconds ago or half an hour ago."""

    @staticmethod
    def settle(misfire, overlap, *, busy, waiting=0, late=10, most=100, ticks=T):
        decided = schedule.settle(
            ticks,
            now=T[-1] + timedelta(seconds=late),
            misfire=misfire,
            overlap=overlap,
            busy=busy,
            waiting=waiting,
            catch_up=CatchUp(most=most),
        )
        assert [v.due_at for v in decided.verdicts] == list(ticks)
        assert all(v.reason for v in decided.verdicts if v.outcome in {M, V})
        return [v.outcome for v in decided.verdicts], decided.cancels

    @pytest.mark.parametrize(
        ("misfire", "overlap", "free", "busy"),
        [
            ("skip", "skip", [M, M, M, F], [M, M, M, V]),
            ("skip", "queue", [M, M, M, F], [M, M, M, Q]),
            ("skip", "cancel", [M, M, M, F], [M, M, M, F]),
            ("once", "skip", [M, M, M, F], [M, M, M, V]),
            ("once", "queue", [M, M, M, F], [M, M, M, Q]),
            ("once", "cancel", [M, M, M, F], [M, M, M, F]),
            ("all", "skip", [F, V, V, V], [V, V, V, V]),
            ("all", "queue", [F, Q, Q, Q], [Q, Q, Q, Q]),
            ("all", "cancel", [V, V, V, F], [V, V, V, F]),
        ],
    )
    def test_is_said_by_both_policies(self, misfire, overlap, free, busy):
        assert self.settle(Misfire(misfire), Overlap(overlap), busy=False) == (free, False)
        assert self.settle(Misfire(misfire), Overlap(overlap), busy=True) == (busy, overlap == "cancel")

    def test_is_nothing_when_all_are_late_and_late_ones_are_skipped(self):
        assert self.settle(Misfire.SKIP, Overlap.CANCEL, busy=True, late=1800) == ([M, M, M, M], False)

    def test_is_one_firing_when_all_are_late_and_one_is_made_up_for(self):
        assert self.settle(Misfire.ONCE, Overlap.SKIP, busy=False, late=1800) == ([M, M, M, F], False)

    def test_is_to_wait_in_line_behind_those_that_wait_already(self):
        assert self.settle(Misfire.ALL, Overlap.QUEUE, busy=False, waiting=1) == ([Q, Q, Q, Q], False)

    def test_is_to_be_left_out_when_the_line_is_full(self):
        assert self.settle(Misfire.ALL, Overlap.QUEUE, busy=True, waiting=8, most=10) == ([Q, Q, V, V], False)

    @given(
        misfire=st.sampled_from(Misfire),
        overlap=st.sampled_from(Overlap),
        busy=st.booleans(),
        waiting=st.integers(0, 5),
        late=st.integers(0, 4000),
        count=st.integers(0, 4),
    )
    def test_never_makes_two_plans_that_live(self, misfire, overlap, busy, waiting, late, count):
        outcomes, cancels = self.settle(
            misfire, overlap, busy=busy, waiting=waiting, late=late, ticks=T[4 - count :]
        )
        fired = outcomes.count(F)
        assert fired <= 1
        assert not fired or not busy or cancels


class TestARequest:
    def of(self, **given):
        return Schedule("id", "acme", "nightly", "@daily", "UTC", {"goal": "Why?", **given}).asked(T[0])

    def test_is_made_for_the_schedule_s_tenant_and_names_the_tick(self):
        asked = self.of(depth=3, requester="ann", metadata={"team": "a"})
        assert (asked.tenant, asked.requester, asked.depth) == ("acme", "ann", 3)
        assert asked.metadata == {"team": "a", "schedule": "nightly", "due_at": "2026-03-20T09:00:00+00:00"}

    @pytest.mark.parametrize(
        "wrong",
        [
            {"goal": ""}, {"goal": None}, {"depth": 9}, {"depth": "2"}, {"colour": 1}, {"budget": {"steps": 1}},
            {"budget": {"stepz": 10}}, {"budget": [1]}, {"metadata": 3}, {"priority": "high"}, {"sources": 7},
            {"requester": 5}, {"requester": ""},
        ],
    )  # fmt: skip
    def test_that_is_wrong_is_refused(self, wrong):
        with pytest.raises(Invalid):
            self.of(**wrong)

    @pytest.mark.parametrize("name", ["", "a b", "-x", "a" * 65, "ü", "a/b", "a\n"])
    def test_needs_a_name_that_can_be_typed(self, name):
        with pytest.raises(InvalidSchedule, match="name"):
            schedule.check_name(name)
