"""Offers what earlier plans of the same tenant have found, as an MCP server.

Whose plans, the tool host says with each call, and no argument can: the store is asked as that tenant, so that Postgres
itself hides what is another's. What came of plans that read what others wrote or what must not leave is passed by, since a
fact does not carry those labels into the plan that is told of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Annotated, Any, Final

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from agents import terms
from orchestrator.ports import Remembered, Store
from workers.toolhost.host import TENANT_META

MOST_WORDS: Final = 32
PLANS: Final = 200
"""The latest plans of a tenant that are looked through."""

_READS: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_WORD: Final = re.compile(r"[^\W_]+")


class Found(BaseModel):
    """Facts of earlier plans, the most fitting first."""

    facts: list[dict[str, Any]]


def build(store: Store, labelled: Callable[[], Collection[str]]) -> MCPServer:
    """Return a server that searches facts; `labelled` names the tools whose plans are passed by."""
    server = MCPServer(
        name="memory",
        title="Memory",
        instructions="Facts of earlier plans, with where they come from; they say what was so then.",
        log_level="WARNING",
    )

    @server.tool(title="Search earlier facts", annotations=_READS)
    def memory_search(
        context: Context,
        query: Annotated[str, Field(max_length=2_000, description="What the facts should be about.")],
        limit: Annotated[int, Field(ge=1, le=50)] = 8,
    ) -> Found:
        """Return facts of earlier plans that ended with an answer, and have the most words of the query."""
        tenant = (context.request_context.meta or {}).get(TENANT_META)
        if not isinstance(tenant, str) or not tenant:
            raise ToolError("Nobody said whose plans are to be searched.")
        words = asked(query)
        if not words:
            return Found(facts=[])
        with store.of(tenant).transaction() as tx:
            found = tx.related_facts(
                tenant,
                words,
                least=min(2, len(words)),
                without=sorted(labelled()),
                plans=PLANS,
                limit=limit,
            )
        return Found(facts=[_shown(each) for each in found])

    return server


def asked(query: str) -> list[str]:
    """Return the words of a query that say what it is about, each once, in lower case."""
    words = _WORD.findall(query.lower())
    return list(dict.fromkeys(word for word in words if word not in terms.STOP_WORDS))[:MOST_WORDS]


def _shown(found: Remembered) -> dict[str, Any]:
    fact = found.fact
    return {
        "plan_id": found.plan_id,
        "at": found.ended_at.isoformat(),
        "step": fact.step,
        "number": fact.number,
        "quote": fact.quote,
        "evidence": fact.evidence,
        "start": fact.start,
        "end": fact.end,
        "locator": fact.locator,
        "title": fact.title,
        "heading": list(fact.heading),
        "origin_sha256": fact.origin_sha256,
        "question": fact.question,
    }
