"""Turns text into the terms that searching and scoring compare; decides what counts as the same word.

    "How are keyword-only parameters defined?"
      asked  ->  keyword 1.0 | only 1.0 | paramet 1.0 | defin 0.3   (a framing word weighs little)
    'The "with" statement wraps ...'
      keys   ->  =with | statement | wrap | ...                      (a stop word that is being named)

Scripts written without spaces (Chinese, Japanese, Thai, ...) have no words to split at: there, every
character is a key and so is every pair of neighbours.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from agents import families

_STOP_WORDS_TEXT: Final = """
a about above after again against all also am an and any are aren as at be because been before being below
between both but by can cannot could couldn d did didn do does doesn doing don down during each either
else for from further had hadn has hasn have haven having he her here hers herself him himself his how i
if in into is isn it its itself just ll m me might mine more most must my myself neither no nor not of off
on once or other our ours ourselves out over own please re s same shall she should shouldn so some such t
than that the their theirs them themselves then there these they this those through thus to too under
until up upon us ve very was wasn we were weren what whatever when where whether which while who whom
whose why will with within without won't would wouldn yes yet you your yours yourself yourselves
"""
STOP_WORDS: Final = frozenset(_STOP_WORDS_TEXT.split())
"""English words that carry the grammar of a sentence and not its subject."""

FRAMING: Final = 0.3
"""The weight of a word that frames a question ("explain the difference ..."): an answer rarely repeats it."""

NAMED: Final = 1.5
"""The weight of a proper name or a number: an answer that lacks it is about something else."""

_FRAMING_WORDS_TEXT: Final = """
answer articl becom came come compar compare defin definit describ descript detail differ exactli exampl
explain explan express find give happen inform kind know learn list long mani mean much name need often
outlin overview peopl person purpos question reason regard relat sai show sort sourc state summar summari
summaris tell topic understand us way work
"""
_FRAMING_WORDS: Final = frozenset(_FRAMING_WORDS_TEXT.split())
_NAMING_NOUNS: Final = (
    "statement|statements|keyword|keywords|operator|operators|clause|clauses|loop|loops|block|blocks|expression|"
    "expressions|command|commands|function|functions|method|methods|flag|flags|option|options|suite|word"
)
_NAMING_WORDS: Final = frozenset(_NAMING_NOUNS.split("|"))
# Function words that ordinary English never puts right after an article, so "the with" can only name the word.
_NAMEABLE: Final = "with|for|if|is|in|not|and|or|as|from|while|do|at|by|to|of|on|then|else|until|while|be|has|can|where|because"

_MARKS: Final = "\u0300-\u036f\u0610-\u061a\u064b-\u065f\u0670\u0640\u06d6-\u06ed\u0591-\u05c7"
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_MARK: Final = re.compile(f"[{_MARKS}]")
_UNSPACED_CHAR: Final = re.compile(f"[{_UNSPACED}]")
_TOKEN: Final = re.compile(
    rf"(?P<unspaced>[{_UNSPACED}]+)"
    r"|(?P<number>\d+(?:[.,]\d+)*)(?![^\W_])"
    rf"|(?P<word>(?:(?![{_UNSPACED}\u0964\u0965])(?:[^\W_]|[\u0900-\u0dff]))+)"
)
_BROKEN: Final = re.compile(r"(?<=[^\W\d_])[\u00ad\u2010][^\S\n]*\n[^\S\n]*(?=[^\W\d_])|\u00ad")
"""A hyphen that nobody types: a plain one at the end of a line may belong to the word."""
_POSSESSIVE: Final = re.compile(r"(?<=\w)['\u2019]s\b")
_QUOTED: Final = re.compile(
    r'"(?P<double>[^"\s]{1,24})"|(?<![`\w])`{1,2}(?P<tick>[^`\s]{1,24})`{1,2}'
    r"|\u201c(?P<curly>[^\u201d\s]{1,24})\u201d|(?<![\w'])'(?P<single>[^'\s]{1,24})'(?![\w'])"
)
_OPERATOR: Final = re.compile(
    r"(?<![^\s\w\"'`(])(?:===|!==|==|!=|<=>|<=|>=|->|=>|:=|\*\*|//|<<|>>|\+=|-=|\*=|/=|&&|\|\||\?\?)(?![^\s\w\"'`),.?;:])"
)
_NAMED_WORD: Final = re.compile(rf"\b(?:the|a|an)\s+({_NAMEABLE})\s+(?=\w)", re.IGNORECASE)
_ASKED_WORD: Final = re.compile(
    rf"\b({_NAMEABLE})\s+(?:{_NAMING_NOUNS})\b|\bdoes\s+({_NAMEABLE})\s+(?:do|mean)\b", re.IGNORECASE
)
_PAIR: Final = re.compile(r"\bbetween\s+(\S{1,24})\s+and\s+(\S{1,24})", re.IGNORECASE)
# What a Chinese or Japanese question is wrapped in; the rest is what it is about.
_ASKING: Final = re.compile(
    "什么是|是什么|什麼是|是什麼|什么|什麼|为什么|為什麼|怎么样|怎么|怎麼|如何|哪些|哪个|哪個|哪里|多少|吗|嗎|呢|是谁|谁|請問|请问"
    "|とは何ですか|とは何|とは|何ですか|ですか|ますか|なぜ|どのように|どこ|いつ|だれ|誰|何|무엇입니까|무엇인가요|무엇"
)


@dataclass(frozen=True, slots=True)
class Term:
    """One thing a question asks about: the `key` to count, its `text`, the `phrase` to search for, and its weight.

    `alike` is what means the same: each is one or more keys, all of which must be there.
    """

    key: str
    text: str
    phrase: str
    weight: float = 1.0
    alike: tuple[tuple[str, ...], ...] = ()


def fold(text: str) -> str:
    """Return `text` without case, accents and compatibility forms: "Ｃafé" and "cafe" are one word."""
    if text.isascii():
        return text.lower()
    composed = unicodedata.normalize("NFKC", unbroken(text)).casefold()
    return unicodedata.normalize("NFC", _MARK.sub("", unicodedata.normalize("NFD", composed)))


def words(text: str) -> list[str]:
    """Return the folded words of `text` in order; a run without spaces yields its characters."""
    return [word for _, word in _tokens(text)]


def spaced(text: str) -> str:
    """Return `text` with a space between the characters of scripts that use none, ready for an index."""
    return text if text.isascii() else _UNSPACED_CHAR.sub(lambda found: f" {found[0]} ", unbroken(text))


def unbroken(text: str) -> str:
    """Return `text` with the words whole that typesetting has cut in two at the end of a line."""
    return _BROKEN.sub("", text)


def keys(text: str) -> list[str]:
    """Return what can be counted in `text`, in order: stems, numbers, character pairs and named words."""
    return [*_plain_keys(text), *(f"={name}" for name in named(text))]


def named(text: str) -> list[str]:
    """Return the operators and stop words that `text` mentions by name, such as `==` or "with"."""
    names = [next(part for part in found.groups() if part) for found in _QUOTED.finditer(text)]
    found_names = [name.lower() for name in names]
    found_names += [name.lower() for name in _NAMED_WORD.findall(text)]
    found_names += _OPERATOR.findall(text)
    return [name for name in found_names if name in STOP_WORDS or not any(map(str.isalnum, name))]


def locator_words(locator: str) -> str:
    """Return what a file's name says, as words: "hr/pep-0008.rst" is about "hr pep 8"."""
    stem_only = re.sub(r"\.\w{1,8}$", "", locator)
    return re.sub(r"\b0+(?=\d)", "", re.sub(r"[\W_]+", " ", stem_only)).strip()


def encoded(name: str) -> str:
    """Return a named word or operator as one plain word that any tokenizer keeps whole."""
    return "named" + name.encode().hex()


def asked(question: str) -> tuple[Term, ...]:
    """Return the distinct terms of a question, in order; empty when it names nothing at all."""
    bare = _ASKING.sub(" ", question)
    proper = _proper_names(bare)
    found: dict[str, Term] = {}
    for kind, word in _tokens(bare, pairs=True):
        if word in STOP_WORDS:
            continue
        key = stem(word)
        weight = FRAMING if key in _FRAMING_WORDS else 1.0
        if kind == "number" or word in proper:
            weight = NAMED
        found.setdefault(key, Term(key, word, " ".join(word) if kind == "unspaced" else word, weight))
    asked_words = ["".join(groups).lower() for groups in _ASKED_WORD.findall(bare)]
    for name in [*named(bare), *asked_words, *_compared(bare)]:
        found.setdefault(f"={name}", Term(f"={name}", name, encoded(name)))
    if any(
        key.startswith("=") for key in found
    ):  # "the for loop" asks about "for": a text may say "statement"
        found = {
            key: replace(term, weight=FRAMING / 3) if term.phrase in _NAMING_WORDS else term
            for key, term in found.items()
        }
    return tuple(replace(term, alike=_alike(key, found)) for key, term in found.items())


def _alike(key: str, asked: Mapping[str, Term]) -> tuple[tuple[str, ...], ...]:
    """Return what means the same as a word of a question, or as the whole phrase that it is part of."""
    said = [group for group in _ALIKE if any(key in part and set(part) <= asked.keys() for part in group)]
    return tuple(dict.fromkeys(part for group in said for part in group if key not in part))


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Return the Porter stem of an English word, so that "defines" and "defined" are one; others unchanged."""
    if len(word) < 3 or not (word.isascii() and word.isalpha()):
        return word
    return _porter(_WORD_OF.get(word, word))


def _tokens(text: str, *, pairs: bool = False) -> Iterator[tuple[str, str]]:
    for found in _TOKEN.finditer(_POSSESSIVE.sub("", fold(text))):
        kind = found.lastgroup or "word"
        if kind != "unspaced":
            yield kind, found[0]
        elif pairs and len(found[0]) > 1:
            run = found[0]
            yield from ((kind, run[at : at + 2]) for at in range(len(run) - 1))
        else:
            yield from ((kind, char) for char in found[0])


def _plain_keys(text: str) -> Iterator[str]:
    before = ""
    for kind, word in _tokens(text):
        if kind == "unspaced":
            yield word
            if before:
                yield before + word
            before = word
            continue
        before = ""
        if word not in STOP_WORDS:
            yield stem(word)


def _compared(question: str) -> list[str]:
    """Return the two sides of "between X and Y" when only their being compared makes them words to look for."""
    pair = _PAIR.search(question)
    if pair is None:
        return []
    sides = [side.strip("\"'`?.,;:()\u201c\u201d").lower() for side in pair.groups()]
    return [side for side in sides if side in STOP_WORDS]


def _proper_names(question: str) -> frozenset[str]:
    """Return the words capitalised inside the question; none when everything or nothing is."""
    parts = [part for part in re.findall(r"[^\W\d_]+", _POSSESSIVE.sub("", question)) if part]
    inner = [part for part in parts[1:] if fold(part) not in STOP_WORDS]
    capital = [part for part in inner if part[0].isupper()]
    if len(inner) > 2 and len(capital) == len(inner):
        return frozenset()
    return frozenset(word for part in capital for word in words(part))


# --- Porter's stemmer -----------------------------------------------------------------------------------------

_VOWEL: Final = r"(?:[aeiou]|(?<=[^aeiou])y)"
_SYLLABLE: Final = re.compile(rf"{_VOWEL}+(?:(?!{_VOWEL}).)+")
_HAS_VOWEL: Final = re.compile(_VOWEL)
_DOUBLED: Final = re.compile(r"([^aeiouylsz])\1$")
_SHORT_END: Final = re.compile(r"(?:^|[^aeiou])[^aeiou](?:[aeiou]|(?<=[^aeiou])y)[^aeiouwxy]$")

_STEP_2: Final = (
    "ational:ate tional:tion enci:ence anci:ance izer:ize bli:ble alli:al entli:ent eli:e ousli:ous ization:ize "
    "ation:ate ator:ate alism:al iveness:ive fulness:ful ousness:ous aliti:al iviti:ive biliti:ble"
)
_STEP_3: Final = "icate:ic ative: alize:al iciti:ic ical:ic ful: ness:"
_STEP_4: Final = "al ance ence er ic able ible ant ement ment ent sion tion ou ism ate iti ous ive ize"


def _pairs(table: str) -> tuple[tuple[str, str], ...]:
    pairs = [entry.partition(":")[::2] for entry in table.split()]
    return tuple(sorted(pairs, key=lambda pair: -len(pair[0])))


_SUFFIXES_2: Final = _pairs(_STEP_2)
_SUFFIXES_3: Final = _pairs(_STEP_3)
_SUFFIXES_4: Final = _pairs(_STEP_4)


def _measure(part: str) -> int:
    return len(_SYLLABLE.findall(part))


def _porter(word: str) -> str:
    word = _without_plural(word)
    word = _without_tense(word)
    if word.endswith("y") and _HAS_VOWEL.search(word[:-1]):
        word = word[:-1] + "i"
    word = _exchange(word, _SUFFIXES_2, 0)
    word = _exchange(word, _SUFFIXES_3, 0)
    word = _without_ending(word)
    if word.endswith("e") and (
        _measure(word[:-1]) > 1 or (_measure(word[:-1]) == 1 and not _SHORT_END.search(word[:-1]))
    ):
        word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word


def _without_plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _without_tense(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) else word
    for suffix in ("ed", "ing"):
        root = word.removesuffix(suffix)
        if root == word:
            continue
        if not _HAS_VOWEL.search(root):
            return word
        if root.endswith(("at", "bl", "iz")):
            return root + "e"
        if _DOUBLED.search(root):
            return root[:-1]
        return root + "e" if _measure(root) == 1 and _SHORT_END.search(root) else root
    return word


def _exchange(word: str, suffixes: tuple[tuple[str, str], ...], least: int) -> str:
    for suffix, instead in suffixes:
        if word.endswith(suffix):
            root = word.removesuffix(suffix)
            return root + instead if _measure(root) > least else word
    return word


def _without_ending(word: str) -> str:
    for suffix, _ in _SUFFIXES_4:
        if word.endswith(suffix):
            root = word.removesuffix("ion") if suffix in {"sion", "tion"} else word.removesuffix(suffix)
            if _measure(root) <= 1:
                return word
            # Beyond Porter: "definition" and "define" must meet, or a question misses its own definition.
            return root[:-2] if suffix == "tion" and root.endswith("it") and len(root) > 6 else root
    return word


# --- families of words ----------------------------------------------------------------------------------------

_WORD_OF: Final = {form: forms[0] for forms in families.FORMS for form in forms[1:]}
_ALIKE: Final = tuple(
    tuple(tuple(stem(word) for word in part.split()) for part in group) for group in families.ALIKE
)
