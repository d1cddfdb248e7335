"""`orchestrator config`: which settings are in force, where each comes from, and whether they are sound."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

import typer

from orchestrator.domain.errors import Misconfigured
from workers.cli import doors, flags, view

if TYPE_CHECKING:
    from orchestrator.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Show and check the settings.")

PREFIX: Final = "ORCHESTRATOR_"
_FILE: Final = "settings.yaml"
_OTHERS: Final = frozenset({"TEST_DATABASE_URL"})
"""Variables with our prefix that are no settings, besides those whose names are settings."""


@app.command()
def show(*, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Print every setting, its value, and whether it comes from the file, the environment or a flag."""
    chosen = doors.settings(data)
    rows = [(key, _masked(key, value), source(key, data)) for key, value in chosen.model_dump().items()]
    warnings = strangers(os.environ, chosen)
    if as_json:
        settings = {key: {"value": value, "source": where} for key, value, where in rows}
        view.put_json({"settings": settings, "warnings": warnings})
        return
    view.put_table(("setting", "value", "from"), rows)
    for warning in warnings:
        view.tell(warning, "yellow")


@app.command()
def check(*, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Check the settings, the agents' profiles, the tools, the policies and whether Redis answers, without starting anything."""
    chosen = doors.settings(data)
    # takes a second to import, which help and usage errors should not wait for
    from workers.cli import checks

    found = [*checks.redis(chosen), *checks.files(chosen)]
    warnings = strangers(os.environ, chosen)
    if as_json:
        view.put_json(
            {"ok": checks.sound(found), "checks": [c.as_json() for c in found], "warnings": warnings}
        )
    else:
        checks.put(found)
        for warning in warnings:
            view.tell(warning, "yellow")
    checks.conclude(found)


def source(key: str, data: Path | None) -> str:
    """Return where a setting's value comes from."""
    if key == "data_dir" and data is not None:
        return "flag --data"
    variable = next((v for v in os.environ if v.startswith(PREFIX) and _key(v) == key), None)
    if variable is not None:
        return f"environment {variable}"
    return f"{_FILE}, empty: the user's data folder" if key == "data_dir" else _FILE


def strangers(environment: Mapping[str, str], chosen: Settings) -> Sequence[str]:
    """Return a sentence for each variable with this program's prefix that means nothing to it."""
    known = set(type(chosen).model_fields)
    named = {chosen.model_key_env, chosen.opa_token_env} | _keys(chosen)
    sentences = []
    for variable in sorted(environment):
        key = _key(variable)
        if not variable.startswith(PREFIX) or key in known or variable in named:
            continue
        if key.upper() in _OTHERS:
            continue
        near = difflib.get_close_matches(key, known, n=1)
        meant = f" Did you mean {PREFIX}{near[0].upper()}?" if near else ""
        sentences.append(f"{variable} is set, but there is no such setting.{meant}")
    return sentences


def _keys(chosen: Settings) -> frozenset[str]:
    """The variables that the file of models names for keys; a file that does not hold is told of elsewhere."""
    # takes a while to import, which help and usage errors should not wait for
    from workers.toolhost.models import catalogue

    try:
        return catalogue.of(chosen).key_variables
    except Misconfigured:
        return frozenset()


def _key(variable: str) -> str:
    return variable.removeprefix(PREFIX).lower()


def _masked(key: str, value: object) -> object:
    """Return a setting's value without the password that an address may carry."""
    if not key.endswith("_url") or not isinstance(value, str) or not value:
        return value
    if "://" not in value:
        pairs = (part for part in value.split())
        return " ".join("password=***" if part.startswith("password=") else part for part in pairs)
    parts = urlsplit(value)
    if parts.password is None:
        return value
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{place}"))
