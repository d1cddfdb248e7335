"""The kill switch of the whole fleet: rows that every gate reads with each decision, set and lifted by people.

What is stopped for one tenant, that tenant's own people may lift; what is stopped everywhere, they may not. Both leave a
record in the chain of whoever did it, and what names another tenant one in that tenant's chain besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orchestrator.domain import stop as rules
from orchestrator.domain.errors import Forbidden, NotFound
from orchestrator.domain.identity import Principal
from orchestrator.domain.plan import Json
from orchestrator.domain.stop import EVERYWHERE, Stop
from orchestrator.store import PgStore
from orchestrator.telemetry import log
from orchestrator.vault import ledger
from orchestrator.vault.chain import Sealer

SET: Final = "stop.set"
SET_EVERYWHERE: Final = "stop.set_everywhere"

_CHANGED: Final = "config_changed"


class Switch:
    """Throws and lifts the kill switch; who may is asked before. It counts from the next decision of every gate on."""

    def __init__(self, store: PgStore, sealer: Sealer) -> None:
        self._store = store
        self._sealer = sealer

    def stop(self, who: Principal, target: str, reason: str, *, everywhere: bool = False) -> Stop:
        """Stop a target for the caller's tenant, or everywhere; `all` of a tenant is that tenant.

        Raises `Invalid` for what is no target or reason, and `Forbidden` for another tenant.
        """
        made = Stop(
            self._target(who, target, everywhere=everywhere),
            rules.reason(reason),
            EVERYWHERE if everywhere else who.tenant,
            who.name,
        )
        with self._of(who, everywhere=everywhere).transaction() as tx:
            tx.put_stop(made)
            self._note(tx, who, made, "set")
            made = next(each for each in tx.stops(made.tenant) if each == made)
        log.warning("stop.set", target=made.target, tenant=made.tenant, by=who.name)
        return made

    def resume(self, who: Principal, target: str, *, everywhere: bool = False) -> Stop:
        """Lift a stop and return what it was; raises `NotFound` where the target is not stopped so."""
        named = self._target(who, target, everywhere=everywhere)
        tenant = EVERYWHERE if everywhere else who.tenant
        with self._of(who, everywhere=everywhere).transaction() as tx:
            lifted = tx.remove_stop(tenant, named)
            if lifted is None:
                raise NotFound("stop of", named)
            self._note(tx, who, lifted, "lifted")
        log.warning("stop.lifted", target=named, tenant=tenant, by=who.name)
        return lifted

    def listed(self, tenant: str | None = None) -> Sequence[Stop]:
        """Return what is stopped, the oldest first; for one tenant, only what concerns it."""
        with self._store.transaction() as tx:
            found = tx.stops(tenant)
        if tenant is None:
            return found
        # whom else the fleet has stopped is not for this tenant to know
        ours = (f"tenant:{tenant}", "all")
        return [
            each
            for each in found
            if each.tenant == tenant or each.target in ours or each.target.startswith(("tool:", "agent:"))
        ]

    def _target(self, who: Principal, given: str, *, everywhere: bool) -> str:
        named = rules.target(given)
        if everywhere:
            return named
        if named == "all":
            return rules.target(f"tenant:{who.tenant}")
        if named.startswith("tenant:") and named != f"tenant:{who.tenant}":
            raise Forbidden(f"You may stop your own tenant, {who.tenant}, and no other.")
        return named

    def _of(self, who: Principal, *, everywhere: bool) -> PgStore:
        return self._store if everywhere else self._store.of(who.tenant)

    def _note(self, tx: ledger.Pen, who: Principal, stop: Stop, change: str) -> None:
        everywhere = stop.tenant == EVERYWHERE
        details: dict[str, Json] = {"change": change, "reason": stop.reason, "everywhere": everywhere}
        said: dict[str, Json] = {
            "action": SET_EVERYWHERE if everywhere else SET,
            "actor": who.name,
            "resource": f"stop:{stop.target}",
            "details": details,
            "session_id": "",
        }
        about = {stop.target.removeprefix("tenant:")} if stop.target.startswith("tenant:") else set()
        # in one order, so that two who do this do not wait for each other
        for tenant in sorted({who.tenant, *about}):
            ledger.append(tx, self._sealer, tenant=tenant, by=who.name, kind=_CHANGED, said=said)
