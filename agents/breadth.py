"""Tells how much of an answer a question wants: the one statement that answers it, or all that have a part in it.

    one statement    who, when, where, how many; what something is; whether something is so; which one
    several          a list, a comparison, an explanation: why, how, describe, "what are the …s", "which …s",
                     "what is known about …"

A question that asks several things, or that is none, wants several: what is left out for certain cannot be read.
"""

from __future__ import annotations

import re
from typing import Final

_OPENING: Final = (
    r"^\W*(?:(?:and|so|then|please|exactly|roughly|about|in|on|at|by|for|from|of|to|under|with)\W+)*"
)
_ONE: Final = re.compile(
    _OPENING + r"(?:who(?:m|se)?\b|when\b|where\b"
    r"|how\s+(?:many|much|long|far|high|deep|old|large|big|tall|fast|often|wide|heavy|small|late|early|soon|hot|cold)\b"
    r"|what(?:'s|\u2019s)?\b|which\b"
    r"|(?:is|are|was|were|do|does|did|can|could|may|might|must|shall|should|will|would|has|have|had)\b)",
    re.IGNORECASE,
)
_PLURAL: Final = re.compile(
    _OPENING + r"(?:which|what)\s+(?:are\s+|were\s+)?(?:the\s+|all\s+)*(?:[\w'\u2019-]*[^\Ws]\s+){0,2}?"
    r"(?!happens\b)[a-z][\w-]*[^\W\d_suig]s\s+(?:of|in|for|to|from|with|on|at|by|between|can|could|may|must|do|did|does|are|were|have"
    r"|had|has|should|will|would|that|which|supported|used|available)\b",
    re.IGNORECASE,
)
_WORKINGS: Final = re.compile(
    r"\bwhat\b.*\b(?:differ(?:ence)?|steps?|ways?|reasons?|(?:know|known|say|says|said|tell|told|learnt?|learned)\b.*\babout)\b",
    re.IGNORECASE,
)


def several(question: str) -> bool:
    """Whether more than one statement is wanted."""
    if len(re.findall(r"[?\uff1f\u061f](?=\s|$)", question)) > 1 or not _ONE.match(question):
        return True
    return bool(_PLURAL.match(question) or _WORKINGS.search(question))
