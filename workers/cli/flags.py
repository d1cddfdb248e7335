"""The options that many verbs share, so that each is spelt and explained in one way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Data: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The folder of this program's state. By default ORCHESTRATOR_DATA_DIR, or a folder of your user data.",
        show_default=False,
    ),
]
Domain: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--domain",
        metavar="NAME",
        help="Whose questions to ask, such as finance: a domain of configs/prompts.yaml. Without it the goal's words choose.",
        show_default=False,
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Verbose: TypeAlias = Annotated[
    bool, typer.Option("--verbose", help="Also print the program's log to standard error.")
]
Work: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--work/--no-work",
        help="Whether this process also works on the plans. By default it does where nothing else would.",
        show_default=False,
    ),
]
PlanId: TypeAlias = Annotated[
    str, typer.Argument(metavar="PLAN", help="The plan's id, or at least its first 4 characters.")
]
Tenant: TypeAlias = Annotated[
    str | None,
    typer.Option("--tenant", metavar="TENANT", help="Only those of this tenant's plans.", show_default=False),
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", help="Do not ask on a terminal before changing many.")]
