"""Guards that are taken out of the queries, one at a time: for each, a test of the suite must fail.

    python -m tests.contract.mutations "settle twice" "decide too late"

runs a part of the suite without the one guard, then without the other, and says of each in a line of JSON how that
went.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass

import pytest

from orchestrator import queries, store

STORE = "tests/contract/test_store.py"
POSTGRES = "tests/contract/test_postgres.py"
TENANTS = "tests/contract/test_tenants.py"


@dataclass(frozen=True)
class Mutation:
    """One guard of one query, what stands in its place, and the tests that must notice."""

    name: str
    query: str
    guard: str
    instead: str
    noticed_by: str
    file: str = STORE
    times: int = 1
    """How often the guard stands in the query."""

    def apply(self, named: Mapping[str, str]) -> Mapping[str, str]:
        """Return the queries without this guard, which must stand in its query so often."""
        text = named[self.query]
        if text.count(self.guard) != self.times:
            raise LookupError(
                f"{self.guard!r} does not stand {self.times} times in {self.query}; bring the mutation up to date."
            )
        return {**named, self.query: text.replace(self.guard, self.instead)}

    @property
    def arguments(self) -> list[str]:
        """What pytest is to run."""
        return [f"{self.file}::{self.noticed_by}", "-k", "not inmemory"]


MUTATIONS = [
    Mutation("claim without looking at the state", "claim_steps", "s.state = 'ready'", "true", "TestAClaim"),
    Mutation("claim in a plan that has ended", "claim_steps", "p.state IN ('running', 'waiting_approval') OR", "true OR", "TestAClaim"),
    Mutation("start a plan without saying so", "claim_steps", "SET state       = 'running',\n       event_count = queued.event_count + 1", "SET state       = 'running',\n       event_count = queued.event_count", "TestAClaim"),
    Mutation("claim without counting the attempt", "claim_steps", "s.attempt + 1", "s.attempt", "TestAClaim"),
    Mutation("claim without a new number", "claim_steps", "s.claim + 1", "GREATEST(s.claim, 1)", "TestAClaim"),
    Mutation("claim beyond the attempts", "claim_steps", "s.attempt < s.max_attempts", "true", "TestAClaim"),
    Mutation("claim again as if for the first time", "claim_steps", "s.claim = 0\n", "true\n", "TestAClaim"),
    Mutation("ask a question when time is up", "claim_steps", "p.deadline > ", "now() < 'infinity' OR p.deadline > ", "TestAClaim"),
    Mutation("complete without the fence", "complete_steps", "s.claim = c.claim", "c.claim > 0", "TestACompletion"),
    Mutation("complete what does not run", "complete_steps", "s.state = 'running'", "true", "TestACompletion", times=2),
    Mutation("tell of a completion that was not", "complete_steps", "(SELECT count(*) FROM moved)", "(SELECT count(*) FROM came)", "TestACompletionThatIsLate", POSTGRES),
    Mutation("complete without ringing", "complete_steps", "'plan.completions', moved.plan_id, moved.number, COALESCE(%(now)s::timestamptz, now())\n  FROM moved", "'plan.completions', moved.plan_id, moved.number, COALESCE(%(now)s::timestamptz, now())\n  FROM moved WHERE false", "TestACompletion"),
    Mutation("complete a step that was lost while its plan was held", "complete_steps", "AND s.claim = came.claim", "AND came.claim > 0", "TestACompletionThatIsLate", POSTGRES),
    Mutation("number the events of one plan alike", "complete_steps", "counted.behind + came.nth, COALESCE", "counted.behind + came.events, COALESCE", "TestACompletion"),
    Mutation("start a plan twice", "claim_steps", "SELECT DISTINCT queued.plan_id", "SELECT queued.plan_id", "TestAClaim"),
    Mutation("wait for whoever holds a step", "claim_steps", "COALESCE(%(patience)s,", "COALESCE(NULLIF(%(patience)s, %(patience)s),", "TestSeveralAtOnce", POSTGRES),
    Mutation("wait for whoever holds a plan", "complete_steps", "COALESCE(%(patience)s,", "COALESCE(NULLIF(%(patience)s, %(patience)s),", "TestSeveralAtOnce", POSTGRES),
    Mutation("settle without the plans' locks", "lock_plans", "FOR NO KEY UPDATE", "", "TestManyAtOnce::test_two_that_settle_the_last_steps_of_a_round_at_once_go_on_once", POSTGRES),
    Mutation("claim before the time has come", "claim_steps", "run_after <= ", "now() > ", "TestAClaim"),
    Mutation("renew for any claim", "renew_step", "claim = %(claim)s", "%(claim)s > 0", "TestAClaim"),
    Mutation("renew what no longer runs", "renew_step", "state = 'running'", "true", "TestAClaim"),
    Mutation("move a step without its fence", "move_step", "OR claim = %(claim)s", "OR true", "TestAMove::test_is_fenced_by_the_claim"),
    Mutation("move a step from any state", "move_step", "state = ANY(%(before)s)", "%(before)s IS NOT NULL", "TestAMove"),
    Mutation("move a plan from any state", "move_plan", "state = ANY(%(before)s)", "%(before)s IS NOT NULL", "TestAPlan"),
    Mutation("settle a judge without what it came to", "mark_settled", "s.agent IN ('judge', 'synthesiser')", "false", "TestABallot"),
    Mutation("bring along what nobody decides by", "mark_settled", "s.agent IN ('judge', 'synthesiser')", "true", "TestABallot"),
    Mutation("show another plan's ballots", "ballots", "WHERE plan_id = %(plan_id)s", "WHERE %(plan_id)s::uuid IS NOT NULL", "TestABallot"),
    Mutation("show ballots in any order", "ballots", "ORDER BY round", "ORDER BY round DESC", "TestABallot"),
    Mutation("settle twice", "mark_settled", "AND NOT s.settled", "", "TestSettling"),
    Mutation("settle what has not ended", "mark_settled", "s.state IN ('succeeded', 'skipped')", "true", "TestSettling"),
    Mutation("finish a call of another claim", "finish_call", "claim = %(claim)s", "%(claim)s > 0", "TestACall"),
    Mutation("finish a call twice", "finish_call", "state = 'intended'", "true", "TestACall"),
    Mutation("intend again what is done", "put_call", "call.state <> 'done'", "true", "TestACall"),
    Mutation("keep the permission to repeat", "put_call", "repeat_allowed = false", "repeat_allowed = call.repeat_allowed", "TestACall"),
    Mutation("orphan what is known", "orphan_calls", "state = 'intended'", "true", "TestACall"),
    Mutation("decide twice", "decide", "state = 'pending'", "true", "TestAnApproval"),
    Mutation("decide another version", "decide", "version = %(version)s", "true", "TestAChainOfApprovals"),
    Mutation("go on twice", "advance", "version = %(version)s", "true", "TestAChainOfApprovals"),
    Mutation("go on after the end", "advance", "state = 'pending'", "true", "TestAChainOfApprovals"),
    Mutation("go on whatever the time", "advance", "(expires_at > COALESCE(%(now)s::timestamptz, now())) = %(in_time)s", "true", "TestAChainOfApprovals"),
    Mutation("find what a role decided", "approvals", "a.state = 'pending' AND %(role)s", "%(role)s", "TestAChainOfApprovals"),
    Mutation("give time to what has ended", "extend", "AND finished_at IS NULL", "", "TestAChainOfApprovals"),
    Mutation("take what is not due", "take_notification", "due_at <= COALESCE(%(now)s::timestamptz, now())", "true", "TestANotification"),
    Mutation("take what has ended", "take_notification", "state = 'waiting'", "true", "TestANotification"),
    Mutation("end a notification twice", "end_notification", "state = 'waiting'", "true", "TestANotification"),
    Mutation("give up what another tries", "end_notification", "attempts = %(attempts)s", "true", "TestANotification"),
    Mutation("postpone what has ended", "postpone_notification", "state = 'waiting'", "true", "TestANotification"),
    Mutation("postpone what another tries", "postpone_notification", "attempts = %(attempts)s", "true", "TestANotification"),
    Mutation("decide too late", "decide", "expires_at > ", "now() > ", "TestAnApproval"),
    Mutation("close a letter twice", "close_dead_letter", "state = 'open'", "true", "TestADeadLetter"),
    Mutation("share evidence between tenants", "evidence", "tenant = %(tenant)s", "%(tenant)s::text <> ''", "TestEvidence"),
    Mutation("share keys between tenants", "plan_of_key", "tenant = %(tenant)s", "%(tenant)s::text <> ''", "TestAPlan"),
    Mutation("wake steps of plans that ended", "due", "p.finished_at IS NULL", "true", "TestADueStep"),
    Mutation("wait beyond the deadline", "due", "LEAST(s.run_after, p.deadline)", "s.run_after", "TestADueStep"),
    Mutation("overlook workers that are gone", "lapsed", "OR NOT EXISTS", "OR false AND NOT EXISTS", "TestALapsedStep"),
    Mutation("ring for steps that snooze", "unheard", "s.run_after IS NULL OR", "true OR", "TestAnUnheardStep"),
    Mutation("ring without end", "unheard", "SET offered_at = COALESCE(", "SET offered_at = COALESCE(s.offered_at, ", "TestAnUnheardStep"),
    Mutation("publish in any order", "take_outbox", "ORDER BY number", "ORDER BY md5(number::text)", "TestTheOutbox"),
    Mutation("publish without a limit", "take_outbox", "LIMIT %(limit)s", "LIMIT %(limit)s + 100", "TestTheOutbox"),
    Mutation("publish a crowd first come, first served", "take_outbox", "count(*) > %(room)s", "count(*) > %(room)s + 1000000", "TestACrowdedOutbox"),
    Mutation("forget whose turn it is", "take_shares", "SET served = excluded.served", "SET served = tenant.served", "TestACrowdedOutbox"),
    Mutation("let ordinary plans go first", "take_shares", "o.priority DESC, o.number", "o.number", "TestACrowdedOutbox"),
    Mutation("overlook what a limited tenant runs", "waiting", "s.state = 'running'", "false", "TestACrowdedOutbox"),
    Mutation("run more than a tenant may", "running_of", "s.state = 'running'", "false", "TestATenant"),
    Mutation("claim for a limited tenant without counting", "claim_steps", "AND NOT EXISTS (SELECT FROM tenant", "AND NOT EXISTS (SELECT FROM tenant AS t WHERE false) AND true OR EXISTS (SELECT FROM tenant", "TestATenant"),
    Mutation("number without the plan's lock", "lock_plan", "FOR NO KEY UPDATE", "", "TestManyAtOnce::test_sixteen_that_write_about_one_plan_number_its_events_without_gaps", POSTGRES),
    Mutation("let everybody wait for a process that fell silent", "lock_free_plans", "SKIP LOCKED", "", "TestAProcessThatFallsSilent", POSTGRES),
    Mutation("let relays wait for each other", "take_outbox", "SKIP LOCKED", "NOWAIT", "TestManyAtOnce::test_two_relays_take_different_messages_and_do_not_wait_for_each_other", POSTGRES),
    Mutation("take locks of other databases for alive", "lapsed", "l.database = (SELECT", "0 < (SELECT", "TestAWorkerThatIsAlive::test_is_not_confused_with_one_of_another_database", POSTGRES),
    Mutation("act for a tenant as who may see all", "confine", "SET LOCAL ROLE orchestrator_tenant;", "", "TestAStoreOfOneTenant"),
    Mutation("keep a tenant's role for the next", "confine", "SET LOCAL ROLE", "SET ROLE", "TestAConnectionThatServedATenant", TENANTS),
    Mutation("keep a tenant's name for the next", "confine", "%(tenant)s, true)", "%(tenant)s, false)", "TestAConnectionThatServedATenant", TENANTS),
    Mutation("look for open tables at their rows only", "confinement", "WHEN NOT secured THEN true", "WHEN false THEN true", "TestEveryTable::test_that_lost_its_row_security_is_named_by_the_self_test", TENANTS),
    Mutation("look for open tables in the catalogue only", "confinement", "LIKE '%%<row%%'", "LIKE '%%<never%%'", "TestTheSelfTest", TENANTS),
    Mutation("let a role see all without a word", "confinement", "rolsuper OR rolbypassrls OR", "rolsuper OR", "TestTheSelfTest", TENANTS),
]  # fmt: skip


# what a test that fails leaves open is not what is looked for
QUICKLY = [
    "-x",
    "-q",
    "--no-header",
    "--tb=line",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:cov",
    "-p",
    "no:unraisableexception",
]


def run_without(mutation: Mutation) -> tuple[int, str]:
    """Run a part of the suite with one guard gone; pytest's exit code and what it printed."""
    whole = store.queries
    mutated = mutation.apply(queries.queries())
    store.queries = lambda: mutated
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            code = pytest.main([*mutation.arguments, *QUICKLY])
    finally:
        store.queries = whole
    return int(code), printed.getvalue()


def main() -> None:
    """Run the suite without each of the guards named on the command line."""
    by_name = {mutation.name: mutation for mutation in MUTATIONS}
    for name in sys.argv[1:]:
        code, printed = run_without(by_name[name])
        print(json.dumps({"name": name, "code": code, "printed": printed}), flush=True)


if __name__ == "__main__":
    main()
