"""`orchestrator audit`: the sealed record of what was decided and done, whether it still holds, and proofs of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from orchestrator import shapes
from orchestrator.domain.errors import Conflict, Invalid, NotFound
from orchestrator.domain.plan import AuditRecord, Json, canonical
from workers.cli import doors, flags, view
from workers.cli.exits import FAILED, FINE, Ended

if TYPE_CHECKING:
    from orchestrator.vault.checkpoint import Fault
    from orchestrator.vault.examine import Examined, Series
    from orchestrator.vault.signing import Ring
    from orchestrator.wiring import Core

_DIGEST: Final = re.compile("[0-9a-f]{64}")
_NAMED: Final = 20
_SETTLING_S: Final = 0.5

app = typer.Typer(no_args_is_help=True, help="Verify, prove and show the audit trail.")

PublicKey = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        metavar="FILE",
        help="The public keys to believe, as `audit keys` printed them. By default those on this machine.",
        show_default=False,
    ),
]


@app.command()
def verify(
    plan: Annotated[
        str | None,
        typer.Argument(
            metavar="[PLAN]",
            help="Only this plan: its id, or at least its first 4 characters.",
            show_default=False,
        ),
    ] = None,
    *,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            "--checkpoints",
            metavar="FILE",
            help="The file of checkpoints to compare with. By default that of the setting `checkpoint_file`.",
            show_default=False,
        ),
    ] = None,
    public_key: PublicKey = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Check every record against its seal, its plan and all checkpoints, and name each fault that is found."""
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator.vault import examine

    with doors.opened(doors.settings(data)) as core:
        ring = _ring(core, public_key)
        inside, outside, faults = _places(core, ring, checkpoints)
        only = None if plan is None else _chain(core, plan, (inside, outside))
        started = time.perf_counter()
        with view.waiting("Checking …") as shown:
            done = examine.examine(
                core.store, core.sealer, (inside, outside), only=only, progress=_progress(shown)
            )
        spent_s = time.perf_counter() - started
    found = [*inside.faults, *(outside.faults if outside else ()), *faults, *done.faults]
    _put_verdict(done, found, inside, outside, spent_s, as_json=as_json)
    raise Ended(FAILED if found else FINE)


@app.command()
def checkpoint(*, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Sign now where all chains stand, and append that to the file outside the database."""
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator import wiring

    chosen = doors.settings(data)
    with doors.opened(chosen) as core:
        made = wiring.notary(chosen, core.store).step()
    file = str(wiring.outside(chosen).path)
    if as_json:
        listed = [
            {"number": one.number, "at": one.at, "chains": one.size, "root": one.root.hex()} for one in made
        ]
        view.put_json({"made": listed, "file": file})
        return
    for one in made:
        view.put(
            f"Checkpoint {one.number} covers {view.many(one.size, 'chain')}, root {one.root.hex()[:16]}…."
        )
    view.put(f"It is in {file}." if made else "Nothing has happened since the last checkpoint.")


@app.command()
def prove(
    plan: flags.PlanId,
    record: Annotated[
        int | None,
        typer.Argument(
            metavar="[RECORD]",
            min=1,
            help="The record's number; by default the last that is covered.",
            show_default=False,
        ),
    ] = None,
    *,
    _: Annotated[
        bool, typer.Option("--json", help="Taken, as by every verb: a proof is JSON anyway.")
    ] = False,
    data: flags.Data = None,
) -> None:
    """Print a proof, as JSON, that a record is under a signed checkpoint; `audit check` needs the public key only."""
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator.vault import examine, proof

    with doors.opened(doors.settings(data)) as core:
        ring = _ring(core, None)
        inside = examine.inside(core.store, ring)
        chain = _chain(core, plan, (inside,))
        with core.store.snapshot() as tx:
            records = tx.audit(chain)
        covering = [
            (leaf.count, one) for one in inside.believed for leaf in one.leaves if leaf.chain == chain
        ]
        number = record or max((count for count, _ in covering), default=0)
        if number > len(records):
            raise NotFound("record", f"{number} of plan {view.short(chain)}")
        fitting = next((one for count, one in covering if count >= max(number, 1)), None)
        if fitting is None:
            raise Conflict("No checkpoint covers this record yet; `orchestrator audit checkpoint` makes one.")
        made = proof.prove(records, number, fitting)
        broken = proof.check(made, ring)
        if broken is not None:
            raise Conflict(
                f"This record cannot be proved: {broken.said}. `orchestrator audit verify` says what was done to it."
            )
    view.put_json(made)


@app.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="What `audit prove` printed, or the manifest of an export.",
        ),
    ],
    *,
    public_key: PublicKey = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Check a proof or an export. It needs no database and no key but the public one."""
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator.vault import proof

    ring = _ring_of(public_key, data)
    stated = _document(file)
    if "export" in stated:
        records, faults = proof.check_export(stated, _exported(file, stated), ring)
        held = f"{view.many(records, 'record')} hold, as exported at {stated['export'].get('at')}"
    else:
        broken, records = proof.check(stated, ring), 1
        faults = [broken] if broken else []
        body = stated["checkpoint"]
        held = (
            f"Record {stated['record']['number']} ({stated['record']['kind']}) of {stated['record']['chain']} "
            f"is under checkpoint {body['number']} of {body['at']}"
        )
    if as_json:
        view.put_json({"ok": not faults, "records": records, "faults": [_fault_json(one) for one in faults]})
    else:
        for one in faults:
            view.put(_sentence(one))
        if not faults:
            view.put(f"{held}, signed with {stated['key_id']}.")
    raise Ended(FAILED if faults else FINE)


@app.command()
def export(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Where to write the records; the manifest goes beside it."),
    ],
    plan: Annotated[
        str | None,
        typer.Argument(
            metavar="[PLAN]",
            help="Only this plan: its id, or at least its first 4 characters.",
            show_default=False,
        ),
    ] = None,
    *,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Write records and checkpoints as JSON lines, and a signed manifest, for `audit check` and for other programs."""
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator import wiring
    from orchestrator.vault import examine, proof

    chosen = doors.settings(data)
    with doors.opened(chosen) as core:
        signer, ring = wiring.signer(chosen)
        inside = examine.inside(core.store, ring)
        only = None if plan is None else _chain(core, plan, (inside,))
        digest, chains, records = hashlib.sha256(), 0, 0
        with _opened_new(file) as out, view.waiting("Writing …") as shown:
            tell = _progress(shown)
            for one in inside.found.values():
                if only is None or any(leaf.chain == only for leaf in one.leaves):
                    _write(out, digest, one.line())
            for heads, rows in examine.pages(core.store, only):
                for row in rows:
                    _write(out, digest, proof.record_line(row))
                chains, records = chains + len(heads), records + len(rows)
                tell(records)
        with core.store.transaction() as tx:
            at = tx.now().isoformat()
    counts: dict[str, Json] = {"file": file.name, "chains": chains, "records": records, "plan": only}
    made = proof.manifest(signer, digest=digest.hexdigest(), counts=counts, at=at)
    beside = file.with_name(f"{file.name}.manifest.json")
    beside.write_bytes(canonical(made) + b"\n")
    if as_json:
        view.put_json(
            {"file": str(file), "manifest": str(beside), "records": records, "sha256": digest.hexdigest()}
        )
    else:
        view.put(f"Wrote {view.many(records, 'record')} to {file}, and {beside.name} beside it.")


@app.command()
def keys(
    *,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Let a new key sign from now on; the old ones go on verifying.")
    ] = False,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Print the public keys of checkpoints, one a line, the newest last. Give them to whoever is to check."""
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator import wiring

    chosen = doors.settings(data)
    if rotate:
        new = wiring.rotate_signer(chosen)
        view.tell(f"{new.key_id} signs from now on; start the processes that sweep again.", "green")
    else:
        wiring.signer(chosen)
    ring = wiring.public_keys(chosen).read_text(encoding="utf-8")
    if as_json:
        view.put_json({"keys": ring.splitlines()})
    else:
        view.put(ring)


@app.command()
def explain(
    plan: flags.PlanId,
    record: Annotated[
        int | None,
        typer.Argument(
            metavar="[RECORD]",
            min=1,
            help="The number of a `tool.intent`; by default every call.",
            show_default=False,
        ),
    ] = None,
    *,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Tell of each call who asked for it, what decided, under which policy, who approved, and what evidence it left."""
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator.vault import examine
    from orchestrator.vault import explain as explaining

    with doors.opened(doors.settings(data)) as core:
        chain = doors.find_plan(core, plan).plan_id
        inside = examine.inside(core.store, _ring(core, None))
        with core.store.snapshot() as tx:
            head, records = tx.head(chain), tx.audit(chain)
    promised = examine.promises(inside).get(chain, ())
    faults = examine.faults_of(head, records, promised, core.sealer) if head else []
    told = [one for one in explaining.calls(records) if record in {None, one["record"]}]
    if record is not None and not told:
        raise NotFound("call", f"record {record} of plan {view.short(chain)}")
    covered = {
        number: next((p.checkpoint for p in promised if p.leaf.count >= number), None)
        for number in range(1, len(records) + 1)
    }
    if as_json:
        listed = [{**one, "checkpoint": covered.get(_int(one["record"]))} for one in told]
        view.put_json({"plan_id": chain, "holds": not faults, "calls": listed})
    else:
        for one in told:
            view.put_pairs(_account(one, covered.get(_int(one["record"]))))
            view.put("")
        if not told:
            view.tell("No call was made.")
        for fault in faults:
            view.put(_sentence(fault))
    raise Ended(FAILED if faults else FINE)


@app.command()
def blind(*, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Print the keyed digest of a text from standard input, as records have it: to look for a goal that you know."""
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator import wiring
    from orchestrator.vault.chain import Sealer

    text = sys.stdin.read().removesuffix("\n")
    digest = Sealer(wiring.audit_key(doors.settings(data))).blind(text)
    if as_json:
        view.put_json({"digest": digest})
    else:
        view.put(digest)


@app.command()
def show(plan: flags.PlanId, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Print a plan's records in the order in which they were sealed."""
    with doors.opened(doors.settings(data)) as core:
        found = doors.find_plan(core, plan)
        with core.store.transaction() as tx:
            records = tx.audit(found.plan_id)
    if as_json:
        view.put_json({"plan_id": found.plan_id, "records": [shapes.audit(r) for r in records]})
        return
    view.put_table(
        ("record", "at", "what", "facts"),
        [(r.number, _at(r), r.kind, _said(r)) for r in records],
        empty="There are no records.",
    )


def _at(record: AuditRecord) -> str:
    body = shapes.body_of(record)
    return str(body.get("at", "")).replace("T", " ")[:19] if isinstance(body, Mapping) else ""


def _said(record: AuditRecord) -> str:
    body: Any = shapes.body_of(record)
    if not isinstance(body, Mapping):
        return view.one_line(body)
    shown = {k: v for k, v in body.items() if k != "at" and v not in (None, "")}
    return "  ".join(f"{key}={_brief(value)}" for key, value in shown.items())


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return view.one_line(value.get("effect") or canonical(value).decode(), 60)
    text = str(value)
    return text[:12] if _DIGEST.fullmatch(text) else view.one_line(text, 60)


# --- what the verbs share -----------------------------------------------------------------------------------------


def _ring(core: Core, public_key: Path | None) -> Ring:
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator import wiring

    return wiring.signer(core.settings)[1] if public_key is None else _ring_of(public_key, None)


def _ring_of(public_key: Path | None, data: Path | None) -> Ring:
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator import wiring
    from orchestrator.vault import signing

    file = public_key or wiring.public_keys(doors.settings(data))
    try:
        return signing.read(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"The public keys in {file} cannot be read; name them with --public-key.") from error


def _places(core: Core, ring: Ring, given: Path | None) -> tuple[Series, Series | None, Sequence[Fault]]:
    """The checkpoints of the database and of the file, and what the two tell differently."""
    found = _compared(core, ring, given)
    if found[2] and found[1] is not None:
        time.sleep(_SETTLING_S)  # one that is made just now is in the database before it is in the file
        found = _compared(core, ring, given)
    return found


def _compared(core: Core, ring: Ring, given: Path | None) -> tuple[Series, Series | None, Sequence[Fault]]:
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator import wiring
    from orchestrator.vault import examine
    from orchestrator.vault.checkpoint import Fault
    from orchestrator.vault.outside import Outside

    file = Outside(given) if given is not None else wiring.outside(core.settings)
    # the file first: whatever it has was in the database before
    lines = file.lines() if file.exists else None
    inside = examine.inside(core.store, ring)
    if lines is not None:
        outside = examine.follow(lines, ring, "the file", damaged="file_damaged")
        return inside, outside, examine.compare(inside, outside)
    if given is not None:
        raise Invalid(f"There is no file {given}.")
    faults = examine.compare(inside, None)
    if inside.found:
        said = f"there is no file {file.path}; name where it is kept with --checkpoints"
        faults.append(Fault("file_gone", said))
    return inside, None, faults


def _chain(core: Core, given: str, places: Sequence[Series | None]) -> str:
    """The chain of a plan; of one that was deleted too, if a checkpoint knows it."""
    try:
        return doors.find_plan(core, given).plan_id
    except NotFound:
        known = {leaf.chain for place in places if place for one in place.believed for leaf in one.leaves}
        fitting = [chain for chain in known if chain.startswith(given.strip().lower())]
        if len(fitting) != 1:
            raise
        return fitting[0]


def _progress(shown: object) -> Any:
    update = getattr(shown, "update", None)

    def tell(records: int) -> None:
        if update is not None:
            update(f"{records:,} records …")

    return tell


def _put_verdict(
    done: Examined,
    faults: Sequence[Fault],
    inside: Series,
    outside: Series | None,
    spent_s: float,
    *,
    as_json: bool,
) -> None:
    rate = round(done.records / spent_s) if spent_s > 0 else 0
    newest = max(inside.newest, outside.newest if outside else 0)
    if as_json:
        view.put_json(
            {
                "ok": not faults,
                "plans": done.plans,
                "records": done.records,
                "seconds": round(spent_s, 6),
                "records_per_s": rate,
                "breaks": [_fault_json(one) for one in faults],
                "checkpoints": {
                    "newest": newest,
                    "in_database": len(inside.found),
                    "in_file": len(outside.found) if outside else None,
                    "records_not_covered": done.uncovered,
                },
            }
        )
        return
    for one in faults[:_NAMED]:
        view.put(_sentence(one))
    if len(faults) > _NAMED:
        view.put(f"And {view.many(len(faults) - _NAMED, 'fault')} more; --json lists all.")
    counted = f"{view.many(done.records, 'record')} of {view.many(done.plans, 'plan')}"
    told = "every chain holds" if not faults else f"{view.many(len(faults), 'fault')} found"
    view.put(f"Checked {counted} in {spent_s * 1000:,.1f} ms ({rate:,} records/s): {told}.")
    if not newest:
        view.put("There is no checkpoint yet, so that a cut tail or a deleted plan may go unseen.")
    elif done.uncovered:
        since = "has" if done.uncovered == 1 else "have"
        view.put(f"{view.many(done.uncovered, 'record')} {since} come since the last checkpoint ({newest}).")


def _sentence(fault: Fault) -> str:
    where = f"plan {view.short(fault.chain)}: " if fault.chain else ""
    return f"Broken: {where}{fault.said}. [{fault.name}]"


def _fault_json(fault: Fault) -> Mapping[str, object]:
    return {
        "plan_id": fault.chain or None,
        "record": fault.record or None,
        "name": fault.name,
        "fault": fault.said,
    }


def _int(number: object) -> int:
    return number if isinstance(number, int) else 0


def _account(told: Mapping[str, Any], checkpoint_number: int | None) -> Sequence[tuple[str, str]]:
    """A call's account, a name and a sentence a line."""
    asked, decision, came = told["asked"] or {}, told["decision"] or {}, told["outcome"] or {}
    approved = [f"{a['by']} at {a['at']} (record {a['record']})" for a in told["approvals"]]
    evidence = came.get("evidence")
    return (
        ("call", f"{told['tool']} by {told['agent']} in step {told['step']}, at {told['at']}"),
        ("record", f"{told['record']}, {_under(checkpoint_number)}"),
        ("asked by", f"{asked.get('by')} of tenant {asked.get('tenant')} (record {asked.get('record')})"),
        ("decision", f"{decision.get('effect')} ({decision.get('decision_id')}, {decision.get('engine')})"),
        ("policy", f"revision {decision.get('revision')}, input SHA-256 {decision.get('input_sha256')}"),
        ("approved by", ", ".join(approved) or "nobody was asked"),
        ("arguments", f"SHA-256 {told['arguments_digest']}"),
        ("outcome", f"{came['state']} (record {came['record']})" if came else "not recorded yet"),
        ("evidence", f"SHA-256 {evidence}" if evidence else "none"),
    )


def _under(number: int | None) -> str:
    return f"under checkpoint {number}" if number else "under no checkpoint yet"


def _document(file: Path) -> Any:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid(f"{file} holds no JSON document.") from error
    if not isinstance(found, Mapping) or not {"export", "checkpoint"} & set(found):
        raise Invalid(f"{file} is neither a proof nor the manifest of an export.")
    return found


def _exported(manifest: Path, stated: Mapping[str, Any]) -> bytes:
    body = stated["export"]
    named = manifest.with_name(Path(str(body.get("file", ""))).name if isinstance(body, Mapping) else "")
    try:
        return named.read_bytes()
    except OSError as error:
        raise Invalid(f"The export {named} is not beside its manifest.") from error


def _opened_new(file: Path) -> Any:
    try:
        # only its owner may read it: reasons and comments are in it
        return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise Invalid(f"{file} cannot be made ({error.strerror}); name a new file.") from error


def _write(out: Any, digest: Any, line: bytes) -> None:
    out.write(line)
    digest.update(line)
