"""`orchestrator chat`: a conversation about your documents, in which every answer is cited."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from orchestrator import shapes
from orchestrator.domain.conversation import Turn
from orchestrator.domain.errors import Conflict, Invalid
from orchestrator.domain.identity import Principal
from orchestrator.domain.plan import clean_goal, request
from workers.cli import doors, flags, progress, research, view
from workers.cli.exits import FAILED, FINE, INTERRUPTED, TERMINATED, Ended, Terminated

if TYPE_CHECKING:
    from orchestrator.dialogue import Dialogue
    from orchestrator.settings import Settings
    from orchestrator.wiring import Core

_TENANT: Final = "default"
WHO: Final = Principal(doors.PERSON, _TENANT, frozenset({"operator"}), kind="development")
"""Whose conversations these are: those of whoever runs this program."""

PROMPT: Final = "› "
_QUOTED: Final = 100


def chat(
    message: Annotated[
        str | None,
        typer.Argument(
            metavar="[MESSAGE]",
            help="What you say. Without it: a conversation until Ctrl-D, a message a line.",
            show_default=False,
        ),
    ] = None,
    *,
    docs: Annotated[
        Path | None,
        typer.Option(
            "--docs",
            metavar="DIR",
            help="The folder of documents to search; by default that of the conversation so far.",
            show_default=False,
        ),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth",
            metavar="N",
            help="How deep to go, from 1 to 5; by default as before, or 2.",
            show_default=False,
        ),
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Begin another conversation.")] = False,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Talk about your documents: ask, ask again, change the question, or go deeper. Every answer is cited.

    It goes on with your last conversation unless you give --new. What is asked survives whatever happens to this process.
    """
    if depth is not None:
        request("What?", depth=depth)  # refuses what is wrong before anything is opened
    if message is not None:
        clean_goal(message)
    elif as_json:
        raise Invalid('With --json, say one message: orchestrator chat "MESSAGE" --json.')
    chosen = doors.settings(data)
    folder = research.documents_folder(docs, chosen) if docs is not None else None
    with doors.opened(chosen, verbose=verbose) as core, ExitStack() as stack:
        talk = _Talk(core, chosen, stack, folder=folder, depth=depth, verbose=verbose)
        if not new:
            talk.go_on()
        if message is None:
            talk.until_the_end()
            return
        turn = talk.say(message)
        if as_json:
            view.put_json({"turn": shapes.turn(turn)})
        else:
            show(turn)
    raise Ended(FAILED if turn.answer and turn.answer.get("verdict") == "failed" else FINE)


class _Talk:
    """A conversation of whoever runs this program."""

    def __init__(
        self,
        core: Core,
        chosen: Settings,
        stack: ExitStack,
        *,
        folder: Path | None,
        depth: int | None,
        verbose: bool,
    ) -> None:
        self._core = core
        self._chosen = chosen
        self._stack = stack
        self._folder = folder
        self._depth = depth
        self._verbose = verbose
        self._works = False
        self._conversation: str | None = None
        self._who = WHO
        self._dialogue = _dialogue(core, stack)

    def go_on(self) -> None:
        """Go on with the conversation that was begun last, if there is one."""
        with self._core.store.of(_TENANT).transaction() as tx:
            last = tx.conversations(_TENANT, self._who.name, limit=1)
        if not last:
            return
        self._conversation = last[0].conversation_id
        view.tell(
            f"Going on with the conversation of {view.when(last[0].created_at)} "
            f"({view.many(last[0].turns, 'turn')}); --new begins another."
        )
        _, turns = self._dialogue.history(self._who, self._conversation, after=max(0, last[0].turns - 2))
        if turns and turns[-1].waits:
            view.tell("Its last question is still being answered.")
            show(self._answered(turns[-1]))

    def until_the_end(self) -> None:
        """Answer a line at a time until there are no more."""
        while True:
            line = _read()
            if line is None:
                return
            if line.strip():
                try:
                    show(self.say(line))
                    view.put("")
                except (Invalid, Conflict) as error:
                    view.tell(str(error), "red")

    def say(self, content: str) -> Turn:
        """Say something, and return its answer."""
        from orchestrator.dialogue import Message  # the door to the store has imported its parts already

        usual: dict[str, str] = {}
        if self._folder is None and self._conversation is None:
            usual = {"documents": str(research.documents_folder(None, self._chosen))}
        named = {"documents": str(self._folder)} if self._folder is not None else None
        turn = self._dialogue.say(Message(self._who, content, self._conversation, self._depth, named, usual))
        self._conversation = turn.conversation_id
        return self._answered(turn)

    def _answered(self, turn: Turn) -> Turn:
        if not turn.waits or turn.plan_id is None:
            return turn
        with self._core.store.transaction() as tx:
            plan = tx.plan(turn.plan_id)
        try:
            if not self._works and doors.alone(self._chosen):
                self._stack.enter_context(doors.working(self._core))
                self._works = True
            if plan is not None:
                progress.follow(self._core, [plan], verbose=self._verbose, parked=True)
        except (KeyboardInterrupt, Terminated) as stop:
            view.tell("Interrupted; nothing is lost. `orchestrator chat` goes on with it.", "yellow")
            raise Ended(INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED) from None
        found = self._dialogue.look(self._who, turn.conversation_id, turn.number)
        if found.waits:
            name = view.short(turn.plan_id)
            raise Conflict(f"Plan {name} waits for a person: `orchestrator plans show {name}` says for what.")
        return found


def _dialogue(core: Core, stack: ExitStack) -> Dialogue:
    # these take a while to import, which help and usage errors should not wait for
    from agents import turns
    from orchestrator.dialogue import Dialogue
    from orchestrator.ports import Listener
    from workers import wiring as working

    listener: Listener = turns.Rules()
    if working.models(core.settings).models:
        host = stack.enter_context(closing(working.tool_host(core)))
        listener = working.listener(working.talk(core, working.enforcer(core.settings), host))
    return Dialogue(core.store, core.conductor, core.sealer, listener)


def _read() -> str | None:
    """The next line that is said; none at the end, and none that a pipe says is shown as a prompt."""
    if view.is_terminal(sys.stdin):
        try:
            return input(PROMPT)
        except EOFError:
            view.tell("")
            return None
    line = sys.stdin.readline()
    return line or None


def show(turn: Turn) -> None:
    """Print an answer, and under it where each of its sentences stands."""
    shown = shapes.turn(turn)
    lines = [view.clean(turn.content)]
    lines += [_source(citation) for citation in shown["citations"]]
    view.put("\n".join(lines))
    for note in shown["notes"]:
        view.tell(note)


def _source(citation: dict[str, object]) -> str:
    heading = citation["heading"]
    under = " › ".join(heading) if isinstance(heading, list) else ""
    named = view.one_line(f"{citation['locator']}{' — ' + under if under else ''}", _QUOTED)
    return f"  [{citation['number']}] {named}, characters {citation['start']}–{citation['end']}"
