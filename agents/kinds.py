"""Says by rules what a message is: small talk, an errand for a tool, a request for help with harm, or a question.

Rules compare whole words over the whole message, never parts of words: "Tokyo" is no "ok". A message is small talk or
an errand only if it is nothing besides. It asks for harm only if it asks, for an act of harm, and goes on with nothing
that puts this in doubt: "how to build a bomb shelter" and "kill people with kindness" are questions. What is in doubt
is a question too, and says what it is suspected to be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, TypeAlias
from zoneinfo import available_timezones

from agents import terms
from orchestrator.domain.plan import Json

Kind: TypeAlias = Literal["casual", "utility", "unsafe", "deep"]

_READ: Final = 2_000
"""Characters of a message that are read for harm."""

_BRIEF: Final = 120
"""Characters up to which a message can be small talk or an errand; what needs more is a question."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What a tool can answer at once: its name, and what it is to be called with."""

    tool: str
    inputs: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """What a message is by the rules. What is `suspected` is for a model to confirm; until then the message is deep."""

    kind: Kind
    errand: Errand | None = None
    suspected: Kind | None = None


def kind_of(message: str) -> Kind:
    """Return what a message is by the rules alone."""
    return decide(message).kind


def decide(message: str) -> Route:
    """Return what a message is by the rules, and what else it might be."""
    text = _folded(message[:_READ])
    if len(message) <= _BRIEF and (short := _brief(text, message)) is not None:
        return short
    if _HARM.search(text):
        plain = _PLAIN_HARM.search(text) and _ASKED.search(text) and not _INNOCENT.search(text)
        return Route("unsafe") if plain else Route("deep", suspected="unsafe")
    return Route("deep", suspected="casual" if _is_chatty(text) else None)


def about_own_life(message: str) -> bool:
    """Whether a message about harm is about that of whoever wrote it."""
    return _OWN_LIFE.search(_folded(message)) is not None


def _brief(text: str, message: str) -> Route | None:
    """Return what a message is that is small talk or an errand and nothing besides."""
    if _is_small_talk(text):
        return Route("casual")
    errand = _sum(message) or _conversion(text) or _time_of_day(text)
    return None if errand is None else Route("utility", errand)


# --- small talk -----------------------------------------------------------------------------------------------

_SMALL_TALK_TEXT: Final = """
hello; hi; hey; hiya; howdy; yo; hello there; hi there; hey there; hello again; greetings; good morning;
good afternoon; good evening; good night; good day; morning; evening; how are you; how are you doing;
how are you today; how are you doing today; how is it going; how s it going; how s life; what s up; whats up; sup;
nice to meet you; pleased to meet you; thanks; thank you; thank you very much; thank you so much; many thanks;
thanks a lot; thanks so much; thx; ty; cheers; much appreciated; bye; bye bye; goodbye; see you; see you later;
see you tomorrow; see ya; later; take care; have a nice day; have a good day; have a great day;
have a good weekend; ok; okay; ok thanks; okay thanks; ok thank you; cool; great; nice; awesome; perfect; wonderful;
well done; good job; great job; nice work; you are great; you re great; you rock; lol; haha; hahaha; no problem;
never mind; nevermind; sorry; you re welcome; you are welcome; welcome back; happy new year; merry christmas;
happy birthday; who are you; tell me a joke; are you there; are you a robot; are you human; test; testing; hallo;
guten tag; guten morgen; guten abend; gute nacht; moin; servus; gruss gott; gruß gott; wie geht s; wie geht es dir;
wie geht es ihnen; danke; danke schon; vielen dank; danke sehr; tschuss; auf wiedersehen; bis bald; bis spater;
bonjour; bonsoir; salut; coucou; ca va; comment ca va; comment allez vous; merci; merci beaucoup; au revoir;
a bientot; bonne nuit; bonne journee; hola; buenos dias; buenas tardes; buenas noches; que tal; como estas;
como esta usted; gracias; muchas gracias; adios; hasta luego; hasta manana; ciao; buongiorno; buonasera;
buona notte; come stai; come va; grazie; grazie mille; arrivederci; ola; oi; bom dia; boa tarde; boa noite;
tudo bem; obrigado; obrigada; muito obrigado; tchau; ate logo; hoi; goedemorgen; goedemiddag; goedenavond; dank je;
dank je wel; dank u wel; tot ziens; hej; hejsan; god morgon; tack; tack sa mycket; hej da; tak; takk; hei; kiitos;
moi; czesc; dzien dobry; dobry wieczor; dziekuje; dzieki; do widzenia; merhaba; selam; gunaydin; tesekkurler;
tesekkur ederim; gule gule; selamat pagi; selamat siang; selamat malam; apa kabar; terima kasih; sampai jumpa;
halo; привет; здравствуите; доброе утро; добрыи день; добрыи вечер; как дела; спасибо; большое спасибо; пока;
до свидания; привіт; дякую; namaste; नमसत; नमस्ते; धन्यवाद; مرحبا; السلام عليكم; شكرا; صباح الخير; مع السلامة; שלום;
תודה; γεια σου; καλημερα; ευχαριστω; 你好; 您好; 早上好; 晚上好; 晚安; 你好吗; 谢谢; 謝謝; 谢谢你; 多谢; 再见; 再見; 拜拜; 你好嗎; こんにちは; こんばんは;
おはよう; おはようございます; ありがとう; ありがとうございます; さようなら; またね; お元気ですか; おやすみなさい; 안녕; 안녕하세요; 감사합니다; 고마워; 고맙습니다; 안녕히 가세요; สวัสดี;
ขอบคุณ; xin chao; cam on
"""
"""Messages that ask for nothing. Only the whole message counts: "Hello, what is a closure?" is a question."""

_ADDRESSED: Final = (
    r"(?: (?:everyone|everybody|all|team|friend|folks|assistant|bot|again|you|so much|alle|zusammen))?"
)
_NOT_LETTERS: Final = re.compile(r"[\W_]+")
_PIECES: Final = re.compile(r"[.!?,;:…。！？、，\n)(]+|(?<=\w)\s+(?=[^\w\s])")
_CHAT_LIMIT: Final = 5


def _folded(message: str) -> str:
    return " ".join(terms.fold(message).split()).lstrip("¿¡ ")


def _bare(text: str) -> str:
    return _NOT_LETTERS.sub(" ", text).strip()


_PHRASES: Final = frozenset(
    " ".join(_NOT_LETTERS.sub(" ", terms.fold(phrase)).split()) for phrase in _SMALL_TALK_TEXT.split(";")
)


def _is_small_talk(text: str) -> bool:
    pieces = [bare for piece in _PIECES.split(text) if (bare := _bare(piece))]
    return bool(pieces) and (_bare(text) in _PHRASES or all(map(_is_phrase, pieces)))


def _is_phrase(piece: str) -> bool:
    return piece in _PHRASES or re.sub(_ADDRESSED + "$", "", piece) in _PHRASES


_CHAT: Final = re.compile(
    r"\b(?:hello|hi|hey|thanks|thank|bye|goodbye|lol|haha|hallo|danke|bonjour|merci|hola|gracias|ciao|grazie)\b"
)


def _is_chatty(text: str) -> bool:
    """Whether a message may be small talk that no list has: short, begun like it, and no question."""
    words = _bare(text).split()
    return len(words) <= _CHAT_LIMIT and bool(_CHAT.search(text)) and not re.search(r"[?？؟\d]", text)


# --- errands --------------------------------------------------------------------------------------------------

_ASKING: Final = (
    r"(?:(?:please|could you|can you|hey|hi|hello)[, ]+)*"
    r"(?:what is|what s|what are|whats|how much is|how many is|calculate|compute|work out|evaluate|solve|"
    r"wie viel ist|was ist|berechne|combien font|combien fait|calcule|cuanto es|calcula|quanto fa|calcola|quanto e|"
    r"сколько будет|вычисли)"
)
_RECKON: Final = re.compile(
    r"(?:please )?(?:calculate|compute|work out|evaluate|solve|berechne|calcule|calcula|calcola|вычисли)\b"
)
_NUMBER: Final = r"\d+(?:[.,]\d+)*"
_SPELT: Final = (
    (re.compile(r"\b(?:multiplied by|times)\b|×|·"), "*"),
    (re.compile(r"\bdivided by\b|\bover\b|÷"), "/"),
    (re.compile(r"\bplus\b"), "+"),
    (re.compile(r"\bminus\b|[−–]"), "-"),
    (re.compile(r"\b(?:squared)\b|²"), "**2"),
    (re.compile(r"\bto the power of\b|\^"), "**"),
    (re.compile(rf"\b(?:the )?square root of ({_NUMBER})"), r"sqrt(\1)"),
    (re.compile(rf"({_NUMBER}) ?(?:%|percent|per cent) of ({_NUMBER})"), r"(\1/100)*\2"),
    (re.compile(r"(?<=\d) ?x ?(?=\d)"), "*"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
)
_SUM: Final = re.compile(
    r"(?:sqrt\(|[-+(\s])*\d+(?:\.\d+)?(?:[\s()]*(?:[-+*/%]|\*\*|//)[\s(]*(?:sqrt\()?-?\d+(?:\.\d+)?[\s)]*)*[\s)]*"
)
_OPERATOR: Final = re.compile(r"[-+*/%]|sqrt")
_DATE: Final = re.compile(
    r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}|\d{4}\s*[-/–]\s*\d{2,4}|\d+-\d+(?:-\d+)+|24/7|9/11"
)


def _sum(message: str) -> Errand | None:
    """Return the errand in a message that is nothing but something to reckon; dates and single numbers are not."""
    text = _folded(message)
    said = re.sub(rf"^{_ASKING}[: ]*", "", text.replace("'", " ").replace("\u2019", " "))
    expression = re.sub(r"[\s=?!.]+$", "", said)
    if _DATE.fullmatch(expression) and not _RECKON.match(text):
        return None
    for spelt, sign in _SPELT:
        expression = spelt.sub(sign, expression)
    expression = " ".join(expression.split())
    if not _SUM.fullmatch(expression) or not _OPERATOR.search(expression):
        return None
    if expression.count("(") != expression.count(")"):
        return None
    return Errand("calculate", {"expression": expression})


_UNITS: Final[Mapping[str, str]] = {
    name: unit
    for unit, names in {
        "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "m": "m meter metre", "km": "km kilometer kilometre",
        "in": "in inch inche zoll", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile meile", "nmi": "nmi",
        "mg": "mg milligram", "g": "g gram gramm", "kg": "kg kilo kilogram kilogramm", "t": "t tonne", "oz": "oz ounce",
        "lb": "lb pound pfund", "ms": "ms millisecond", "s": "s second sec", "min": "min minute", "h": "h hr hour",
        "day": "day", "week": "week", "ml": "ml milliliter millilitre", "l": "l liter litre", "gal": "gal gallon",
        "bbl": "bbl barrel", "ha": "ha hectare", "acre": "acre", "sq km": "sqkm km2", "sq m": "sqm m2", "byte": "byte",
        "kB": "kb kilobyte", "MB": "mb megabyte", "GB": "gb gigabyte", "TB": "tb terabyte", "KiB": "kib", "MiB": "mib",
        "GiB": "gib", "TiB": "tib", "J": "j joule", "kJ": "kj kilojoule", "kWh": "kwh", "Wh": "wh", "cal": "cal calorie",
        "kcal": "kcal", "C": "c celsius", "F": "f fahrenheit", "K": "k kelvin",
    }.items()
    for name in names.split()
}  # fmt: skip
_UNIT: Final = r"(?:degrees? |° ?)?([a-z]+[23]?)"
_CONVERSIONS: Final = (
    re.compile(
        rf"(?:please )?(?:convert |what is |what s |how much is |how many is |umrechnen |convertir |convierte |converti )?"
        rf"(?P<value>-?{_NUMBER}) ?{_UNIT} (?:to|in|into|as|nach|en|a|em) {_UNIT}"
    ),
    re.compile(
        rf"how many {_UNIT} (?:are (?:there )?in|is|are|in|make) (?P<value>{_NUMBER}|an?|one) ?{_UNIT}"
    ),
    re.compile(rf"(?P<value>-?{_NUMBER}) ?{_UNIT} (?:=|equals) (?:how many|\?) ?{_UNIT}"),
)


def _conversion(text: str) -> Errand | None:
    bare = re.sub(r"[\s?!.]+$", "", text.replace("'", " ").replace("\u2019", " "))
    for at, pattern in enumerate(_CONVERSIONS):
        found = pattern.fullmatch(bare)
        if found is None:
            continue
        names = [
            group for name, group in zip(range(1, 4), found.groups(), strict=False) if group != found["value"]
        ]
        units = [_unit(name) for name in names]
        if len(units) != 2 or None in units:
            return None
        value = "1" if found["value"] in {"a", "an", "one"} else _dotted(found["value"])
        unit, to = reversed(units) if at == 1 else units
        return Errand("convert_units", {"value": value, "unit": unit, "to": to})
    return None


def _unit(name: str) -> str | None:
    return _UNITS.get(name) or _UNITS.get(name.removesuffix("s")) or _UNITS.get(name.removesuffix("es"))


def _dotted(number: str) -> str:
    """Return a number without separators of thousands, its decimals behind a dot."""
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", number):
        return number.replace(",", "")
    return number.replace(",", ".") if number.count(",") == 1 and "." not in number else number


_TIME: Final = re.compile(
    r"(?:(?:please|hey|hi|hello)[, ]+)*(?:(?:can|could) you )?(?:please )?(?:tell me )?"
    r"(?:what time is it(?: now| right now)?|what is the (?:current |local )?time(?: now)?|what s the (?:current |local )?time(?: now)?|"
    r"the (?:current )?time|current time|time now|what time it is|what day is (?:it|today)(?: today)?|what is today s date|what s today s date|"
    r"what is the date(?: today)?|what s the date(?: today)?|today s date|what date is it(?: today)?|what is the current date|"
    r"wie spat ist es|wie viel uhr ist es|welcher tag ist heute|quelle heure est il|que hora es|che ore sono|que horas sao|"
    r"которыи час|сколько времени|现在几点|现在几点了|今何時ですか|지금 몇 시예요)"
    r"(?: (?:in|at|em|en|a) (?P<place>[\w ]{2,40}?))?(?: now| right now| today| please| jetzt)?"
)
_PLACES: Final[Mapping[str, str]] = {
    "utc": "UTC", "gmt": "UTC", "germany": "Europe/Berlin", "france": "Europe/Paris", "japan": "Asia/Tokyo",
    "italy": "Europe/Rome", "spain": "Europe/Madrid", "uk": "Europe/London", "england": "Europe/London",
    "india": "Asia/Kolkata", "beijing": "Asia/Shanghai", "china": "Asia/Shanghai", "mumbai": "Asia/Kolkata",
    "delhi": "Asia/Kolkata", "san francisco": "America/Los_Angeles", "la": "America/Los_Angeles", "nyc": "America/New_York",
}  # fmt: skip


def _time_of_day(text: str) -> Errand | None:
    asked = _TIME.fullmatch(re.sub(r"[\s?!.？。！]+$", "", re.sub(r"['\u2019-]", " ", text)))
    if asked is None:
        return None
    zone = _zone(asked["place"]) if asked["place"] else "UTC"
    return None if zone is None else Errand("time_now", {"zone": zone})


def _zone(place: str) -> str | None:
    return _PLACES.get(place.strip()) or _zones().get(place.strip())


@lru_cache(maxsize=1)
def _zones() -> Mapping[str, str]:
    """The zones by the folded name of their city, where only one has it."""
    found: dict[str, list[str]] = {}
    for zone in sorted(available_timezones()):
        area, _, city = zone.rpartition("/")
        if area.partition("/")[0] in {
            "Africa",
            "America",
            "Asia",
            "Atlantic",
            "Australia",
            "Europe",
            "Indian",
            "Pacific",
        }:
            found.setdefault(terms.fold(city.replace("_", " ")), []).append(zone)
    return {city: zones[0] for city, zones in found.items() if len(zones) == 1}


# --- harm -----------------------------------------------------------------------------------------------------

_PERSON: Final = (
    r"(?:someone|somebody|a person|people|a man|a woman|a child|children|a kid|him|her|them|"
    r"(?:my|his|her|their|your|the|a) (?:\w+ )?(?:wife|husband|boss|neighbou?r|coworker|colleague|girlfriend|boyfriend|partner|"
    r"ex|roommate|teacher|classmate|mother|father|brother|sister|stepfather|stepmother|landlord|parents?|family|president|"
    r"politician|judge)s?)"
)
_MAKE: Final = r"(?:make|build|construct|create|assemble|cook|synthesi[sz]e|produce|manufacture|prepare|brew|mix|3d print|print)"
_SOME: Final = r"(?:(?:a|an|some|my|own|my own|the|homemade|home made|improvised|simple|powerful|illegal|untraceable|dirty|working|real|small|of) )*"
_WEAPON: Final = (
    r"(?:(?:pipe|car|nail|fertili[sz]er|pressure cooker|petrol|chemical|suicide|nuclear|letter) )?bombs?(?! (?:shelter|disposal|calorimeter|squad|cyclone|"
    r"detector|recipe|threat|dog|proof))|explosives?(?! (?:growth|detect|ordnance))|explosive devices?|ieds?|molotov(?: cocktails?)?|nerve (?:gas|agents?)|"
    r"sarin(?: gas)?|ricin|anthrax|mustard gas|chlorine gas|poison gas|chemical weapons?|biological weapons?|bioweapons?|ghost guns?|silencers?|napalm|thermite|tatp"
)
_DRUG: Final = r"(?:meth|methamphetamine|crystal meth|heroin|crack cocaine|crack(?= at home|\W*$)|cocaine|fentanyl|mdma|ecstasy|lsd|ghb)"
_MALWARE: Final = (
    r"(?:malware|ransomware|spyware|a keylogger|keyloggers?|a computer virus|a trojan|a rootkit|a botnet|phishing (?:e-?mails?|pages?|sites?|messages?)|"
    r"an? (?:\w+ )?exploit to)"
)
_ACCOUNT: Final = r"(?:account|accounts|e-?mail|phone|iphone|computer|laptop|facebook|instagram|whatsapp|snapchat|gmail|webcam|wi-?fi|router|bank|messages|network)"
_ACTS: Final = (
    rf"{_MAKE} {_SOME}(?:{_WEAPON}|{_DRUG})\b",
    rf"(?:kill|murder|poison|strangle|assassinate|kidnap|drug|rape|torture|stab|shoot|hurt|blackmail|stalk|harass) {_PERSON}\b",
    r"(?:kill|hurt|hang|poison|cut|harm) (?:myself|yourself)\b|commit suicide|end my (?:own )?life|self harm",
    r"get away with (?:a )?(?:murder|killing \w+)(?=\W*$)|(?:commit|plan|carry out) (?:a |an |the )?(?:perfect )?(?:murder|terror(?:ist)? attack|mass shooting|school shooting|bombing|genocide|kidnapping|arson|robbery)\b",
    rf"(?:hack|break) (?:into |in to )(?:(?:someone|somebody|my|her|his|a|the|another)(?: else)?(?: ?'? ?s)? )?(?:\w+ ?'? ?s? ){{0,3}}{_ACCOUNT}\b(?! security)",
    rf"hack (?:(?:someone|somebody|my \w+|her|his|a|the)(?: else)?(?: ?'? ?s)? )(?:\w+ )?{_ACCOUNT}\b",
    r"(?:crack|steal) (?:(?:my|the|someone|somebody|a|other) ?(?:'? ?s )?)?(?:\w+ ?'? ?s? ){0,3}(?:wi-?fi|passwords?|identity|credit cards?(?: numbers?)?|car|cars|bank details|login)\b",
    rf"(?:write|create|code|build|make|develop|give|send|program|design) (?:me )?(?:some |a |an |the )?(?:new |working |undetectable |convincing |fake )*{_MALWARE}",
    r"(?:launch|start|run|do|perform) (?:a |an )?d?dos attack",
    rf"(?:buy|get|obtain|order|find) (?:an? |some )?(?:(?:illegal|unregistered|untraceable|stolen) (?:guns?|firearms?|weapons?|drugs?|explosives?)|stolen (?:credit cards?|identit(?:y|ies)|passports?)|(?:fake|false|counterfeit) (?:ids?|passports?|money|currency|prescriptions?|driving licen[cs]es?|documents?))\b|(?:buy|order|get) {_SOME}{_DRUG}\b",
    r"(?:make|forge|print|counterfeit|create) (?:a |an |some )?(?:fake|counterfeit|false) (?:id|ids|passports?|money|currency|bank ?notes?|prescriptions?|documents?|vaccine cards?)\b",
    r"(?:forge|counterfeit) (?:a |an |some )?(?:passports?|money|signatures?|prescriptions?|checks?|cheques?)\b",
    r"launder (?:\w+ )?money|evade (?:paying )?tax(?:es)?|smuggle (?:drugs|people|weapons|guns|cocaine)|traffic (?:people|humans|drugs)",
    r"(?:groom|seduce|lure) (?:a |an |some )?(?:minor|child|children|kid|kids|underage \w+|little (?:girl|boy)s?)",
    r"(?:child|kiddie|underage) (?:porn|pornography|nudes)|csam|nudes? of (?:a |an )?(?:child|minor|underage)",
    r"(?:burn down|set fire to|blow up|poison) (?:a |an |the |my )?(?:\w+ )?(?:house|school|church|mosque|synagogue|building|hospital|water supply|train|station|bridge)",
    r"(?:spike) (?:someone|somebody|a girl|her|his|a) ?(?:'? ?s )?drink",
    r"track (?:my )?(?:wife|husband|girlfriend|boyfriend|ex|someone|somebody) without (?:her|him|them|their)",
    # the same in other languages, whose word order a frame of English does not fit
    (
        r"(?:wie )?(?:baue|bastle|bau|baut|bastelt) (?:ich |man )?(?:mir )?(?:eine? )?(?:rohr)?bombe|bombe bauen|(?:wie )?(?:tote|vergifte|ermorde) ich|"
        r"(?:fabriquer|faire|construire) une bombe|(?:hacer|fabricar|construir) una bomba|(?:costruire|fare|fabbricare) una bomba|(?:fazer|fabricar) uma bomba|"
        r"(?:tuer|empoisonner|assassiner) (?:ma|mon|quelqu)|(?:matar|envenenar|asesinar) a (?:mi|alguien)|(?:uccidere|avvelenare) (?:mia|mio|qualcuno)|"
        r"(?:сделать|собрать|изготовить) бомбу|убить (?:человека|жену|мужа|соседа)|membuat bom|bomba yap"
    ),
)
_UNSPACED: Final = (
    "制造炸弹|做炸弹|制作炸弹|如何杀人|怎么杀人|爆弾の作り方|爆弾を作る|人を殺す方法|폭탄 만드는|폭탄을 만드"
)
_REST: Final = (
    r"(?=\W*$|[.!?,;] | (?:knowing|at home|at school|at work|online|please|now|fast|quickly|easily|step by step|and (?:not|never|get away|hide|dispose)|without "
    r"(?:getting|being|her|him|them|anyone|anybody|detection|leaving|their|a trace|knowing)|from (?:scratch|household|fertili[sz]er|home|my kitchen)|"
    r"(?:using|with|out of) (?:household|common|kitchen|fertili[sz]er|a knife|bleach|my bare)|in (?:my|the) (?:garage|kitchen|basement|house|sleep|lab)|"
    r"in (?:his|her|their) sleep|for me|for (?:a|my|the) bank|that (?:\w+ ?){1,5}\W*$|and (?:blow|kill|hurt|attack) ))"
)
"""What may follow an act of harm without putting in doubt that it is one; "kill people with kindness" is not."""
_ANY_ACT: Final = "|".join(rf"(?<!\w)(?:{act})" for act in _ACTS)
_HARM: Final = re.compile(f"{_ANY_ACT}|{_UNSPACED}")
_PLAIN_HARM: Final = re.compile(f"(?:{_ANY_ACT}){_REST}|{_UNSPACED}")
_ASKED: Final = re.compile(
    r"^(?:(?:hi|hello|hey|please|ok|so|now|ignore \w+(?: \w+){0,4} and|pretend (?:\w+ ){0,6}and|you are \w+(?: \w+){0,3})[,.:;! ]+)*"
    r"(?:(?:can|could|would|will) you (?:please )?)?(?:please )?"
    r"(?:how (?:do|can|could|should|would|might|to) |how d |what(?: is|s| s) the (?:best|easiest|fastest|safest|cheapest|quickest) (?:way|method) (?:to|of) |"
    r"(?:best|easiest|fastest|cheapest) way to |ways to |tell me (?!about|why|who|when|if)|show me |teach me |explain (?:to me )?how (?:to|i|one|you|do) |explain step by step|give me |send me |"
    r"help me |i want |i need |i d like |i am going to |i m going to |i will |where (?:can|do|could|to) |step by step|steps to |instructions |"
    r"write |create |code |build |make |develop |generate |find |show |hack |crack |launch |kill |describe how to |walk me through |guide |recipe |tutorial |plan |"
    r"which \w+ (?:can|could|should) i |what (?:do|should|can) i |wie |comment |como |come |как |如何|怎么|怎樣|怎样|教我|爆弾|人を|폭탄|cara |bagaimana |nasil |bomba )"
)
_INNOCENT: Final = re.compile(
    r"\b(?:regulat\w*|legislat\w*|laws?|legal\w*|polic(?:y|ies)|prevent\w*|protect\w*|defen[cds]\w*|detect\w*|treat(?:ment|ed|ing)?|"
    r"histor\w*|statistic\w*|research|stud(?:y|ies)|awareness|antidote|disposal|decontaminat\w*|shelter|novel|fiction\w*|film|movie|"
    r"book|chess|game|minecraft|process|processes|linux|python|unix|server|thread|daemon|own(?:ed)? by me|penetration test\w*|"
    r"pentest\w*|authori[sz]ed|ctf|exam|why|were|was|did|recover|forgot\w*|my own account|avoid|stop|report|thesis|economics?|"
    r"insur\w*|vaccine|disease|mosquito\w*|weeds?|plants?|time|bath|seed|glitter|photo|cherry|logic|fork|zip|gesetz\w*|histoire|historia|geschichte|verhinder\w*)\b"
)
"""Words by which a message about harm may have a good purpose: it is then in doubt, and not declined by a rule."""

_OWN_LIFE: Final = re.compile(r"\b(?:myself|suicide|end my (?:own )?life|self harm)\b")
