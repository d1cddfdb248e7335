"""Chooses how to answer from what a request says that it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LONGEST_S: Final = 300
"""The most seconds that a request is kept waiting."""

_USUAL_S: Final = 30.0
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


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds a request waits, and the `Preference-Applied` of its answer, where a preference was kept."""

    seconds: float
    applied: str | None = None

    def headers(self, location: str) -> dict[str, str]:
        """What is said beside the answer: where it will be, and which preference was kept."""
        kept = {} if self.applied is None else {"Preference-Applied": self.applied}
        return {"Location": location, **kept}


def patience(wait: float | None, prefer: str | None) -> Patience:
    """Return how long a request waits: as it says itself, else as its `Prefer` header says, else as usual."""
    preferred = preference(prefer)
    seconds = min(next((s for s in (wait, preferred) if s is not None), _USUAL_S), LONGEST_S)
    kept = preferred is not None and wait is None
    return Patience(seconds, applied(prefer, seconds) if kept else None)


def preference(prefer: str | None) -> float | None:
    """Return how many seconds a `Prefer` header would wait, or `None` where it does not say.

    By RFC 7240, `respond-async` alone does not wait; with `wait=7` it is for what takes longer than 7 seconds.
    """
    parts = [part.strip() for part in (prefer or "").lower().split(",")]
    waits = [float(found[1]) for part in parts if (found := _WAIT.fullmatch(part))]
    if waits:
        return waits[0]
    return 0.0 if "respond-async" in parts else None


def applied(prefer: str | None, seconds: float) -> str:
    """Return the `Preference-Applied` of a request whose `preference` was kept, for so many seconds at most."""
    parts = [part.strip() for part in (prefer or "").lower().split(",")]
    named = ["respond-async"] if "respond-async" in parts else []
    if any(_WAIT.fullmatch(part) for part in parts):
        named.append(f"wait={seconds:g}")
    return ", ".join(named)
