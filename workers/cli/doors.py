"""Opens what a verb needs, and finds what a person names: settings, store, workshop, plans by a part of their id."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from orchestrator.domain.conversation import Conversation
from orchestrator.domain.errors import Invalid, Misconfigured, NotFound
from orchestrator.domain.identity import Principal
from orchestrator.domain.plan import Approval, DeadLetter, Notification, Plan
from workers.cli import view

if TYPE_CHECKING:
    from orchestrator.settings import Settings
    from orchestrator.wiring import Core

PERSON: Final = "local"
"""Who acts in embedded mode: whoever can read the folder. Nobody's identity is verified."""

SHORTEST: Final = 4
_EVERY = 10_000_000
_ID = re.compile(r"[0-9a-f-]+", re.IGNORECASE | re.ASCII)
_T = TypeVar("_T")


def settings(data: Path | None = None) -> Settings:
    """Return the settings, with the folder of state as a whole path."""
    # pydantic takes a while to import, which help and usage errors should not wait for
    from orchestrator.settings import load

    loaded = load(data_dir=str(data) if data is not None else None)
    return loaded.model_copy(update={"data_dir": str(loaded.data.resolve())})


@contextmanager
def opened(chosen: Settings, *, verbose: bool = False) -> Iterator[Core]:
    """Open the store of these settings, for as long as the block lasts."""
    _logs(chosen.log_level, verbose=verbose)
    try:
        chosen.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(
            f"The data folder {chosen.data} cannot be made ({error.strerror}). Name another with --data."
        ) from error
    with ExitStack() as stack:
        with view.waiting("Opening …"):
            # takes a second to import, which help and usage errors should not wait for
            from orchestrator import wiring

            core = stack.enter_context(wiring.core(chosen))
        yield core


@contextmanager
def working(core: Core) -> Iterator[None]:
    """Work on every plan that can go on, for as long as the block lasts. The process should end soon after."""
    # takes a second to import, which help and usage errors should not wait for
    from workers.wiring import Workshop

    with view.waiting("Starting …"):
        workshop = Workshop(core)
    try:
        with view.waiting("Starting …"):
            workshop.start()
        yield
    finally:
        workshop.stop(leave=True)


@contextmanager
def firing(core: Core) -> Iterator[None]:
    """Keep the declared schedules and fire those that are due, for as long as the block lasts."""
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator import chronos, prompts, timetable

    check = prompts.book(core.settings.prompts).current().check
    timetable.apply(chronos.Chronos(core.store, core.conductor, check_domain=check))
    stopping = threading.Event()
    clock = threading.Thread(
        target=chronos.forever, args=(core.store, core.conductor, stopping), name="chronos", daemon=True
    )
    clock.start()
    try:
        yield
    finally:
        stopping.set()
        clock.join(2.0)


def alone(chosen: Settings) -> bool:
    """Whether nothing works on plans unless this process does: the broker lives in the process."""
    return chosen.broker_url.startswith("memory:")


def quiet(*, verbose: bool = False) -> None:
    """Say nothing to the log, for a verb that opens no store; with `verbose`, what is worth a line."""
    _logs("info", verbose=verbose)


def _logs(level: str, *, verbose: bool) -> None:
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator import telemetry

    if verbose:
        telemetry.configure("debug" if level == "debug" else "info", stream=sys.stderr)
    else:
        # what matters to a person is told from the plan's events
        telemetry.configure("critical", stream=sys.stderr)
        logging.disable(logging.CRITICAL)


# --- by a part of an id ---------------------------------------------------------------------------------------


def find_plan(core: Core, given: str) -> Plan:
    """Return the plan of that id or beginning of an id."""
    _check(given)
    with core.store.transaction() as tx:
        return _one("plan", given, tx.plans(limit=_EVERY), lambda p: p.plan_id)


def find_letter(core: Core, given: str) -> DeadLetter:
    """Return the dead letter of that id or beginning of an id."""
    _check(given)
    with core.store.transaction() as tx:
        return _one("dead letter", given, tx.dead_letters(state=None), lambda d: d.letter_id)


def find_approval(core: Core, given: str) -> Approval:
    """Return the approval of that id or beginning of an id."""
    _check(given)
    with core.store.transaction() as tx:
        return _one("approval", given, tx.approvals(), lambda a: a.approval_id)


def find_notification(core: Core, given: str) -> Notification:
    """Return the notification of that id or beginning of an id."""
    _check(given)
    with core.store.transaction() as tx:
        return _one("notification", given, tx.notifications(), lambda n: n.notification_id)


def find_conversation(core: Core, who: Principal, given: str) -> Conversation:
    """Return this person's conversation of that id or beginning of an id."""
    _check(given)
    return _one("conversation", given, every_conversation(core, who), lambda c: c.conversation_id)


def every_conversation(core: Core, who: Principal) -> Sequence[Conversation]:
    """Return all conversations of this person, those begun last first; nobody else's are found."""
    with core.store.of(who.tenant).transaction() as tx:
        return tx.conversations(who.tenant, who.name, limit=_EVERY)


def every_plan(core: Core) -> Sequence[Plan]:
    """Return all plans, the newest first."""
    with core.store.transaction() as tx:
        return tx.plans(limit=_EVERY)


def _check(given: str) -> None:
    if len(given.strip()) < SHORTEST:
        raise Invalid(f"{given!r} is too short for an id; give at least its first {SHORTEST} characters.")


def _one(what: str, given: str, among: Iterable[_T], id_of: Callable[[_T], str]) -> _T:
    start = given.strip().lower()
    fitting = [thing for thing in among if id_of(thing).startswith(start)] if _ID.fullmatch(start) else []
    if not fitting:
        raise NotFound(what, given)
    if len(fitting) > 1:
        listed = ", ".join(id_of(thing)[: len(start) + 6] for thing in fitting[:5])
        raise Invalid(f"{len(fitting)} ids of a {what} begin with {given}: {listed}. Give more characters.")
    return fitting[0]
