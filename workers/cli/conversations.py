"""`orchestrator conversations`: what was said in `orchestrator chat`: list it, read it, remove it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import shapes
from orchestrator.domain.conversation import MOST_TURNS, Conversation, Role
from orchestrator.domain.errors import Invalid, NotFound
from workers.cli import chat, doors, flags, view

if TYPE_CHECKING:
    from orchestrator.dialogue import Dialogue
    from orchestrator.wiring import Core

app = typer.Typer(no_args_is_help=True, help="List, show and remove your conversations.")

_Id = Annotated[
    str, typer.Argument(metavar="ID", help="The conversation's id, or at least its first 4 characters.")
]


@app.command("list")
def list_(*, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """List your conversations, those begun last first. The first is the one that `orchestrator chat` goes on with."""
    with doors.opened(doors.settings(data)) as core:
        found = doors.every_conversation(core, chat.WHO)
    if as_json:
        view.put_json({"conversations": [shapes.conversation(each) for each in found]})
        return
    view.put_table(
        ("conversation", "begun", "turns", "plan"),
        [
            (view.short(c.conversation_id), c.created_at, c.turns, view.short(c.last_plan_id or ""))
            for c in found
        ],
        empty="There are no conversations.",
    )


@app.command()
def show(conversation: _Id, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Show what was said in a conversation, and where each sentence of its answers stands."""
    with doors.opened(doors.settings(data)) as core:
        named = doors.find_conversation(core, chat.WHO, conversation)
        found, turns = _dialogue(core).history(chat.WHO, named.conversation_id, limit=MOST_TURNS)
    if as_json:
        view.put_json({**shapes.conversation(found), "history": [shapes.turn(each) for each in turns]})
        return
    for turn in turns:
        if turn.role is Role.USER:
            view.put(f"{chat.PROMPT}{view.clean(turn.content)}")
        elif turn.waits:
            view.put(f"It is still being answered, by plan {view.short(turn.plan_id or '')}.\n")
        else:
            chat.show(turn)
            view.put("")


@app.command()
def remove(
    conversation: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            help="The conversation's id, or at least its first 4 characters.",
            show_default=False,
        ),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every conversation of yours.")] = False,
    yes: flags.Yes = False,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Remove a conversation with all that was said in it; its plans stay. It cannot be had back."""
    if (conversation is None) is not every:
        raise Invalid("Give the id of one conversation, or --all for every one of yours.")
    with doors.opened(doors.settings(data)) as core:
        if conversation is not None:
            chosen: Sequence[Conversation] = [doors.find_conversation(core, chat.WHO, conversation)]
        else:
            chosen = _agreed(doors.every_conversation(core, chat.WHO), yes=yes)
        gone = _forgotten(_dialogue(core), chosen)
    if as_json:
        view.put_json({"removed": [shapes.conversation(each) for each in gone]})
    else:
        view.put(f"Removed: {view.many(len(gone), 'conversation')}. Their plans stay.")


def _forgotten(dialogue: Dialogue, chosen: Sequence[Conversation]) -> list[Conversation]:
    """Remove these; one that somebody else removed first is gone as well, and not counted."""
    gone = []
    for each in chosen:
        with contextlib.suppress(NotFound):
            dialogue.forget(chat.WHO, each.conversation_id)
            gone.append(each)
    return gone


def _agreed(found: Sequence[Conversation], *, yes: bool) -> Sequence[Conversation]:
    """Return the conversations, once whoever sits at a terminal has agreed to remove as many."""
    if found and not yes and sys.stdin.isatty() and view.is_terminal(sys.stderr):
        typer.confirm(f"Remove {view.many(len(found), 'conversation')}?", abort=True, err=True)
    return found


def _dialogue(core: Core) -> Dialogue:
    """Conversations without anybody who understands what is said: nothing is said here."""
    # these take a while to import, which help and usage errors should not wait for
    from agents import turns
    from orchestrator.dialogue import Dialogue

    return Dialogue(core.store, core.conductor, core.sealer, turns.Rules())
