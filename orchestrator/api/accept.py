"""Chooses how to answer from what a request says that it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence

_QUALITY = re.compile(r"q\s*=\s*([01](?:\.\d{0,3})?)")
_WAIT = re.compile(r"wait\s*=\s*\"?(\d{1,6})\"?")


def chosen(header: str | None, offers: Sequence[str]) -> str:
    """Return the media type that an `Accept` header likes best; the first offered, where it has no preference."""
    wanted = [_range(part) for part in (header or "*/*").split(",")]
    return max(
        offers, key=lambda offer: max((_fit(offer, kind, q) for kind, q in wanted), default=(0, 0.0))[1]
    )


def _range(part: str) -> tuple[str, float]:
    kind, _, parameters = part.partition(";")
    quality = _QUALITY.search(parameters)
    return kind.strip().lower(), float(quality[1]) if quality else 1.0


def _fit(offer: str, kind: str, quality: float) -> tuple[int, float]:
    """How closely a range names an offer, and how much it is liked then."""
    family = offer.split("/", 1)[0]
    closeness = {offer: 3, f"{family}/*": 2, "*/*": 1}.get(kind, 0)
    return (closeness, quality) if closeness else (0, 0.0)


def patience(prefer: str | None) -> float | None:
    """Return how many seconds a `Prefer` header would wait, or `None` where it does not say.

    By RFC 7240, `respond-async` alone does not wait; with `wait=7` it is for what takes longer than 7 seconds.
    """
    parts = [part.strip() for part in (prefer or "").lower().split(",")]
    waits = [float(found[1]) for part in parts if (found := _WAIT.fullmatch(part))]
    if waits:
        return waits[0]
    return 0.0 if "respond-async" in parts else None


def applied(prefer: str | None, seconds: float) -> str:
    """Return the `Preference-Applied` of a request whose `patience` was kept, for so many seconds at most."""
    parts = [part.strip() for part in (prefer or "").lower().split(",")]
    named = ["respond-async"] if "respond-async" in parts else []
    if any(_WAIT.fullmatch(part) for part in parts):
        named.append(f"wait={seconds:g}")
    return ", ".join(named)
