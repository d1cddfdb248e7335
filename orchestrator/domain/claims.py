"""What a sentence claims that can be compared: its numbers, dates, names and negations, in reading order.

    "In March 2024 Acme did not sell 1,200 units."
      date 2024-03, name acme, negation not, number 1200 (units are kept where they are known)

`contained` says what of it its quotes do not contain. It compares letters and numbers, not meaning: an empty answer
proves nothing about a sentence in other words, while anything it returns is a claim that the quotes do not make.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from itertools import permutations
from typing import Final


class Kind(StrEnum):
    """What sort of claim it is; `order` is that of claims which all stand in the quotes, but otherwise."""

    NUMBER = "number"
    UNIT = "unit"
    DATE = "date"
    NAME = "name"
    NEGATION = "negation"
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim in its normal form: `key` is compared, `unit` belongs to a number, `text` is how it was written."""

    kind: Kind
    key: str
    text: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """Something a sentence claims and its quotes do not; `left_out` if it is the sentence that lacks it."""

    kind: Kind
    text: str
    left_out: bool = False


_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        (
            "january jan januar janvier enero", "february feb februar février febrero", "march mar märz mars marzo",
            "april apr avril abril", "may mai mayo", "june jun juni juin junio", "july jul juli juillet julio",
            "august aug août agosto", "september sep sept septembre septiembre", "october oct oktober okt octobre octubre",
            "november nov novembre noviembre", "december dec dezember dez décembre diciembre",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip
_MONTH: Final = "|".join(sorted(_MONTHS, key=len, reverse=True))
_YEAR: Final = r"(?:1\d|20|21)\d\d"

_ONES: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS: Final = {
    **{word: str(value) for value, word in enumerate(_ONES.split())},
    **{word: str(value * 10) for value, word in enumerate(_TENS.split(), start=2)},
    "hundred": "100",
    "half": "0.5",
    "twice": "2",
    "thrice": "3",
    "dozen": "12",
}
_SCALES: Final = {
    "thousand": 3, "million": 6, "mio": 6, "billion": 9, "bn": 9, "trillion": 12,
}  # fmt: skip
_UNITS: Final = {
    written: units.split()[0]
    for units in (
        "% percent pct prozent", "‰", "° degrees degree", "°c", "°f", "$ usd dollar dollars", "€ eur euro euros",
        "£ gbp pound pounds", "¥ jpy yen", "chf", "km kilometre kilometres kilometer kilometers",
        "m metre metres meter meters", "cm centimetre centimetres centimeter centimeters",
        "mm millimetre millimetres millimeter millimeters", "mi mile miles", "ft foot feet", "inch inches",
        "kg kilogram kilograms", "g gram grams", "mg milligram milligrams", "t tonne tonnes", "ton tons", "lb lbs",
        "l litre litres liter liters", "ml millilitre millilitres", "s sec second seconds", "ms millisecond milliseconds",
        "min minute minutes", "h hour hours", "day days", "week weeks", "month months", "year years",
        "hz", "khz", "mhz", "ghz", "w watt watts", "kw", "mw", "gw", "kwh", "mwh", "gwh", "twh",
        "byte bytes", "bit bits", "kb", "mb", "gb", "tb", "kib", "mib", "gib", "tib", "sq", "ha hectare hectares",
    )
    for written in units.split()
}  # fmt: skip
_DENYING: Final = (
    "no never none neither nor without nobody nothing nowhere hardly scarcely barely except unless false lacks "
    "nicht kein keine keinen keiner nie niemals ohne sans jamais aucun aucune nunca sin ninguno"
)
_NEGATIONS: Final = {**{word: word for word in _DENYING.split()}, "not": "not", "cannot": "not", "pas": "not"}
_PLAIN_WORDS: Final = (
    "a an the of in on at by to for from with as and or but if is are was were be been being has have had do does did "
    "it its this that these those he she they we you i his her their our your my there here then than so such which "
    "who whom whose what when where why how may might must shall should will would can could also more most each every "
    "all any some both only into over under after before about between through during per via not"
)
_PLAIN: Final = frozenset(_PLAIN_WORDS.split())
"""Words that say nothing by themselves, so that one in capitals at a sentence's start is no name."""

_DIGIT_GROUPS: Final = r"\d{1,3}(?:[,.' ]\d{3})+(?![\d])|\d{1,3}(?:,\d{2})*,\d{3}(?!\d)|\d+"
_TOKEN: Final = re.compile(
    rf"""
    (?P<iso>(?<![\w.])(?P<iy>\d{{4}})[-/.](?P<im>\d{{1,2}})(?:[-/.](?P<id>\d{{1,2}}))?(?![\w]|[-/.]\d))
  | (?P<dmy>(?<![\w.])(?P<dd>\d{{1,2}})(?:st|nd|rd|th|\.)?\s+(?:of\s+|de\s+)?(?P<dm>{_MONTH})\b\.?(?:,?\s+(?:de\s+)?(?P<dy>{_YEAR})\b)?)
  | (?P<mdy>\b(?P<mm>{_MONTH})\b\.?\s+(?P<md>\d{{1,2}})(?:st|nd|rd|th)?(?![\d.,]*\d)(?:,?\s+(?P<my>{_YEAR})\b)?)
  | (?P<my_>\b(?P<nm>{_MONTH})\b\.?,?\s+(?P<ny>{_YEAR})\b)
  | (?P<num_date>(?<![\w.])(?P<n1>\d{{1,2}})(?P<sep>[./])(?P<n2>\d{{1,2}})(?P=sep)(?P<n3>\d{{4}})(?!\w))
  | (?P<quarter>\bq(?P<qn>[1-4])(?:\s*[/-]?\s*(?P<qy>{_YEAR}))?\b)
  | (?P<version>(?<![\w.])(?!\d{{1,3}}(?:\.\d{{3}})+\b)v?\d+(?:\.\d+){{2,}}(?![\w]))
  | (?P<number>(?<![\w])(?P<sign>(?<![\w.)])-)?(?P<money>[$€£¥]\s?)?(?P<whole>{_DIGIT_GROUPS})(?P<part>[.,]\d+)?
      (?P<ordinal>(?:st|nd|rd|th)\b)?(?:(?P<tight>\s?[%‰°](?:[cf]\b)?|[a-zµ]{{1,3}}\b)|(?=[^\w]|$)))
  | (?P<word>\w+(?:['’]\w+|[-./]\w+)*)
    """,
    re.VERBOSE | re.IGNORECASE,
)


def normal(text: str) -> str:
    """A text as it is compared: compatible forms made one, digits ASCII, what cannot be seen left out."""
    composed = unicodedata.normalize("NFKC", text)
    shown = "".join(c for c in composed if unicodedata.category(c) != "Cf")
    digits = "".join(_ascii_digit(c) for c in shown)
    for written, meant in (("−", "-"), ("’", "'"), ("‘", "'"), ("⁄", "/")):
        digits = digits.replace(written, meant)
    return " ".join(digits.split())


def _ascii_digit(char: str) -> str:
    return str(unicodedata.decimal(char)) if char.isdecimal() else char


def found(text: str) -> list[Claim]:
    """Return the claims of a text in reading order."""
    plain = normal(text)
    claims: list[Claim] = []
    for match in _TOKEN.finditer(plain):
        claims.extend(_claims(match, plain))
    return claims


def _claims(match: re.Match[str], plain: str) -> Iterator[Claim]:
    text = match[0]
    date = _date(match)
    if date is not None:
        yield Claim(Kind.DATE, date, text)
    elif match["version"]:
        yield Claim(Kind.NAME, text.casefold(), text)
    elif match["number"] is not None:
        yield _number(match, plain)
    elif match["word"] is not None:
        yield from _word(text, plain[match.end() :])
    else:  # it looked like a date and is none: 2024-99-99
        yield Claim(Kind.NAME, text.casefold(), text)


def _date(match: re.Match[str]) -> str | None:
    if match["iso"]:
        return _iso(match["iy"], match["im"], match["id"])
    if match["dmy"]:
        return _iso(match["dy"], _MONTHS[match["dm"].casefold()], match["dd"])
    if match["mdy"]:
        return _iso(match["my"], _MONTHS[match["mm"].casefold()], match["md"])
    if match["my_"]:
        return _iso(match["ny"], _MONTHS[match["nm"].casefold()], None)
    if match["quarter"]:
        return f"{match['qy'] or ''}-q{match['qn']}"
    if match["num_date"]:
        first, second, year = int(match["n1"]), int(match["n2"]), match["n3"]
        if match["sep"] == "." or first > 12:
            return _iso(year, second, first)
        # 03/05/2024 is two dates, by who reads it: it equals only itself
        return _iso(year, first, second) if second > 12 else f"{first}/{second}/{year}"
    return None


def _iso(year: str | None, month: int | str, day: int | str | None) -> str | None:
    if not 1 <= int(month) <= 12 or (day is not None and not 1 <= int(day) <= 31):
        return None
    return f"{year or '-'}-{int(month):02}" + (f"-{int(day):02}" if day is not None else "")


_NEXT_WORD: Final = re.compile(r"\s?-?([a-z]+|[%‰°$€£¥])", re.IGNORECASE)


def _number(match: re.Match[str], plain: str) -> Claim:
    value = _value(match["whole"], match["part"] or "")
    if match["sign"]:
        value = -value
    unit = (match["tight"] or match["money"] or "").strip().casefold()
    end = match.end()
    if not match["tight"] and (after := _NEXT_WORD.match(plain, end)):
        word = after[1].casefold()
        if word in _SCALES:
            value = value.scaleb(_SCALES[word])
            end = after.end()
            after = _NEXT_WORD.match(plain, end)
        if after and not unit and after[1].casefold() in _UNITS:
            unit = after[1].casefold()
    if match["ordinal"]:
        unit = "th"
    return Claim(Kind.NUMBER, _plain_number(value), match[0].strip(), _UNITS.get(unit, unit))


def _value(whole: str, part: str) -> Decimal:
    groups = re.split(r"[,.' ]", whole)
    digits = "".join(groups)
    if len(groups) == 2 and "." in whole:  # 1.234 is more often a fraction than a thousand
        digits = whole
    try:
        return Decimal(digits + part.replace(",", "."))
    except InvalidOperation:  # 1.234,5: then the point was no point
        return Decimal("".join(groups) + part.replace(",", "."))


def _plain_number(value: Decimal) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _word(text: str, after: str) -> Iterator[Claim]:
    folded = text.casefold()
    if folded in _NEGATIONS:
        yield Claim(Kind.NEGATION, _NEGATIONS[folded], text)
    elif folded.endswith("n't"):
        yield Claim(Kind.NEGATION, "not", text)
    elif folded in _NUMBER_WORDS:
        scale = _NEXT_WORD.match(after)
        power = _SCALES.get(scale[1].casefold(), 0) if scale else 0
        value = Decimal(_NUMBER_WORDS[folded]).scaleb(power)
        unit = _UNITS.get(scale[1].casefold(), "") if scale and not power else ""
        yield Claim(Kind.NUMBER, _plain_number(value), text, unit)
    elif text[:1].isupper() and folded.removesuffix("'s") not in _PLAIN and folded not in _SCALES:
        yield Claim(Kind.NAME, folded.removesuffix("'s"), text)
    elif any(c.isdigit() for c in text):
        yield Claim(Kind.NAME, folded, text)


# --- comparing ------------------------------------------------------------------------------------------------


def contained(sentence: str, quotes: Sequence[str]) -> list[Missing]:
    """Return what the sentence claims and its quotes do not, and the negations of theirs that it leaves out.

    Claims that all stand in the quotes, but in another order, are one `order`: "A 41, B 47" is not "A 47, B 41".
    """
    claimed = found(sentence)
    offered = [found(quote) for quote in quotes]
    words = {word for quote in quotes for word in _words(quote)}
    missing = _lacking(claimed, [claim for claims in offered for claim in claims], words)
    if not missing and not _in_order(claimed, offered, words):
        missing.append(Missing(Kind.ORDER, " … ".join(claim.text for claim in claimed)))
    return missing


def _words(text: str) -> list[str]:
    folded = normal(text).casefold()
    return [w.removesuffix("'s") for w in re.findall(r"\w+(?:['’]\w+|[-./]\w+)*", folded)]


def _lacking(claimed: Sequence[Claim], offered: Sequence[Claim], words: set[str]) -> list[Missing]:
    left = list(offered)
    missing: list[Missing] = []
    for claim in claimed:
        at = next((i for i, other in enumerate(left) if _covers(other, claim)), None)
        if at is not None:
            if not _is_year_of(left[at], claim):
                del left[at]
        elif claim.kind is not Kind.NAME or claim.key not in words:
            other_unit = claim.kind is Kind.NUMBER and any(o.key == claim.key for o in left)
            missing.append(Missing(Kind.UNIT if other_unit else claim.kind, claim.text))
    missing.extend(Missing(c.kind, c.text, left_out=True) for c in left if c.kind is Kind.NEGATION)
    return missing


def _covers(offered: Claim, claimed: Claim) -> bool:
    """Whether a claim of a quote bears one of the sentence: the same, or a date of which it is a coarser part."""
    if offered.kind is Kind.DATE and claimed.kind is Kind.DATE:
        return offered.key == claimed.key or offered.key.startswith(claimed.key + "-")
    if _is_year_of(offered, claimed):
        return True
    return (offered.kind, offered.key, offered.unit) == (claimed.kind, claimed.key, claimed.unit)


def _is_year_of(offered: Claim, claimed: Claim) -> bool:
    year = claimed.kind is Kind.NUMBER and not claimed.unit and re.fullmatch(_YEAR, claimed.key)
    return bool(year) and offered.kind is Kind.DATE and offered.key.startswith(f"{claimed.key}-")


_MOST_ORDERS: Final = 4
"""Quotes up to which every order of them is tried."""


def _in_order(claimed: Sequence[Claim], offered: Sequence[Sequence[Claim]], words: set[str]) -> bool:
    orders = permutations(offered) if len(offered) <= _MOST_ORDERS else [tuple(offered)]
    return any(_follows(claimed, [c for claims in order for c in claims], words) for order in orders)


def _follows(claimed: Sequence[Claim], offered: Sequence[Claim], words: set[str]) -> bool:
    at = 0
    for claim in claimed:
        later = next((i for i in range(at, len(offered)) if _covers(offered[i], claim)), None)
        if later is not None:
            at = later if _is_year_of(offered[later], claim) else later + 1
        elif claim.kind is not Kind.NAME or claim.key not in words or any(_covers(o, claim) for o in offered):
            return False
    return True


# --- relevance and looks --------------------------------------------------------------------------------------


def alike(sentence: str, quote: str) -> bool:
    """Whether a quote says something about what a sentence says: they share at least two telling words, and half
    of the telling words of the shorter one.
    """
    ours = {w for w in _words(sentence) if w not in _PLAIN}
    theirs = {w for w in _words(quote) if w not in _PLAIN}
    shared = len(ours & theirs)
    return shared >= 2 and 2 * shared >= min(len(ours), len(theirs))


_JOINERS: Final = "\u200c\u200d"
_SHOWN_AS_THEY_ARE: Final = {"\ufe0e", "\ufe0f"}


def visible(text: str) -> str:
    """Return a text in which nothing is hidden: characters without a shape, or that turn the reading direction,
    are written as `⟨U+202E⟩`. Joiners stay where a script or an emoji needs them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(text, at) for at in range(len(text)))


def _visible(text: str, at: int) -> str:
    char = text[at]
    if char in _SHOWN_AS_THEY_ARE or (char in _JOINERS and at > 0 and not text[at - 1].isascii()):
        return char
    hidden = unicodedata.category(char) in {"Cf", "Cc", "Cs", "Co", "Zl", "Zp"} and char not in "\n\t\r"
    return f"⟨U+{ord(char):04X}⟩" if hidden else char


_ALPHABETS: Final = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE")


def mixed(text: str) -> list[str]:
    """Return the words that mix alphabets whose letters look alike: one may imitate another word."""
    if text.isascii():
        return []
    return [word for word in re.findall(r"[^\W\d_]{2,}", text) if len(_alphabets(word)) > 1]


def _alphabets(word: str) -> set[str]:
    names = (unicodedata.name(c, "") for c in word if c != "µ")
    return {name.split(" ", 1)[0] for name in names} & set(_ALPHABETS)
