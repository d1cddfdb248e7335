"""Understands a message by what was said before it: small talk, a question about what was found, a change to it, a wish
for more, or something new. In doubt it is something new, which is researched: an answer from nothing is the worst of all.

    "thanks"                                          casual
    "go deeper", "are you sure?"                      deeper      the whole message, or about what was asked
    "no, only for 2024", "use Spain instead",         revise      the question with the change in it
    "what about Germany?" after a question on France
    "how tall is it?", "why?", "and in winter?"       follow_up   the question with what it is about put in
    "What is a buoy?"                                 new_topic   as it is

Rules read the words and not a model of the world, in a dozen languages. A question that could stand alone stands alone;
that it shares its subject with the last only lets the facts of that be looked through first.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agents import kinds, relevance, terms
from agents.asking import RULES
from orchestrator.domain.conversation import Before, Kept, Recalled, Route, Understood
from orchestrator.domain.identity import Principal

SHORT: Final = 8
"""Words up to which a message that begins with "and" goes on from what was said."""

SUFFICIENT: Final = relevance.THRESHOLD
"""The least share of a question (0.0 to 1.0) that a fact must cover for it to be answered without new research."""


class Rules:
    """A listener that goes by rules alone: the same message after the same words means the same."""

    def understand(self, who: Principal, message: str, before: Before | None) -> Understood:  # noqa: ARG002
        """Return what a message means."""
        return understand(message, before)

    def recall(self, message: str, goal: str, facts: Sequence[Kept], limit: int) -> Recalled:
        """Return the facts that answer what a message meant; none where they do not suffice."""
        return recall(message, goal, facts, limit)


def understand(message: str, before: Before | None) -> Understood:
    """Return what a message means after what was said before."""
    text = " ".join(unicodedata.normalize("NFC", message).split())
    plain = _plain(text)
    if plain in _ACKNOWLEDGED or _THANKED.fullmatch(plain):
        return Understood(Route.CASUAL, text)
    bare = _bare(text)
    refers = before is not None and not _COMMANDS.search(text)
    # what stands for something said before comes first: by itself "really?" would be small talk
    found = (_deeper(bare, before) or _alone(bare, before)) if before and refers else None
    if found is None and (kind := kinds.decide(text).kind) != "deep":
        return Understood(Route.CASUAL if kind == "casual" else Route.NEW_TOPIC, text)
    if found is None and before and refers:
        found = _revised(bare, before) or _followed(bare, before)
    # a few words without a name of their own are often about something; nobody could tell what
    own = not refers or len(plain.split()) > SHORT or bool(_names(text))
    return found or Understood(Route.NEW_TOPIC, text, sure=own)


def _bare(text: str) -> str:
    """A message without what is said for politeness."""
    polite = _POLITE.match(text)
    if polite is None:
        return text
    bare = text[polite.end() :].strip()
    # "could you leave that out?" asks for nothing but that
    return bare.rstrip(" ?？") if _MODAL.search(polite[0]) else bare


def _plain(text: str) -> str:
    """A message without case and the marks around and between its words."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return " ".join(re.sub(r"[^\w'\-\s]|_", " ", folded).split())


def _words(text: str) -> str:
    return _POLITE_END.sub("", _plain(text))


# --- what a model may say about it --------------------------------------------------------------------------------

TASK: Final = (
    'Say what the message wants, given the question that was asked before it: {"route": "follow_up"} if it asks about the '
    'same thing, {"route": "revise"} if it changes that question, {"route": "deeper"} if it wants more of the same answer, '
    '{"route": "new_topic"} if it can be understood without it. In doubt, "new_topic". Answer neither of them.'
)
_REPLY: Final = re.compile(
    r'(?:```(?:json)?\s*)?\{\s*"route"\s*:\s*"(follow_up|revise|deeper|new_topic)"\s*\}(?:\s*```)?'
)


def question_for_a_model(message: str, before: Before) -> list[dict[str, str]]:
    """Return the conversation by which a model is asked what a doubtful message wants; it sees no document."""
    material = json.dumps({"before": before.goal, "message": message}, ensure_ascii=False).replace(
        "</", "<\\/"
    )
    return [
        {"role": "system", "content": f"{RULES}\n\n{TASK}"},
        {"role": "user", "content": f"<data>\n{material}\n</data>"},
    ]


def chosen(reply: str, message: str, before: Before) -> Understood | None:
    """Return what a model's reply makes of a message, or `None` where it cannot be read.

    A model chooses the route and nothing else: the question in full is made by rules, so that it says what was said.
    """
    found = _REPLY.fullmatch(reply.strip())
    if found is None:
        return None
    text = " ".join(unicodedata.normalize("NFC", message).split())
    match Route(found[1]):
        case Route.FOLLOW_UP:
            return Understood(Route.FOLLOW_UP, _beside(text, subject(before.goal)))
        case Route.REVISE:
            return Understood(
                Route.REVISE, _put_in(text, before) or _amended(before.goal, text.rstrip("?？ "))
            )
        case Route.DEEPER:
            return Understood(Route.DEEPER, before.goal)
        case _:
            return Understood(Route.NEW_TOPIC, text)


# --- small talk, and what is not for a conversation ---------------------------------------------------------------

_ACKNOWLEDGED: Final = frozenset(
    {
        "ok", "okay", "k", "got it", "great", "perfect", "cool", "nice", "understood", "i see", "thanks a lot",
        "no thanks", "no thank you", "never mind", "that's all", "that is all", "good", "fine", "all right", "alright",
        "thanks that's all", "great thanks", "ok thanks", "okay thanks", "thx", "well done", "danke", "danke schön",
        "vielen dank", "alles klar", "merci", "merci beaucoup", "d'accord", "gracias", "muchas gracias", "vale",
        "grazie", "grazie mille", "obrigado", "obrigada", "谢谢", "好的", "ありがとう", "ありがとうございます", "спасибо",
        "شكرا", "terima kasih", "teşekkürler", "dank je", "tack",
    }
)  # fmt: skip
"""Messages that ask for nothing, besides those of the router; only the whole message counts."""

_THANKED: Final = re.compile(
    r"(?:ok|okay|cool|great|nice|awesome|perfect|good|fine|all ?right|wow|thanks|thx|cheers|thank you|bye|goodbye|see you)"
    r"(?: (?:ok|okay|cool|great|nice|perfect|good|fine|thanks|thank you|bye|goodbye|see you|later|soon|so much|very much|a lot|again|then|too|everyone|all|that helps|that helped))*"
)
_COMMANDS: Final = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b[^.?!]{0,40}\b(?:instructions?|prompts?|rules?|guidelines|policy|policies)\b"
    r"|\bsystem prompt\b|\bdeveloper mode\b|\bjailbreak\b|\byou are now\b|</?data>",
    re.IGNORECASE,
)
"""What asks for other rules changes nothing that was asked: it is a message of its own, which the router of plans judges."""

_POLITE: Final = re.compile(
    r"^(?:(?:please|pls|could you|can you|would you|will you|kindly|now|ok(?:ay)?|well|hm+|bitte|kannst du|können sie|"
    r"könntest du|s'il (?:te|vous) pla[iî]t|peux-tu|pouvez-vous|por favor|puedes|per favore|puoi|pode|请|пожалуйста|tolong)"
    r"(?:[\s,]+|(?<=请)))+",
    re.IGNORECASE,
)
_MODAL: Final = re.compile(r"\b(?:you|du|sie|tu|vous|puedes|puoi|pode)\b", re.IGNORECASE)
_POLITE_END: Final = re.compile(
    r"(?:\s(?:please|pls|bitte|s'il (?:te|vous) pla[iî]t|por favor|per favore|thanks))+$"
)

# --- more of it -----------------------------------------------------------------------------------------------

_IT: Final = r"(?:it|this|that|them|these|those|the (?:topic|subject|matter|answer|question))"
_MORE: Final = r"(?:details?|depth|information|info|sources|evidence|background)"
_DEEPER: Final = re.compile(
    "|".join(
        (
            (
                rf"(?:go|dig|look|research|search|drill|delve)(?: {_IT}| into {_IT})?(?: an?)?(?: bit| little| lot| much| even)*"
                rf" (?:deeper|further|harder|more deeply|more thoroughly|in(?: more| greater)? depth)(?: (?:into|on|about|at) {_IT})?"
            ),
            (
                rf"(?:(?:i (?:want|need|would like)|i'd like)(?: to (?:know|see))? |give |show |tell |get |find |find out )?(?:me |us )?(?:some |even )?"
                rf"(?:more|further|additional)(?: {_MORE})?(?: (?:on|about|for) {_IT})?"
            ),
            rf"(?:in |with )?(?:some |much |even )?(?:more|greater) (?:detail|depth)(?: (?:on|about) {_IT})?",
            rf"(?:elaborate|expand)(?: (?:on|upon) {_IT}| a bit| further)*|deeper|in detail|keep (?:going|digging|looking|searching)",
            rf"(?:but )?are you (?:really |quite |absolutely |very )*(?:sure|certain)(?: (?:about|of) {_IT}| that's (?:right|true))?",
            rf"is {_IT} (?:really |actually )?(?:true|right|correct|certain)|really|how (?:sure|certain|confident) are you",
            rf"(?:double[- ]?check|re-?check|verify|confirm|check)(?: {_IT})?(?: again| please)?",
            r"(?:is there )?(?:what|anything|something) (?:else|more)(?: (?:is there|do you know|did you find|to know))*",
            r"(?:be|research it) more thorough(?:ly)?|more thorough(?:ly)?",
            rf"(?:{_IT}(?: is|'s) )?(?:too|rather|not)(?: very)? (?:shallow|superficial|thin|deep enough|detailed enough|thorough enough|enough)|go further|i (?:don't|do not) believe {_IT}|that's (?:not enough|too (?:shallow|superficial|thin|short))",
            # German
            r"(?:geh|gehe|gehen sie|grab|grabe|forsche|such|suche|recherchiere)(?: noch| bitte)* (?:tiefer|weiter|gründlicher|genauer)",
            r"(?:noch )?(?:mehr|weitere) (?:details|einzelheiten|informationen|tiefe|quellen)(?: dazu| davon)?|mehr (?:dazu|davon|darüber)",
            r"(?:noch )?(?:genauer|ausführlicher|tiefer|gründlicher)|erzähl(?:e)?(?: mir)? mehr(?: davon| darüber| dazu)?",
            r"(?:bist du|sind sie)(?: dir| sich)?(?: da| wirklich| ganz)* sicher|stimmt das(?: wirklich)?|wirklich",
            # French
            r"(?:donne(?:z)?(?:-moi)? )?(?:plus|davantage) (?:de |d')(?:détails|informations|sources|précisions)|en détail|plus en détail",
            r"(?:va|allez|creuse|creusez|cherche|cherchez) plus (?:loin|profond(?:ément)?|en profondeur)|approfondi(?:s|ssez)(?: ça| cela)?",
            r"(?:es-tu|êtes-vous|tu es|vous êtes|t'es)(?: vraiment)? sûre?s?(?: de (?:ça|cela|toi))?|di(?:s|tes)-m'en plus|vraiment",
            # Spanish, Italian, Portuguese
            r"(?:dame )?más (?:detalles?|información|profundidad|fuentes)|(?:profundiza|profundice|investiga)(?: más)?(?: en (?:eso|esto|ello))?",
            r"cu[ée]ntame más(?: sobre (?:eso|esto|ello))?|¿?(?:estás|está usted|está)(?: realmente)? segur[oa]|más a fondo|ve más a fondo",
            r"(?:più|maggiori) (?:dettagli|informazioni|approfondimenti)|approfondisci|vai più a fondo|(?:ne )?sei (?:davvero )?sicur[oa]|dimmi di più",
            r"mais (?:detalhes|informações|profundidade)|aprofund[ea](?: mais)?|(?:você )?tem certeza|(?:me )?cont[ea](?:-me)? mais|vá mais fundo",
            # Russian, Arabic, Indonesian, Turkish, Dutch
            r"(?:расскажи(?:те)? |ещё |еще )?(?:подробнее|больше подробностей|глубже)|копай(?:те)? глубже|(?:ты|вы) уверен[аы]?|это правда|точно",
            r"(?:أعطني )?(?:المزيد من التفاصيل|المزيد|تفاصيل أكثر|تعمق أكثر)|هل أنت متأكد|بالتفصيل",
            r"(?:jelaskan )?lebih (?:detail|dalam|rinci|lanjut)|(?:apakah )?(?:kamu|anda) yakin|ceritakan lebih (?:banyak|lanjut)",
            r"daha (?:fazla|çok) (?:ayrıntı|detay|bilgi)|emin misin(?:iz)?|meer (?:details|informatie)|(?:ga )?dieper|weet je het zeker",
            # Chinese, Japanese, Korean
            r"(?:再|更)?(?:深入|详细|詳細|仔细)(?:一点|一些|地说|地研究|研究|说明|说说|解释)?(?:吧|吗)?|更多(?:细节|信息|资料|内容)?|你?(?:真的)?确定吗|真的吗",
            r"もっと(?:詳しく|深く|教えて)?(?:お願いします|教えてください|調べて)?|詳しく(?:教えて|教えてください|お願いします)?|本当(?:ですか|に)?|確かですか",
            r"더 자세히(?: 알려줘| 설명해줘)?|더 깊이|확실해(?:요)?|정말(?:이에요)?",
        )
    )
)
_DEEPER_ABOUT: Final = re.compile(
    rf"(?:go|dig|look|delve) (?:deeper|further) (?:into|on|at) (?P<a>.+)|(?:tell me |give me )?more(?: {_MORE})? (?:about|on) (?P<b>.+)"
    r"|(?:elaborate|expand) on (?P<c>.+)|(?:mehr|erzähl mir mehr) über (?P<d>.+)|más (?:detalles|información) sobre (?P<e>.+)"
    r"|plus de détails sur (?P<f>.+)"
)


def _deeper(text: str, before: Before) -> Understood | None:
    words = _words(text)
    more = Understood(Route.DEEPER, before.goal)
    parts = [_words(part) for part in re.split(r"[,.;!?]", text)]
    if _DEEPER.fullmatch(words) or all(_DEEPER.fullmatch(part) for part in parts if part):
        return more
    about = _DEEPER_ABOUT.fullmatch(words)
    if about is None:
        return None
    wanted = _content(next(part for part in about.groups() if part))
    return more if wanted and wanted <= _content(before.goal) else None


# --- a change to it -------------------------------------------------------------------------------------------

_FORM: Final = re.compile(
    "|".join(
        (
            rf"(?:make|keep|write|say) {_IT} (?:a bit |much |more )?(?:simply|briefly|clearly|shorter|longer|simpler|brief|briefer|concise|clearer|short)",
            rf"(?:much |a bit )?(?:shorter|briefer|simpler|more concise|more briefly)|shorten {_IT}|simplify {_IT}",
            rf"(?:summari[sz]e|rephrase|reword|rewrite|translate|reformat)(?: {_IT})?(?: (?:in|as|into|for) .{{1,40}})?",
            (
                rf"(?:(?:put|format|present|rewrite|show|give|write) (?:me |us )?{_IT}(?: to (?:me|us))? )?(?:as|in) (?:a |an )?(?:table|list|bullet(?: point)?s?|bullets|"
                r"one sentence|two sentences|single sentence|paragraph|prose|json|summary|(?:other|simple|simpler|plain|fewer) words|short)"
            ),
            r"(?:in|auf|en|em) (?:english|german|french|spanish|deutsch|englisch|français|anglais|español|inglés|português)",
            r"kürzer|einfacher|als (?:tabelle|liste|stichpunkte)|fass(?:e)? (?:es|das)(?: kurz)? zusammen|in einem satz",
            r"plus (?:court|simple|bref)|sous forme de (?:tableau|liste)|résume(?:z)?(?: ça| cela|-le)?|en une phrase",
            r"más (?:corto|breve|simple)|en (?:una )?(?:tabla|lista|frase)|resúmelo|più (?:breve|corto|semplice)|mais (?:curto|breve|simples)",
            r"(?:简短|简洁|简单)(?:一点|一些|点)?|用(?:表格|列表|一句话)(?:表示|说明|总结)?|总结(?:一下)?|もっと短く|短くして|короче|покороче|lebih (?:singkat|pendek)",
        )
    )
)
_NO: Final = re.compile(
    r"^(?:no|nope|nein|non|nee|não|nao|нет|いいえ|不是?|لا|tidak|bukan|hayır)\s*[,.!:;，。、—–-]+\s*(?P<rest>.+)$",
    re.IGNORECASE,
)
_BUT: Final = re.compile(r"^(?:but|aber|mais|pero|ma|mas|но|tapi)\s+", re.IGNORECASE)
_ONLY: Final = re.compile(
    r"^(?:only|just|solely|exclusively|nur|lediglich|seulement|uniquement|solo|s[óo]lo|solamente|soltanto|apenas|somente|"
    r"только|hanya|sadece|alleen)\b(?!\s+(?:tell|say|give|answer|ask|explain|show|do|print|ignore|kidding|curious|wondering|checking|asking|a)\b)"
    r"|^(?:只|仅|僅)(?:要|看|限|考虑)?|だけ[にでをはお]?.{0,8}$|(?:,\s*|\s)(?:only|nur|seulement|solamente|soltanto|somente)[.!]?$",
    re.IGNORECASE,
)
_NARROWED: Final = re.compile(
    rf"^(?:restrict|limit|narrow|confine|filter)(?: {_IT}| the (?:search|results|scope)| yourself)?(?: down)? (?:to|by)\b"
    r"|^(?:focus|concentrate) (?:only |more )?on\b|^beschränke? (?:es|das|dich)\b|^limite(?:z)?(?:-toi|-vous)? à\b|^limítate a\b",
    re.IGNORECASE,
)
_WITHOUT: Final = re.compile(
    r"^(?:leave out|take out|cut out|exclude|omit|don't (?:include|mention)|do not (?:include|mention)|without|ohne|sans|sin|senza|sem|без|tanpa|zonder)\s+\S"
    r"|^leave .{1,60} out[.!]?$|^lass(?:e)? .{1,60} weg[.!]?$|^(?:不要|不包括|除了|去掉)",
    re.IGNORECASE,
)
_DROPPED: Final = re.compile(r"^(?:skip|drop|remove|ignore|forget(?: about)?)\s+(?P<what>.+)$", re.IGNORECASE)
_POINTED: Final = re.compile(r"^(?:the|that|this|those|these|anything|everything|all|any)\b", re.IGNORECASE)
_INSTEAD: Final = re.compile(
    r"\binstead\b(?!\s+of\s+(?:answering|research))|\bstattdessen\b|\banstatt\b|\bstatt\b|\bplutôt\b|\bau lieu d|\ben (?:lugar|vez) de\b|\bmejor\b"
    r"|\binvece\b|\bem vez d|\bвместо\b|代わりに|改成|换成|\bsebagai gantinya\b",
    re.IGNORECASE,
)
_ADDED: Final = re.compile(
    r"^(?:also |and )?(?:include|add|consider|cover|take into account)\s+\S|^(?:nimm|beziehe) .{1,60} (?:dazu|ein|auf)[.!]?$|^(?:ajoute|incluye|añade|inclui|aggiungi)(?:z)?\s",
    re.IGNORECASE,
)
_MEANT: Final = re.compile(
    r"^(?:no,?\s+)?(?:i (?:mean|meant|was asking (?:about|for)|am asking (?:about|for))|(?:ich )?(?:meine|meinte)|je (?:veux|voulais) dire|quiero decir|quería decir|intendevo|quis dizer|"
    r"я имею в виду|maksud saya)\b[\s,:]*(?P<what>.+)$",
    re.IGNORECASE,
)
_EXCHANGED: Final = re.compile(
    r"^(?:use|take|try|do|with|for|look at|nimm|prends|usa|toma|utilise)?\s*(?P<new>.+?)\s+(?:instead of|rather than|anstatt|statt|au lieu d[e']|en (?:lugar|vez) de|invece di|em vez de|вместо)\s*(?P<old>.+?)[.!]*$"
    r"|^(?:replace|swap|substitute|ersetze)\s+(?P<old2>.+?)\s+(?:with|by|for|durch)\s+(?P<new2>.+?)[.!]*$"
    r"|^(?:change|switch)\s+(?P<old3>.+?)\s+(?:to|into)\s+(?P<new3>.+?)[.!]*$"
    r"|^not\s+(?P<old4>.+?)(?:,\s*but|\s+but|,)\s+(?P<new4>.+?)[.!]*$|^nicht\s+(?P<old5>.+?),?\s+sondern\s+(?P<new5>.+?)[.!]*$"
    r"|^pas\s+(?P<old6>.+?),?\s+mais\s+(?P<new6>.+?)[.!]*$|^no\s+(?P<old7>.+?),?\s+sino\s+(?P<new7>.+?)[.!]*$",
    re.IGNORECASE,
)
_ABOUT: Final = re.compile(
    r"^(?:(?:and |but |so )?(?:what|how) about|and(?: what about)?(?: for| in| of)?|(?:the )?same(?: (?:question|thing))? for|(?:now )?(?:do|show|give) (?:that|this|the same|it) for|now(?: for)?|make (?:it|that)|actually,?|(?:und )?was ist mit|und(?: in| für)?|"
    r"et(?: pour| en| au| à)?|¿?y(?: en| de| para| qué hay de| qué pasa con)?|e(?: in| per| em| para| a)?|а(?: в| для)?|и(?: в)?|bagaimana dengan|hoe zit het met|en)"
    r"\s+(?P<what>[^?？]+?)\s*[?？.!]*$",
    re.IGNORECASE,
)
_SMALL: Final = r"(?:the|of|de|der|die|das|la|le|les|el|los|du|des|and|di|da|do|l')"


def _revised(text: str, before: Before) -> Understood | None:
    refused = _NO.match(text)
    rest = _BUT.sub("", refused["rest"] if refused else text).strip()
    if _FORM.fullmatch(_words(rest)):
        return Understood(Route.REVISE, before.goal, form_only=True)
    goal = _exchanged(rest, before) or (_instead_of_a_name(rest, before) if not refused else None)
    if goal:
        return Understood(Route.REVISE, goal)
    if rest.endswith(("?", "？", "؟")):
        return None  # it asks, so it changes nothing that was asked
    meant = _MEANT.match(rest)
    if meant:
        return Understood(
            Route.REVISE, _put_in(meant["what"], before) or _amended(before.goal, meant["what"])
        )
    dropped = _DROPPED.match(rest)
    named = dropped and _names(before.goal) and _is_name(dropped["what"].rstrip(" .!"))
    if dropped and (named or _POINTED.match(dropped["what"]) or _shares(dropped["what"], before)):
        return Understood(Route.REVISE, _amended(before.goal, f"without {dropped['what']}"))
    if any(rule.search(rest) for rule in (_ONLY, _NARROWED, _WITHOUT, _INSTEAD, _ADDED)):
        return Understood(Route.REVISE, _put_in(rest, before) or _amended(before.goal, rest))
    if refused and len(rest.split()) <= SHORT:
        return Understood(Route.REVISE, _put_in(rest, before) or _amended(before.goal, rest))
    return None


def _exchanged(text: str, before: Before) -> str | None:
    """The goal with one thing in place of another that it names, where a message says so."""
    found = _EXCHANGED.match(text)
    if found is None:
        return None
    parts = found.groupdict()
    old = next(value for name, value in parts.items() if name.startswith("old") and value)
    new = next(value for name, value in parts.items() if name.startswith("new") and value)
    bare_old = re.sub(r"^(?:for|in|of|on|the|für|pour|para)\s+", "", old, flags=re.IGNORECASE)
    bare_new = re.sub(r"^(?:for|in|of|on|für|pour|para)\s+", "", new, flags=re.IGNORECASE)
    changed = re.sub(
        rf"(?<!\w){re.escape(bare_old)}(?!\w)", lambda _: bare_new, before.goal, flags=re.IGNORECASE
    )
    if changed != before.goal:
        return changed
    return _amended(before.goal, text.rstrip(".!")) if _shares(old, before) else None


def _instead_of_a_name(text: str, before: Before) -> str | None:
    """The goal with another name in place of its last, for "what about Germany?" after a question about France."""
    asked = _ABOUT.match(text)
    what = asked["what"].strip() if asked else ""
    return _put_in(what, before) if what and (_is_name(what) or what.isdecimal()) else None


def _put_in(what: str, before: Before) -> str | None:
    """The goal with a name or a number in place of its last one, where it has one of that kind."""
    core = re.sub(
        r"\b(?:use|take|only|just|for|in|instead|nur|für|stattdessen|seulement|pour|plutôt|solo|para)\b",
        " ",
        what,
        flags=re.IGNORECASE,
    )
    core = " ".join(core.split()).strip(" ,.!?")
    if re.fullmatch(r"\d{4}", core):
        years = list(re.finditer(r"\b\d{4}\b", before.goal))
        return _spliced(before.goal, years[-1].span(), core) if years else None
    names = _names(before.goal)
    if not names or not _is_name(core) or _plain(core) in _plain(before.goal):
        return None
    return _spliced(before.goal, names[-1].span(), core)


def _spliced(text: str, span: tuple[int, int], new: str) -> str:
    return f"{text[: span[0]]}{new}{text[span[1] :]}"


def _amended(goal: str, change: str) -> str:
    """The goal with a change written behind it."""
    core = goal.rstrip(" ?？؟.!。")
    mark = goal[len(core) :].strip() or "?"
    told = change.strip().rstrip(" .!。")
    lowered = told if _names(told[: len(told.split(" ")[0])]) else told[:1].lower() + told[1:]
    return f"{core}, {lowered}{mark}"


# --- about it -------------------------------------------------------------------------------------------------

_ALONE: Final = frozenset(
    {
        "why", "how", "when", "where", "who", "since when", "how so", "how come", "why not", "which one", "which ones", "which",
        "how many", "how much", "how long", "for example", "such as", "like what", "such as what", "says who", "according to whom",
        "what for", "until when", "compared to what", "warum", "wieso", "wann", "wo", "wer", "wie viele", "seit wann", "zum beispiel",
        "wie", "pourquoi", "comment", "quand", "où", "combien", "depuis quand", "par exemple", "por qué", "cuándo", "dónde",
        "cuánto", "cómo", "por ejemplo", "perché", "quando", "dove", "come", "quanto", "por quê", "porquê", "onde", "为什么", "怎么",
        "什么时候", "在哪里", "谁", "なぜ", "どうして", "いつ", "どこ", "почему", "когда", "где", "как", "сколько", "لماذا", "متى", "أين",
        "كيف", "kenapa", "mengapa", "kapan", "di mana", "neden", "niçin", "ne zaman", "waarom", "왜", "언제",
    }
)  # fmt: skip
_GOES_ON: Final = re.compile(
    r"^(?:and|but|so|then|also|plus|und|aber|auch|et|mais|y|pero|e|ma|mas|и|а|но|dan|ve|那|那么|じゃあ|では|¿y)\b\s*|^(?:what|how) about\s",
    re.IGNORECASE,
)
_POSSESSIVE: Final = re.compile(r"\b(?:its|their|his|her)\b(?!\s*[?.!]|$)", re.IGNORECASE)
_PRONOUN: Final = re.compile(r"\b(?:it|they|them|he|him|she|her|theirs|hers)\b", re.IGNORECASE)
_POINTS: Final = re.compile(
    r"\b(?:this|that|these|those)\b(?=\s*[?.!,]|$|\s+(?:is|are|was|were|mean|means|work|works|happen|happens|happened|one|ones|place|"
    r"country|city|case|year|time|answer|fact|claim|thing|still|really|so|also|always|true|even|normal|common|legal|number|figure|event|person|word|rule|building|company)\b)"
    r"|\b(?:does|did|is|was|would|will|can) (?:this|that|these|those) \w+(?=\s*[?.!]|$)"
    r"|\b(?:there|here)\b(?=\s*[?.!,]|$)|\bthe (?:first|second|third|last|former|latter|other|same)(?: one| ones)?\b(?=\s*[?.!,]|$|\s+(?:one|ones|is|was|mean))"
    r"|\bof (?:it|them|that|those|these)\b",
    re.IGNORECASE,
)
_NO_SUBJECT: Final = re.compile(
    r"\b(?:is|was|isn't|wasn't|would|will) it (?:be )?(?:true|possible|legal|illegal|safe|necessary|allowed|normal|common|ok|okay|better|hard|easy|"
    r"raining|snowing|cold|hot|worth)\b|\b(?:does|did|will|would) it (?:take|cost|mean|matter)\b|\bit(?:'s| is| was) (?:raining|snowing|said|true|possible|known)\b"
    r"|\b(?:make|made) it\b|\bwhat (?:time|day|date) (?:is|was) it\b",
    re.IGNORECASE,
)
_OWN: Final = re.compile(
    r"\b(?:an?|the)\s+(?!(?:first|second|third|last|former|latter|other|same)\b)\w", re.IGNORECASE
)
_CLAUSE: Final = re.compile(r"[,:;.—–]|\band\b|\bbut\b|\bor\b", re.IGNORECASE)
_ELSEWHERE: Final = re.compile(
    r"\b(?:davon|dort|dazu|dafür|damit|daran|darüber|darin|dessen|deren|ihn|ihm|ihre[nmrs]?|seine[nmrs]?|dieser|diese|dieses)\b|\b(?:wie|was|wo|wann|warum|wer|wohin|ist|hat|war|kann|wird|steht|liegt)\b.*\b(?:er|sie|es)\b|(?<!pleut)(?<!faut)(?<!agit)(?<!\by a)(?<!existe)-(?:t-)?(?:ils?|elles?)\b|\b(?:quelle?s?|qui) (?:est|sont) (?:sa|son|ses|leurs?)\b|\bcelle?s?-(?:ci|là)\b|\b(?:ça|cela)\b|\bde (?:sa|son|ses)\b|\b(?:cuál|cuáles|cómo|dónde|quién|qué|cuándo|cuánto)\b.*\b(?:su|sus|eso|esto|ello|allí|ella|él|ellos)\b|\b(?:qual|quale|quali|come|dove|chi|quando|quanto|quanta|che)\b.*\b(?:suo|sua|suoi|sue|esso|essa|lì|ciò)\b|\b(?:qual|quais|como|onde|quem|quando|quanto|o que)\b.*\b(?:seu|sua|seus|suas|ele|ela|isso|lá|dele|dela)\b|\b(?:он|она|оно|они|его|её|ее|их|там|этого|нём|ней|ним)\b|\w{3,}nya\b|\b(?:itu|mereka)\b\s*\??$|\b(?:onun|onlar|orada)\b|\b(?:هو|هي|هم|ذلك|هناك)\b|它们?|他们|她们|那里|那儿|其中|[他她](?:是|的|在|什么|有)|それ|その|あれ|そこ|彼女?[はがの]|그것|거기",
    re.IGNORECASE,
)


def _alone(text: str, before: Before) -> Understood | None:
    """A word that only asks, and so asks about what was asked before."""
    if _words(text) not in _ALONE:
        return None
    return Understood(Route.FOLLOW_UP, f"{text.rstrip(' ?？؟.!')}: {before.goal}")


def _followed(text: str, before: Before) -> Understood | None:
    words = _words(text)
    own = _content(text)
    new_names = [
        n[0] for n in _names(text) if _plain(n[0]) not in _plain(" ".join((before.goal, *before.quotes)))
    ]
    if _refers(text):
        return Understood(Route.FOLLOW_UP, _resolved(text, subject(before.goal)))
    if _ELSEWHERE.search(text):
        return Understood(Route.FOLLOW_UP, _beside(text, subject(before.goal)))
    if _GOES_ON.match(text) and len(words.split()) <= SHORT and (not new_names or _ABOUT.match(text)):
        return Understood(Route.FOLLOW_UP, _beside(text, subject(before.goal)))
    if own and not new_names and _shares(text, before):
        return Understood(Route.FOLLOW_UP, text)
    return None


def _refers(text: str) -> bool:
    """Whether a word of the message stands for something that the message itself does not name."""
    found = _POSSESSIVE.search(text) or _PRONOUN.search(text) or _POINTS.search(text)
    if found is None or _NO_SUBJECT.search(text):
        return False
    ahead = text[: found.start()]
    clause = list(_CLAUSE.finditer(ahead))
    named_before = bool(clause) and bool(
        _OWN.search(ahead[: clause[-1].start()]) or _names(ahead[: clause[-1].start()], first=True)
    )
    return not named_before


def _resolved(text: str, about: str) -> str:
    """The message with what it is about in place of the first word that stands for it."""
    possessive = _POSSESSIVE.search(text)
    if possessive:
        return _spliced(text, possessive.span(), f"{about}'" if about.endswith("s") else f"{about}'s")
    pronoun = _PRONOUN.search(text)
    if pronoun and not _POINTS.search(text[: pronoun.start()]):
        return _spliced(text, pronoun.span(), about)
    return _beside(text, about)


def _beside(text: str, about: str) -> str:
    """The message with what it is about written behind it."""
    core = text.rstrip(" ?？؟.!。")
    return f"{core} ({about}){text[len(core) :].strip() or '?'}"


_PHRASE: Final = re.compile(r"(?P<article>\b(?:an?|the)\s+)?(?P<words>[^\W_][\w'’\-]*)", re.IGNORECASE)


def subject(goal: str) -> str:
    """Return what a question is about, in its own words: a name that stands in it, or what it speaks of."""
    names = _names(goal)
    if names:
        return names[0][0]
    matters = {t.text for t in terms.asked(goal) if t.weight >= 1 and not t.key.startswith("=")}
    runs: list[list[re.Match[str]]] = [[]]
    for word in re.finditer(r"[^\W_][\w'’\-]*", goal):
        folded = terms.fold(word[0])
        if folded in matters or (runs[-1] and folded in {"of", "de", "du", "der", "di"}):
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
        if folded in {"a", "an", "the"} and runs[-1] == []:
            runs[-1] = []
    kept = []
    for run in runs:
        while run and terms.fold(run[-1][0]) not in matters:
            run.pop()
        if run:
            kept.append(run)
    if not kept:
        return goal.rstrip(" ?？؟.!。")
    articled = [run for run in kept if _article(goal, run[0].start())]
    first, last = (articled or kept)[0][0], (articled or kept)[0][-1]
    return f"{_article(goal, first.start())}{goal[first.start() : last.end()]}"


def _article(text: str, at: int) -> str:
    found = re.search(r"\b(?:an?|the)\s+$", text[:at], re.IGNORECASE)
    return found[0].lower() if found else ""


# --- words ----------------------------------------------------------------------------------------------------

_NAME: Final = re.compile(rf"[A-ZÀ-ÞĀ-ŽА-ЯΑ-Ω][\w'’\-]*(?:(?:\s+{_SMALL})*\s+[A-ZÀ-ÞĀ-ŽА-ЯΑ-Ω][\w'’\-]*)*")


def _names(text: str, *, first: bool = False) -> list[re.Match[str]]:
    """Runs of capitalised words inside a text; the first word of it counts only with `first`, or where others follow it."""
    found = []
    for name in _NAME.finditer(text):
        opens = not re.search(r"\w", text[: name.start()])
        if opens and not first:
            words = name[0].split()
            if len(words) == 1 or terms.fold(words[0]) in terms.STOP_WORDS:
                later = (
                    _NAME.search(text, name.start() + len(words[0]) + 1, name.end())
                    if len(words) > 1
                    else None
                )
                if later is not None:
                    found.append(later)
                continue
        if terms.fold(name[0]) not in terms.STOP_WORDS:
            found.append(name)
    return found


def _is_name(text: str) -> bool:
    """Whether a text is a name and nothing besides."""
    return bool(re.fullmatch(rf"(?:{_SMALL}\s+|l')*{_NAME.pattern}", text.strip()))


@dataclass(frozen=True, slots=True)
class _Wanted:
    asks: re.Pattern[str]
    answer: re.Pattern[str]


_WANTED: Final = (
    _Wanted(
        re.compile(r"^\W*(?:and |since |until )?when\b|\bwhat (?:year|date|day)\b|\bhow (?:many|much|long|far|high|old|large|big|tall|fast|deep|heavy|wide)\b|\bpercent", re.IGNORECASE),
        re.compile(r"\d"),
    ),
    _Wanted(
        re.compile(r"^\W*(?:and |but )?why\b|\bfor what reason\b", re.IGNORECASE),
        re.compile(r"\b(?:because|since|so that|due to|in order to|reason|therefore|to)\b", re.IGNORECASE),
    ),
    _Wanted(re.compile(r"^\W*(?:and |but )?who\b", re.IGNORECASE), re.compile(r"\w\s+[A-Z]|^[A-Z]\w+ [A-Z]|\b(?:who|people|men|women|keeper)\b")),
)  # fmt: skip
"""What an answer must hold by the way it is asked for: without a number nobody was told when."""


def _content(text: str) -> set[str]:
    """The keys of what a text is about: no grammar, and no words that only frame a question."""
    return {term.key for term in terms.asked(text) if term.weight >= 1}


def _shares(text: str, before: Before) -> bool:
    """Whether a text is about what was asked, or for a good part about what was found."""
    own = _content(text)
    if own & _content(before.goal):
        return True
    found = own & set(terms.keys("\n".join(before.quotes)))
    return len(found) >= 2 and 2 * len(found) > len(own)


# --- what is known already ------------------------------------------------------------------------------------


def recall(message: str, goal: str, facts: Sequence[Kept], limit: int) -> Recalled:
    """Return those facts that answer the goal that a message meant; none unless they cover all that the message names.

    That a fact is about the same thing is not enough: each word of the message that is not grammar must stand in the
    fact or above it, and where a number, a reason or a person is asked for, one must be there.
    """
    own = _content(message)
    distinct = {(k.fact.evidence, k.fact.start, k.fact.end): k for k in reversed(facts)}
    kept = list(distinct.values())[::-1]
    if not own or not kept:
        return Recalled()
    candidates = [_candidate(k) for k in kept]
    of = {id(candidate): k for candidate, k in zip(candidates, kept, strict=True)}
    fitting = [c for c, k in zip(candidates, kept, strict=True) if _answers(message, own, k)]
    if not fitting:
        return Recalled()
    # weighed among all facts, so that a word that stands in every one of them counts for little
    chosen = relevance.select(goal, candidates, len(candidates), threshold=SUFFICIENT)
    good = [s for s in chosen if any(s.candidate is c for c in fitting) and s.coverage >= SUFFICIENT]
    found = list(dict.fromkeys(id(s.candidate) for s in good))[:limit]
    return Recalled([of[each] for each in found], max((s.coverage for s in good), default=0.0))


def _candidate(kept: Kept) -> relevance.Candidate:
    fact = kept.fact
    return relevance.Candidate(fact.locator, fact.quote, fact.title, fact.heading, fact.start)


def _answers(message: str, own: set[str], kept: Kept) -> bool:
    place = "\n".join((kept.fact.quote, *kept.fact.heading, kept.fact.title))
    if not own <= set(terms.keys(place)):
        return False
    return all(wanted.answer.search(kept.fact.quote) for wanted in _WANTED if wanted.asks.search(message))
