"""`orchestrator doctor`: is everything here that this program needs?"""

from __future__ import annotations

from workers.cli import doors, flags, view


def doctor(*, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Look at everything this program needs on this machine, and say what to do about what is missing."""
    # takes a second to import, which help and usage errors should not wait for
    from workers.cli import checks

    found = list(checks.everything(doors.settings(data)))
    if as_json:
        view.put_json({"ok": checks.sound(found), "checks": [c.as_json() for c in found]})
    else:
        checks.put(found)
    checks.conclude(found)
