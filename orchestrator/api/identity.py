"""Who asks, and what a route lets them do.

    request → Gatehouse: whose credential is this?  401      → route: may they take its action?  403
                         within their rate?         429

Every route names its action: `who: Annotated[Principal, Depends(acts("plan.cancel"))]`, or `reads(…)` where it only
looks. `build` refuses to serve a route that names none, unless it is one of `OPEN`. A name, a tenant and roles come
from the verified credential and from nothing else; the headers `X-Roles`, `X-Scopes` and `X-Agent-Profile` may take
something away from it for one request, and never add to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from anyio.to_thread import run_sync
from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.problems import ASKS_BY_GET, Refused
from orchestrator.domain import identity as rules
from orchestrator.domain.errors import Invalid, Unavailable
from orchestrator.domain.identity import ACTIONS, Principal
from orchestrator.domain.judgement import Judgement
from orchestrator.domain.plan import Json
from orchestrator.keyring import KeyRing
from orchestrator.ports import Judge
from orchestrator.rates import LocalRates, Rate, Rates, Taken
from orchestrator.settings import Settings
from orchestrator.telemetry import log
from orchestrator.tokens import Issuer, Trust, Unproven

__all__ = [
    "ACTIONS",
    "OPEN",
    "Gatehouse",
    "Principal",
    "Reception",
    "acts",
    "development",
    "reads",
    "reception",
]

OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"})
"""What is told to whoever asks: whether this process works, what there is in numbers, and what the API is like."""

DEVELOPER: Final = Principal("api", "default", frozenset({"operator", "tenant_admin"}), kind="development")
"""Who acts where nobody is asked who they are: able to use every route, and to decide only what an operator may."""

PLENTY: Final = Rate(1_000_000, 100_000)

_CALLER: Final = "orchestrator.caller"
_DECIDED: Final = "orchestrator.decided"
_LOGIN: Final = "/auth/session"
_SCHEME: Final = "bearer"
_LONGEST: Final = 8192 + 16


class Reception:
    """Tells callers apart, counts what they ask for, and asks the policy what they may do."""

    def __init__(
        self,
        *,
        judge: Judge | None = None,
        ring: KeyRing | None = None,
        issuer: Issuer | None = None,
        rates: Rates | None = None,
        limits: Mapping[str, Rate] | None = None,
        anybody: Principal | None = None,
        session_s: int = 3600,
        agents: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`anybody` is who a request without a credential is taken for; without it, such a request is refused.

        `agents` are the capabilities of each agent's profile, by its name.
        """
        self._judge = judge
        self._issuer = issuer
        self._rates = rates or LocalRates()
        self._limits = limits or {}
        self._anybody = anybody
        self._agents = agents or {}
        self.ring = ring
        self.session_s = session_s

    # who

    def identified(self, headers: Headers, address: str) -> Principal:
        """Return who sent a request with these headers. Raises `Refused` with 401, or 429 for too many attempts."""
        shown = headers.getlist("authorization")
        if not shown and self._anybody is not None:
            return self._narrowed(self._anybody, headers)
        try:
            return self._narrowed(self._proved(shown), headers)
        except Unproven as error:
            log.info("caller.refused", why=str(error), address=address)
            taken = self._rates.take(f"login:{address}", self.rate("login"))
            if not taken.allowed:
                raise _too_often("login", taken) from error
            told = ', error="invalid_token"' if shown else ""
            raise Refused(
                401,
                "unauthenticated",
                "Say who you are: send an API key, a session or a token as `Authorization: Bearer …`."
                if not shown
                else "What this request shows proves nobody: it is unknown, expired, revoked or not made for this API.",
                headers={"WWW-Authenticate": f'Bearer realm="orchestrator"{told}'},
            ) from error

    def _proved(self, shown: list[str]) -> Principal:
        if len(shown) != 1:
            raise Unproven("it shows nothing" if not shown else "it shows several credentials")
        scheme, _, token = shown[0].partition(" ")
        token = token.strip()
        if scheme.lower() != _SCHEME or not token or len(shown[0]) > _LONGEST or not token.isascii():
            raise Unproven("it shows nothing of the form that is asked for")
        if KeyRing.knows(token):
            who = self.ring.proved(token) if self.ring is not None else None
            if who is None:
                raise Unproven("its key or session is unknown, wrong, expired or taken back")
            return who
        if self._issuer is None:
            raise Unproven("it shows a token, and no issuer is trusted")
        return self._issuer.proved(token)

    def still(self, who: Principal) -> bool:
        """Whether a caller who was identified may still be here: their key, session or token has not ended meanwhile."""
        if who.until is not None and datetime.now(UTC) >= who.until:
            return False
        try:
            return self.ring is None or self.ring.holds(who)
        except Unavailable:
            return True  # nobody can say; the request before was lawful, and the next is asked again

    @staticmethod
    def _narrowed(who: Principal, headers: Headers) -> Principal:
        """Take away what the request itself says to do without."""
        roles, scopes = headers.get("x-roles"), headers.get("x-scopes")
        if roles is not None:
            who = who.narrowed(roles.replace(",", " ").split())
        if scopes is not None:
            try:
                wanted = rules.scopes(scopes.replace(",", " ").split())
            except Invalid as error:
                raise Refused(422, "invalid_request", f"X-Scopes: {error}") from error
            kept = {scope for scope in wanted if who.reaches(scope)}
            # what the credential names more narrowly than the header stays as narrow as it is
            kept |= {scope for scope in who.scopes if replace(who, scopes=wanted).reaches(scope)}
            who = replace(who, scopes=tuple(sorted(kept)))
        return who

    # how often

    def rate(self, kind: str) -> Rate:
        """Return the rate of a class of routes: `read`, `write` or `login`."""
        return self._limits.get(kind, PLENTY)

    def counted(self, who: Principal, method: str, path: str) -> tuple[str, Taken]:
        """Count a request. Raises `Refused` with 429 when it is one too many."""
        looks = method in {"GET", "HEAD", "OPTIONS"} and path not in ASKS_BY_GET
        kind = "read" if looks else "login" if (method, path) == ("POST", _LOGIN) else "write"
        taken = self._rates.take(f"{kind}:{who.tenant}:{who.name}", self.rate(kind))
        if not taken.allowed:
            raise _too_often(kind, taken)
        return kind, taken

    # may they

    def permit(self, who: Principal, action: str, *, profile: str | None = None) -> Judgement | None:
        """Return the decision that allows the action; `None` in development without a policy.

        Raises `Refused` with 403 unless the policy allows it, or `Unavailable` when it cannot answer.
        """
        if self._judge is None:
            if who.kind == DEVELOPER.kind:
                return None
            raise Unavailable("There is no policy that says what callers may do, so none may do anything.")
        asked: list[Mapping[str, Json]] = [{}]
        if profile is not None:
            asked.append({"agent": self._agent(profile)})  # besides, and not instead: it can only take away
        ruling: Judgement | None = None
        for context in asked:
            ruling = self._judge.decide(ACTIONS, rules.document(who, action, context))
            if ruling.failed:
                raise Unavailable("The policy cannot answer now whether you may do this; try again soon.")
            if not ruling.allow:
                raise Refused(
                    403,
                    "forbidden",
                    f"You may not do this: {action} is not allowed to {who.name}.",
                    reasons=[{"reason": r.reason, "capability": r.capability} for r in ruling.reasons],
                )
        return ruling

    def _agent(self, profile: str) -> Json:
        found = self._agents.get(profile)
        return {"name": profile, "known": found is not None, "capabilities": list(found or ())}


def _too_often(kind: str, taken: Taken) -> Refused:
    wait_s = max(1, math.ceil(taken.retry_s))
    return Refused(
        429,
        "rate_limited",
        f"This is more than you may ask for at once; come again in {wait_s} s.",
        headers={"Retry-After": str(wait_s), "RateLimit": f'"{kind}";r=0;t={wait_s}'},
    )


def development(judge: Judge | None = None) -> Reception:
    """Return a reception that asks nobody who they are: for development, and for tests of something else."""
    return Reception(judge=judge, anybody=DEVELOPER)


def reception(
    settings: Settings,
    *,
    ring: KeyRing,
    rates: Rates,
    judge: Judge,
    agents: Mapping[str, Sequence[str]] | None = None,
) -> Reception:
    """Return the reception that the settings ask for. Raises `Misconfigured`."""
    if settings.dev_anonymous:
        log.warning(
            "identity.off", caller=DEVELOPER.name, tenant=DEVELOPER.tenant, roles=sorted(DEVELOPER.roles)
        )
    per_minute = {
        "read": settings.rate_read_per_minute,
        "write": settings.rate_write_per_minute,
        "login": settings.rate_login_per_minute,
    }
    return Reception(
        judge=judge,
        ring=ring,
        issuer=_issuer(settings),
        rates=rates,
        limits={
            kind: Rate(count, max(1, round(count * settings.rate_burst_s / 60)))
            for kind, count in per_minute.items()
        },
        anybody=DEVELOPER if settings.dev_anonymous else None,
        session_s=settings.session_ttl_s,
        agents=agents,
    )


def _issuer(settings: Settings) -> Issuer | None:
    if not (settings.oidc_issuer or settings.oidc_audience or settings.oidc_jwks_url):
        return None
    return Issuer(
        Trust(
            issuer=settings.oidc_issuer,
            audience=settings.oidc_audience,
            jwks_url=settings.oidc_jwks_url,
            algorithms=tuple(settings.oidc_algorithms.split()),
            leeway_s=settings.oidc_leeway_s,
            roles_claim=settings.oidc_roles_claim,
            role_prefix=settings.oidc_role_prefix,
            tenant_claim=settings.oidc_tenant_claim,
        )
    )


class Gatehouse:
    """Lets nobody further whose identity is not verified, or who asks too often; a body is read only after that."""

    def __init__(self, app: ASGIApp, *, reception: Reception) -> None:
        self._app = app
        self._reception = reception

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its caller, unless it is refused."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        address = (scope.get("client") or ("unknown",))[0]

        def asked() -> tuple[Principal, str, Taken]:
            try:
                who = self._reception.identified(headers, address)
            except Unavailable as error:
                log.warning("caller.refused", why=str(error), address=address)
                raise Refused(
                    503,
                    error.code,
                    "Who you are cannot be looked up now; try again soon.",
                    headers={"Retry-After": "1"},
                ) from error
            return (who, *self._reception.counted(who, scope["method"], scope["path"]))

        who, kind, taken = await run_sync(asked)
        scope[_CALLER] = who
        rate = self._reception.rate(kind)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                answered["RateLimit-Policy"] = f'"{kind}";q={rate.per_minute:g};w=60'
                answered["RateLimit"] = f'"{kind}";r={taken.remaining};t={math.ceil(taken.reset_s)}'
            await send(message)

        await self._app(scope, receive, answer)


def acts(action: str) -> Callable[[Request], Principal]:
    """Return a dependency that lets a caller in who may take this action, and says who it is."""

    # not a coroutine: a decision takes milliseconds of a thread's time, which the event loop has not
    def caller(request: Request) -> Principal:
        who: Principal | None = request.scope.get(_CALLER)
        if who is None:
            raise Refused(
                401,
                "unauthenticated",
                "Nobody has asked who you are; this API is put together wrongly, and lets nobody in.",
                headers={"WWW-Authenticate": 'Bearer realm="orchestrator"'},
            )
        profile = request.headers.get("x-agent-profile")
        request.scope[_DECIDED] = action, _reception(request).permit(who, action, profile=profile)
        return who

    caller.action = action  # type: ignore[attr-defined]  # for whoever walks the routes
    return caller


def decided(request: Request, action: str) -> Judgement | None:
    """Return the decision by which this request was let in to take this action, for whoever would ask the same again."""
    found: tuple[str, Judgement | None] = request.scope.get(_DECIDED, ("", None))
    return found[1] if found[0] == action else None


reads = acts
"""The same for a route that only looks; both names, so that a reader sees which is which."""


async def _reception_of(request: Request) -> Reception:
    return _reception(request)


def _reception(request: Request) -> Reception:
    found: Reception = request.app.state.reception
    return found


Front = Annotated[Reception, Depends(_reception_of)]
"""The reception, for a route that opens or ends sessions."""


def actions_of(route: APIRoute) -> frozenset[str]:
    """Return the actions that a route asks the policy about."""

    def found(dependant: Any) -> frozenset[str]:
        own = getattr(dependant.call, "action", None)
        inner = (found(each) for each in dependant.dependencies)
        return frozenset({own} if own else ()).union(*inner)

    return found(route.dependant)


def refuse_unguarded(routes: list[Any]) -> None:
    """Raise `RuntimeError` for a route that names no action and is not open: a fault of whoever wrote it."""
    for route in routes:
        if isinstance(route, APIRoute) and route.path not in OPEN and not actions_of(route):
            raise RuntimeError(f"The route {route.path} names no action, so anybody could use it.")
