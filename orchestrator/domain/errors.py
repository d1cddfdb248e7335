"""What can go wrong, as a tree; each message is a sentence that an operator can act on.

OrchestratorError
├── Invalid                what was asked for cannot be accepted; nothing was changed
│   ├── InvalidGoal
│   ├── InvalidDepth
│   ├── InvalidBudget
│   ├── InvalidSources
│   ├── InvalidRequest
│   ├── InvalidSchedule
│   ├── InvalidSecret
│   └── KeyReused          the same Idempotency-Key with another body
├── NotFound               no such plan, step, approval, dead letter or report
├── Conflict               it exists, but not in a state that allows this
│   ├── IllegalMove
│   ├── AlreadyDecided
│   └── SecretMoved        somebody else was first, or this version cannot do that
├── Forbidden              who asks may not
│   ├── WrongRole
│   ├── RequesterDecides
│   └── ForeignTenant      what was to be written is another tenant's; nothing was
│   └── DecidesTwice
├── Fenced                 a newer claim holds the step; the late writer must leave quietly
├── BudgetSpent            the plan has no more of something; write what there is
├── Unavailable            a part this depends on cannot answer now; try again later
│   ├── BrokerUnavailable  only the doorbell: what should be published waits in the outbox
│   └── SecretsUnavailable where the secrets are kept does not answer, or not to this program
├── SecretDamaged          a stored secret does not open: it was altered, or the key is another
└── Misconfigured          a file or setting must be changed before the program can run
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


class OrchestratorError(Exception):
    """The root: everything this product raises on purpose."""

    code = "error"


class Invalid(OrchestratorError):
    """What was asked for cannot be accepted; nothing was changed."""

    code = "invalid"


class InvalidGoal(Invalid):
    """The goal is empty, too long, or not text."""

    code = "invalid_goal"


class InvalidDepth(Invalid):
    """The depth is not a whole number from 1 to 5."""

    code = "invalid_depth"

    def __init__(self, depth: object) -> None:
        super().__init__(f"Depth must be a whole number from 1 to 5, not {depth!r}.")
        self.depth = depth


class InvalidBudget(Invalid):
    """A limit is negative, or too small to write a report within."""

    code = "invalid_budget"


class InvalidSources(Invalid):
    """The documents to search cannot be used."""

    code = "invalid_sources"


class InvalidRequest(Invalid):
    """Something else about the request: its priority, its key, or text that cannot be stored."""

    code = "invalid_request"


class InvalidSchedule(Invalid):
    """The schedule's name, cron expression, time zone or policy cannot be used."""

    code = "invalid_schedule"


class InvalidSecret(Invalid):
    """The secret's name or value cannot be used."""

    code = "invalid_secret"


class KeyReused(Invalid):
    """The same idempotency key came with another request."""

    code = "idempotency_key_reused"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The idempotency key {key!r} was used for another request. Use a new key for a new request."
        )
        self.key = key


class NotFound(OrchestratorError):
    """There is no such thing, or not for this tenant."""

    code = "not_found"

    def __init__(self, what: str, name: object) -> None:
        super().__init__(f"There is no {what} {name}.")
        self.what = what
        self.name = name


class Conflict(OrchestratorError):
    """It exists, but not in a state that allows this."""

    code = "conflict"


_BEEN: Final[Mapping[str, str]] = {
    "succeeded": "has succeeded",
    "failed": "has failed",
    "waiting_approval": "waits for approval",
    "dead_lettered": "is dead lettered",
}
_DONE: Final[Mapping[str, str]] = {
    "cancel": "be cancelled",
    "replay": "be taken up again",
    "approve": "be approved",
    "reject": "be rejected",
}


class IllegalMove(Conflict):
    """The lifecycle has no such move from this state."""

    code = "illegal_move"

    def __init__(self, what: str, state: str, move: str) -> None:
        been = _BEEN.get(state, f"is {state}")
        super().__init__(f"A {what} that {been} cannot {_DONE.get(move, move)}.")
        self.state = state
        self.move = move


class AlreadyDecided(Conflict):
    """Somebody decided this approval before, or it expired."""

    code = "already_decided"

    def __init__(self, approval_id: str, state: str) -> None:
        super().__init__(f"Approval {approval_id} is already {state}; a decision stands once.")
        self.approval_id = approval_id
        self.state = state


class SecretMoved(Conflict):
    """Somebody else changed the secret first, or the version is in a state that does not allow this."""

    code = "secret_moved"


class Forbidden(OrchestratorError):
    """Who asks may not do this."""

    code = "forbidden"


class WrongRole(Forbidden):
    """The decider holds none of the roles that may decide."""

    code = "wrong_role"

    def __init__(self, needed: tuple[str, ...]) -> None:
        super().__init__(f"Deciding this needs one of these roles: {', '.join(needed)}.")
        self.needed = needed


class RequesterDecides(Forbidden):
    """Whoever asked for the plan may not approve its steps."""

    code = "requester_decides"

    def __init__(self, who: str) -> None:
        super().__init__(f"{who} asked for this plan and may not decide its approvals; somebody else must.")
        self.who = who


class ForeignTenant(Forbidden):
    """Whoever acts for one tenant was about to write what is another's; nothing was written."""

    code = "foreign_tenant"


class DecidesTwice(Forbidden):
    """One person may not fill two seats of a chain."""

    code = "decides_twice"

    def __init__(self, who: str) -> None:
        super().__init__(
            f"{who} has decided at an earlier stage of this approval; the next must be somebody else."
        )
        self.who = who


class Fenced(OrchestratorError):
    """A newer claim holds the step; the late writer must leave quietly."""

    code = "fenced"

    def __init__(self, plan_id: str, step: int, claim: int) -> None:
        super().__init__(f"Claim {claim} on step {step} of plan {plan_id} is no longer the current one.")
        self.plan_id = plan_id
        self.step = step
        self.claim = claim


class BudgetSpent(OrchestratorError):
    """The plan, or one of its tasks, has no more of something; write what there is."""

    code = "budget_spent"

    def __init__(self, what: str, limit: int, whose: str = "plan") -> None:
        super().__init__(f"The {whose}'s budget of {limit} {what} is spent.")
        self.what = what
        self.limit = limit


class Unavailable(OrchestratorError):
    """A part this depends on cannot answer now; trying again later may help."""

    code = "unavailable"


class BrokerUnavailable(Unavailable):
    """The broker does not take messages; they wait in the outbox."""

    code = "broker_unavailable"


class SecretsUnavailable(Unavailable):
    """Where the secrets are kept does not answer, or not to this program."""

    code = "secrets_unavailable"


class SecretDamaged(OrchestratorError):
    """A stored secret or data key does not open: it was altered, or sealed with a key that is not at hand."""

    code = "secret_damaged"


class Misconfigured(OrchestratorError):
    """A file or setting must be changed before the program can run."""

    code = "misconfigured"
