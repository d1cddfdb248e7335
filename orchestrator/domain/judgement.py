"""What a policy says about something that somebody wants to do: yes, no, or not before a person agrees."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Effect: TypeAlias = Literal["allow", "deny", "require_approval"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One objection: a constant code, and the capability that it is about (or nothing)."""

    reason: str
    capability: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided, by which revision of the policy, and why.

    `failed` says that nobody could answer: still a denial, but one that may be asked again.
    """

    effect: Effect
    reasons: tuple[Reason, ...]
    revision: str
    decision_id: str
    failed: bool = field(default=False, kw_only=True)

    @property
    def allow(self) -> bool:
        """Whether it may happen now."""
        return self.effect == "allow"
