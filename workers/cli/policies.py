"""`orchestrator policy`: what the policy allows and why, whether it holds its own tests, and what is wrong with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from orchestrator import house, shapes
from orchestrator.domain import identity
from orchestrator.domain import stop as rules
from orchestrator.domain.errors import Invalid, Misconfigured, NotFound, Unavailable
from orchestrator.domain.identity import Principal
from orchestrator.domain.plan import Agent
from orchestrator.domain.stop import Stop
from workers.cli import doors, flags, view
from workers.cli.exits import FAILED, Ended

if TYPE_CHECKING:
    from orchestrator.settings import Settings
    from orchestrator.switch import Switch
    from orchestrator.wiring import Core
    from workers.gate.policy import Decision, Enforcer

app = typer.Typer(no_args_is_help=True, help="Test, explain, check and pack the policy.")

MEANINGS: Final[Mapping[str, str]] = {
    "missing_capability": "neither the agent's profile nor a role grants it",
    "approval_required": "it is granted, and waits for a human",
    "run_mode_mismatch": "it belongs to another run mode",
    "agent_profile_missing": "the agent has no profile",
    "outside_profile": "the agent that the request is made as has a profile that does not grant it",
    "unknown_action": "there is no such action",
    "unknown_role": "there is no such role",
    "tenant_mismatch": "it concerns another tenant",
    "missing_role": "no role of the caller may do it",
    "outside_scopes": "the key or token is narrower than the caller's roles",
    "stopped": "somebody stopped it; `orchestrator policy stops` says why",
    "egress_denied": "it would reach a host that is not on the list, or no public one",
    "tainted_way_out": "the plan has read what others wrote and what is confidential, and this could carry it out",
    "schema_changed": "the tool does not describe itself as it did when it was pinned",
    "sandbox_unenforced": "it would run code where the sandbox does not hold; `orchestrator sandbox check` says why",
    "quota_spent": "the plan has made as many calls of this tool as it may",
}
"""What each reason means, for a person."""

_Folder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--policies",
        metavar="DIR",
        help="A folder of policies instead of this program's.",
        show_default=False,
    ),
]
_Server: TypeAlias = Annotated[bool, typer.Option("--server", help="Ask the OPA server that opa_url names.")]


@app.command("test")
def try_out(*, policies: _Folder = None, server: _Server = False, as_json: flags.AsJson = False) -> None:
    """Decide every row of the policy's tables, and tell which are not decided as written."""
    from workers.gate import policy  # takes a second, which help and usage errors should not wait for

    folder = _folder(policies)
    try:
        tried = list(policy.trial(folder, _server() if server else None))
    except policy.PolicyLoadError as error:
        raise Misconfigured(str(error)) from error
    if server and all(t.decision.failed for t in tried):
        raise Unavailable(tried[0].decision.detail if tried else "There is no row to ask about.")
    wrong = [t for t in tried if not t.fits]
    if as_json:
        rows = [
            {"table": t.table, "row": t.row, "package": t.package, "told": t.told, "expected": t.expected}
            for t in wrong
        ]
        view.put_json({"ok": not wrong, "rows": len(tried), "wrong": rows})
    else:
        if wrong:
            rows_told = [(t.row, t.package, t.told, t.expected) for t in wrong]
            view.put_table(("row", "package", "decided", "expected"), rows_told)
        told = view.many(len(tried), "row")
        view.tell(
            f"{len(wrong)} of {told} are decided otherwise." if wrong else f"{told} are decided as written.",
            "red" if wrong else "green",
        )
    if wrong or not tried:
        raise Ended(FAILED)


@app.command()
def explain(
    *,
    document: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="FILE", help="An input document as JSON; - reads it.", show_default=False
        ),
    ] = None,
    package: Annotated[
        str | None,
        typer.Option("--package", metavar="NAME", help="The package to ask.", show_default=False),
    ] = None,
    action: Annotated[
        str | None,
        typer.Option("--action", metavar="NOUN.VERB", help="An action of the API.", show_default=False),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role", metavar="ROLE", help="A role of the caller; may be repeated.", show_default=False
        ),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope", metavar="SCOPE", help="A scope of its key; may be repeated.", show_default=False
        ),
    ] = None,
    agent: Annotated[
        Agent | None, typer.Option("--agent", help="An agent that wants to call a tool.", show_default=False)
    ] = None,
    tool: Annotated[
        str | None, typer.Option("--tool", metavar="NAME", help="The tool.", show_default=False)
    ] = None,
    policies: _Folder = None,
    server: _Server = False,
    as_json: flags.AsJson = False,
) -> None:
    """Say whether something may happen and why: an action with roles, an agent with a tool, or an input document."""
    named, asked = _question(document, package, action, role or [], scope, agent, tool)
    decision = (_server() if server else _enforcer(policies)).decide(named, asked)
    if decision.failed:
        raise Unavailable(f"The policy could not answer. {decision.detail}")
    if as_json:
        view.put_json({"package": named, "input": asked, **_as_json(decision)})
    else:
        _tell(named, decision)
        if agent is not None:
            view.tell(
                "This is what may be called at all. Each call is asked about with its hosts, what its plan has read and what "
                "is stopped; `orchestrator policy stops` lists that."
            )


@app.command()
def lint(*, policies: _Folder = None, as_json: flags.AsJson = False) -> None:
    """Find what Rego engines read differently, and what lets a denial be skipped."""
    from workers.gate import lint as linter  # takes a second, which help and usage errors should not wait for

    found = linter.lint(_folder(policies))
    if as_json:
        view.put_json({"ok": not found, "findings": [asdict(finding) for finding in found]})
    elif found:
        view.put_table(("where", "trap", "why"), [(f"{f.file}:{f.line}", f.trap, f.said) for f in found])
    else:
        view.tell("No trap was found.", "green")
    if found:
        raise Ended(FAILED)


@app.command()
def bundle(
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")],
    policies: _Folder = None,
    as_json: flags.AsJson = False,
) -> None:
    """Pack the policy for an OPA server, with its revision; only one that holds its own tests."""
    from workers.gate import policy  # takes a second, which help and usage errors should not wait for

    folder = _folder(policies)
    try:
        packed, revision = policy.bundle(folder), policy.EmbeddedEnforcer(folder).revision
    except policy.PolicyLoadError as error:
        raise Misconfigured(str(error)) from error
    beside = out.with_name(f".{out.name}.new")
    try:
        beside.write_bytes(packed)
        beside.replace(out)  # a server that watches it never reads half of it
    except OSError as error:
        raise Invalid(f"The bundle cannot be written to {out}: {error.strerror}.") from error
    if as_json:
        view.put_json({"file": str(out), "revision": revision, "bytes": len(packed)})
    else:
        view.tell(f"Revision {revision} is in {out}.", "green")


_Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="all, tenant:NAME, tool:NAME, agent:NAME or plan:ID.", show_default=False
    ),
]


_OfTenant: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="TENANT",
        help="For this tenant alone, whose own people may lift it. Without it everywhere.",
        show_default=False,
    ),
]
_InFile: TypeAlias = Annotated[
    bool, typer.Option("--file", help="In the file of this machine, which needs no database.")
]


@app.command()
def stop(
    target: _Target,
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for whoever lifts it.")],
    tenant: _OfTenant = None,
    in_file: _InFile = False,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Throw the kill switch: no call of the target is made any more, and its steps are tried again later."""
    told, why = rules.target(target), rules.reason(reason)
    if in_file:
        file, stopped = _stopped(data, tenant)
        _put(file, {**stopped, told: why})
        _tell_stops(_from_file({**stopped, told: why}), as_json=as_json)
        return
    with doors.opened(doors.settings(data)) as core:
        switch = _switch(core)
        switch.stop(_who(tenant), told, why, everywhere=tenant is None)
        _tell_stops(_in_database(switch), as_json=as_json)


@app.command()
def resume(
    target: _Target,
    *,
    tenant: _OfTenant = None,
    in_file: _InFile = False,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Lift what `policy stop` stopped, with the same options."""
    told = rules.target(target)
    if in_file:
        file, stopped = _stopped(data, tenant)
        if told not in stopped:
            raise NotFound("stop of", told)
        left = {name: why for name, why in stopped.items() if name != told}
        _put(file, left)
        _tell_stops(_from_file(left), as_json=as_json)
        return
    with doors.opened(doors.settings(data)) as core:
        switch = _switch(core)
        switch.resume(_who(tenant), told, everywhere=tenant is None)
        _tell_stops(_in_database(switch), as_json=as_json)


@app.command()
def stops(*, in_file: _InFile = False, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """List what is stopped, for whom, by whom and why: in the database, and in the file of this machine."""
    if in_file:
        _tell_stops(_from_file(_stopped(data)[1]), as_json=as_json)
        return
    with doors.opened(doors.settings(data)) as core:
        everything = [*_in_database(_switch(core)), *_from_file(_in_file(core.settings)[1])]
    _tell_stops(everything, as_json=as_json)


def _switch(core: Core) -> Switch:
    # takes a second, which help and usage errors should not wait for
    from orchestrator.switch import Switch

    return Switch(core.store, core.sealer)


def _who(tenant: str | None) -> Principal:
    """Whoever can read the folder and its keys, who is an administrator of every tenant."""
    return Principal(doors.PERSON, identity.tenant(tenant or "default"), frozenset({"fleet_operator"}))


def _in_database(switch: Switch) -> list[dict[str, Any]]:
    return [{**shapes.stop(each), "where": "database"} for each in switch.listed()]


def _from_file(stopped: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{**shapes.stop(Stop(target, why)), "where": "file"} for target, why in stopped.items()]


def _stopped(data: Path | None, tenant: str | None = None) -> tuple[Path, Mapping[str, str]]:
    if tenant is not None:
        raise Invalid("The file of a machine stops for all tenants; name one by the target tenant:NAME.")
    return _in_file(doors.settings(data))


def _in_file(chosen: Settings) -> tuple[Path, Mapping[str, str]]:
    from workers import wiring  # takes a second, which help and usage errors should not wait for
    from workers.gate import stops as switch

    try:
        return chosen.stops, wiring.stops(chosen).now()
    except switch.StopsUnreadableError as error:
        if not chosen.stops.exists():
            return chosen.stops, {}  # whoever writes it makes it
        raise Misconfigured(str(error)) from error


def _put(file: Path, stopped: Mapping[str, str]) -> None:
    from workers.gate import stops as switch

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        switch.put(file, stopped)
    except OSError as error:
        raise Invalid(f"The stops cannot be written to {file}: {error.strerror}.") from error


def _tell_stops(stopped: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        view.put_json({"stops": stopped})
    elif stopped:
        view.put_table(
            ("stopped", "for", "why", "by", "since", "in the"),
            [
                (s["target"], s["tenant"] or "everybody", s["reason"], s["by"], s["at"], s["where"])
                for s in stopped
            ],
        )
    else:
        view.tell("Nothing is stopped.", "green")


def _folder(given: Path | None) -> Path:
    folder = given or house.path("policies")
    if not folder.is_dir():
        raise NotFound("folder", str(folder))
    return folder


def _server() -> Enforcer:
    from workers import wiring  # takes a second, which help and usage errors should not wait for

    chosen = doors.settings(None)
    if not chosen.opa_url:
        raise Misconfigured("No server is configured: set ORCHESTRATOR_OPA_URL.")
    return wiring.enforcer(chosen)


def _enforcer(policies: Path | None) -> Enforcer:
    from workers.gate import policy  # takes a second, which help and usage errors should not wait for

    try:
        return policy.EmbeddedEnforcer(_folder(policies))
    except policy.PolicyLoadError as error:
        raise Misconfigured(str(error)) from error


def _question(
    document: str | None,
    package: str | None,
    action: str | None,
    roles: list[str],
    scopes: list[str] | None,
    agent: Agent | None,
    tool: str | None,
) -> tuple[str, dict[str, Any]]:
    from workers.gate import policy

    if [document is not None, action is not None, bool(agent and tool)].count(True) != 1:
        raise Invalid("Give --input with a document, or --action with --role, or --agent with --tool.")
    if document is not None:
        return package or policy.CAPABILITIES, _read(document)
    if action is not None:
        subject: dict[str, Any] = {"name": doors.PERSON, "tenant_id": "default", "roles": roles}
        if scopes is not None:
            subject["scopes"] = scopes
        told = {"subject": subject, "action": {"type": action, "tenant_id": "default"}, "context": {}}
        return package or policy.ACTIONS, told
    return policy.CAPABILITIES, _call(agent or Agent.RESEARCHER, tool or "")


def _call(agent: Agent, name: str) -> dict[str, Any]:
    """The question that the gate would ask about a first call of a tool."""
    from agents import profiles
    from workers.gate import policy
    from workers.toolhost import registry

    profile = profiles.load(house.path("agents")).get(agent)
    tool = registry.load(house.path("configs/tool_registry.yaml")).tools.get(name)
    if tool is None:
        raise NotFound("tool", name)
    return policy.Question(
        agent=agent.value,
        tool=tool.name,
        server=tool.server,
        held=profile.capabilities if profile else (),
        required=(tool.capability,),
        approval_policy=dict(profile.approval_policy) if profile else {},
        run_mode="any",
        tenant_id="default",
        plan_id="none",
        step=1,
        attempt=1,
        depth=1,
        cost_uusd=tool.cost_uusd,
        args_digest="0" * 64,
        trace_id="none",
        profile_known=profile is not None,
    ).document()


def _read(place: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if place == "-" else Path(place).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise Invalid(f"The input document cannot be read: {view.one_line(error, 200)}") from error
    if not isinstance(found, dict):
        raise Invalid("The input document must be a JSON object.")
    return found


def _as_json(decision: Decision) -> dict[str, Any]:
    return {
        "effect": decision.effect,
        "allow": decision.allow,
        "reasons": [
            {"reason": r.reason, "capability": r.capability, "meaning": MEANINGS.get(r.reason, "")}
            for r in decision.reasons
        ],
        "detail": decision.detail,
        "revision": decision.revision,
        "engine": decision.engine,
        "input_sha256": decision.input_digest,
    }


def _tell(package: str, decision: Decision) -> None:
    view.put(f"{decision.effect}, says {package} at revision {decision.revision} ({decision.engine})")
    rows = [(r.reason, r.capability, MEANINGS.get(r.reason, "")) for r in decision.reasons]
    if rows:
        view.put_table(("reason", "about", "which means"), rows)
    if decision.detail:
        view.put(decision.detail)
