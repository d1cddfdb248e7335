"""`orchestrator report`: show a report, and prove offline that it says only what its evidence contains."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator import export, shapes
from orchestrator.domain.errors import Invalid, NotFound
from orchestrator.domain.plan import AuditRecord, Plan, digest
from workers.cli import doors, flags, view
from workers.cli.exits import FAILED, Ended

if TYPE_CHECKING:
    from orchestrator.domain.report import Fault
    from orchestrator.wiring import Core

app = typer.Typer(no_args_is_help=True, help="Show reports, and prove what they say.")


class Format(StrEnum):
    """How a report is printed."""

    MD = "md"
    MARKDOWN = "markdown"
    JSON = "json"
    HTML = "html"
    PDF = "pdf"

    @property
    def form(self) -> export.Form:
        """The form of this name; Markdown has two."""
        return export.Form.MARKDOWN if self is Format.MARKDOWN else export.Form(self.value)


@app.command()
def show(
    plan: flags.PlanId,
    *,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="How to print it; by default as the name of --out ends, and Markdown without an end.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write it to a file instead.", show_default=False),
    ] = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Print a plan's report, or write it to a file: as Markdown, JSON, one page of HTML, or PDF."""
    wanted = export.Form.JSON if as_json else _form(form, out)
    check_out(out, wanted)
    if out is None and wanted is export.Form.PDF and view.is_terminal(sys.stdout):
        raise Invalid("A PDF would upset your terminal. Give --out FILE.")
    with doors.opened(doors.settings(data)) as core:
        _, report = _report(core, plan)
    if out is not None:
        write(out, report, wanted)
        view.tell(f"The report is in {out}.")
    elif wanted is export.Form.MARKDOWN:
        view.put_markdown(markdown(report))
    elif wanted is export.Form.JSON:
        view.put_json(shapes.report(report))
    else:
        view.put_bytes(_bytes(report, wanted))


def _form(given: Format | None, out: Path | None) -> export.Form:
    if given is not None:
        return given.form
    return export.of_file(out) if out is not None else export.Form.MARKDOWN


@app.command()
def verify(
    plan: flags.PlanId,
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="FILE",
            help="Also check that this file, in any form that `report show` writes, is the report.",
            show_default=False,
        ),
    ] = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Check a report again: its sentences, their evidence, and the seal it was written under.

    Every sentence must stand word for word in a quote that it cites; every quote in stored evidence, which must have
    the digest it is filed under; the report itself must be the one whose digest was sealed into the audit.
    """
    # reads a report by two dozen patterns, whose making no help should wait for
    from orchestrator.domain.report import Fault

    given = _read(file) if file is not None else None
    with doors.opened(doors.settings(data)) as core:
        found, report = _report(core, plan)
        checked = _check(core, found, report)
    if file is not None and given is not None and not _is_rendering(given, report):
        checked.faults.append(Fault(str(file), "it is not the report that is stored"))
    if as_json:
        view.put_json(checked.as_json())
    else:
        _print(checked)
    raise Ended(FAILED if checked.faults else 0)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a verification looked at, and what it found."""

    plan_id: str
    sentences: int
    citations: int
    sources: int
    records: int
    faults: list[Fault]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "plan_id": self.plan_id,
            "ok": not self.faults,
            "sentences": self.sentences,
            "citations": self.citations,
            "sources": self.sources,
            "audit_records": self.records,
            "faults": [{"where": f.where, "what": f.what} for f in self.faults],
        }


def _report(core: Core, given: str) -> tuple[Plan, Mapping[str, Any]]:
    plan = doors.find_plan(core, given)
    with core.store.transaction() as tx:
        report = tx.report(plan.plan_id)
    if report is None:
        raise NotFound("report of plan", f"{view.short(plan.plan_id)}: it is {view.state(plan.state)}")
    return plan, report


def _check(core: Core, plan: Plan, report: Mapping[str, Any]) -> Checked:
    # whoever opened the store has imported it
    from orchestrator.domain import report as domain

    with core.store.transaction() as tx:
        facts = {fact.name: fact for fact in tx.facts(plan.plan_id)}
        # under the plan's lock, so that the chain and what the plan remembers of it belong together
        locked = tx.lock_plan(plan.plan_id) or plan
        records = tx.audit(plan.plan_id)
        faults = domain.check(report, lambda sha256: tx.evidence(plan.tenant, sha256), facts)
    broken = core.sealer.verify(plan.plan_id, records, count=locked.audit_count, head=locked.audit_head)
    if broken is not None:
        faults.append(domain.Fault("audit", broken.fault))
    sealed = _sealed(records)
    if sealed is None:
        faults.append(domain.Fault("seal", "the audit knows of no report that was written"))
    elif sealed != digest(report):
        faults.append(
            domain.Fault("seal", "the stored report is not the one that was sealed when it was written")
        )
    cited = _listed(report, "citations")
    sentences = [s for section in _listed(report, "sections") for s in _listed(section, "sentences")]
    sources = {str(c.get("evidence")) for c in cited if isinstance(c, Mapping)}
    return Checked(plan.plan_id, len(sentences), len(cited), len(sources), len(records), faults)


def _sealed(records: Any) -> str | None:
    written: list[AuditRecord] = [r for r in records if r.kind == "report.written"]
    body = shapes.body_of(written[-1]) if written else None
    return str(body.get("sha256")) if isinstance(body, Mapping) else None


def _listed(of: Any, key: str) -> list[Any]:
    """A list inside what should be a report, and may be anything by now."""
    found = of.get(key) if isinstance(of, Mapping) else None
    return found if isinstance(found, list) else []


def _print(checked: Checked) -> None:
    name = view.short(checked.plan_id)
    looked = (
        f"{view.many(checked.sentences, 'sentence')}, {view.many(checked.citations, 'citation')} of "
        f"{view.many(checked.sources, 'source')}, {view.many(checked.records, 'audit record')}"
    )
    if not checked.faults:
        view.put(f"The report of plan {name} holds: {looked}.")
        return
    view.put(f"The report of plan {name} does not hold ({looked}):")
    for fault in checked.faults:
        view.put(f"  {view.clean(fault)}")


# --- files ----------------------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any]) -> str:
    """Return a report as Markdown; raises `Invalid` for one that somebody made something else of."""
    return _bytes(report, export.Form.MARKDOWN).decode()


def _bytes(report: Mapping[str, Any], form: export.Form) -> bytes:
    try:
        return export.written(report, form)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Invalid(
            "The stored report is not of the form this program writes; `orchestrator report verify` says more."
        ) from error


def _is_rendering(given: bytes, report: Mapping[str, Any]) -> bool:
    """Whether a file is the report: any form of it, or a document that `research --json` printed."""
    if given.startswith(b"%PDF-"):
        return given == _bytes(report, export.Form.PDF)
    try:
        text = given.decode()
    except UnicodeDecodeError as error:
        raise Invalid("The file is neither PDF nor text in UTF-8, so it is no report.") from error
    if text.startswith("<!doctype html>"):
        return _lines(text) == _lines(_bytes(report, export.Form.HTML).decode())
    try:
        value = json.loads(text)
    except ValueError:
        return _lines(text) == _lines(markdown(report))
    if isinstance(value, dict) and set(value) == {"plan", "report"}:
        value = value["report"]
    return bool(value == shapes.report(report))


def _lines(text: str) -> str:
    """A text without what is easily lost, or made two, on the way through an editor or a pipe: its last line end."""
    return text.replace("\r\n", "\n").rstrip("\n")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Invalid(f"{file} cannot be read ({error.strerror}).") from error


def check_out(out: Path | None, form: export.Form | None = None) -> None:
    """Raise if a report could not be written there, in that form; known before the work and not after it."""
    wanted = form or (export.of_file(out) if out is not None else None)
    if wanted is not None:
        export.require(wanted)
    if out is None:
        return
    if out.is_dir():
        raise Invalid(f"--out {out} is a folder; give the name of a file.")
    if not out.parent.is_dir():
        raise Invalid(f"--out {out}: there is no folder {out.parent}; make it first.")


def write(out: Path, report: Mapping[str, Any], form: export.Form | None = None) -> None:
    """Write a report to a file, at once: nobody reads half of it. Without a form, the name's end decides."""
    content = _bytes(report, form or export.of_file(out))
    try:
        if out.exists() and not out.is_file():
            out.write_bytes(content)  # a device or a pipe is written to, not replaced
            return
        _replace(out.resolve(), content)
    except OSError as error:
        raise Invalid(f"The report cannot be written to {out} ({error.strerror}).") from error


def _replace(path: Path, content: bytes) -> None:
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
