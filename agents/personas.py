"""Says who an agent speaks as in a plan: the domain that was asked for, or else the one that the goal's words name.

A persona says how to ask and how to order. It never says what counts as evidence: the rules that come before it in
every prompt stand, and a report prints verified quotes whoever wrote the draft.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents import discovery, terms
from orchestrator import prompts
from orchestrator.domain.plan import Json, digest

if TYPE_CHECKING:
    from agents.toolbox import Assignment


@dataclass(frozen=True, slots=True)
class Persona:
    """One domain at one depth, as models are told it; `sha256` is the digest of every word of it."""

    domain: str
    version: str
    sha256: str
    told: str
    facets: tuple[str, ...]
    tools: tuple[str, ...]

    def as_json(self) -> dict[str, Json]:
        """What a step keeps of the prompt that it used."""
        return {"name": f"persona/{self.domain}", "version": self.version, "sha256": self.sha256}


def persona(assignment: Assignment) -> Persona:
    """Return who the agent speaks as."""
    known = assignment.prompts
    asked = str(assignment.sources.get("domain") or "")
    domain = known.domains[asked if asked in known.domains else detect(assignment.goal, known)]
    told = "\n".join(
        part for part in (domain.persona, domain.audience, known.depths.get(assignment.depth)) if part
    )
    sha = digest([told, domain.facets, domain.tools])
    return Persona(domain.name, known.version, sha, told, domain.facets, domain.tools)


def told(assignment: Assignment, task: str) -> str:
    """Return a task as a model is told it: who it is first, and then what to do."""
    return f"{persona(assignment).told}\n\n{task}".strip()


def detect(goal: str, known: prompts.Prompts) -> str:
    """Return the domain whose words the goal has most of, by their weight; the first of equals, `general` for none."""
    folded = terms.fold(goal)
    scores = {
        domain.name: sum(weight for word, weight in domain.keywords.items() if discovery.holds(folded, word))
        for domain in known.domains.values()
    }
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] > 0 else prompts.GENERAL
