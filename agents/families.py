"""Says which words are one word in another form, and which mean the same: a small list of common English, no model.

    "Who wrote it?"           "Written by David MacKenzie."            forms of one verb
    "raw materials"           "Natural resources"                      two ways to say one thing

A form counts as the word itself. What means the same counts for less (`relevance` says how much), and never takes the
place of the word: both are looked for. Words of many meanings ("set", "run", "state") are left out on purpose.
"""

from __future__ import annotations

from typing import Final

_FORMS: Final = """
begin began begun|break broke broken|bring brought|build built|buy bought|catch caught|choose chose chosen|draw drew drawn
drive drove driven|eat ate eaten|fall fell fallen|feel felt|fight fought|find found|fly flew flown|forbid forbade forbidden
forget forgot forgotten|freeze froze frozen|give gave given|go went gone|grow grew grown|hide hid hidden|hold held
keep kept|know knew known|lead led|leave left|lend lent|lose lost|make made|mean meant|meet met|pay paid|ride rode ridden
rise rose risen|say said|see saw seen|seek sought|sell sold|send sent|shake shook shaken|shoot shot|show showed shown
sing sang sung|sink sank sunk|sleep slept|speak spoke spoken|spend spent|stand stood|steal stole stolen|strike struck
swear swore sworn|swim swam swum|take took taken|teach taught|tell told|think thought|throw threw thrown
understand understood|wake woke woken|wear wore worn|win won|write wrote written|child children|man men|woman women
foot feet|mouse mice|analysis analyses|index indices indexes|criterion criteria|matrix matrices|appendix appendices
"""

_ALIKE: Final = """
remove delete erase|error failure fault|begin start commence|end finish terminate|buy purchase|sell sale|help assist aid
climate weather|inhabitant population resident people|ethnic ethnicity|religion faith worship|language tongue spoken speak
currency money|shoreline coastline coast seaboard|border boundary frontier neighbour neighbor|disaster hazard
raw material, natural resource|resource mineral|mountain peak summit|elevation altitude|agriculture farming crop
industry manufacturing sector|unemployment unemployed jobless|worker labor labour workforce|army military armed troop
railway railroad rail train|airport airfield|road highway|port harbour harbor|ship vessel|aircraft airplane plane
illness disease sickness|doctor physician|death mortality die|birth natality born|literacy read|school education
electricity power|petroleum oil|telephone phone|internet online|parliament legislature legislative|court judicial judge
constitution constitutional|independence independent|vote suffrage election|age old|weight heavy|height tall|size area big
depth deep|width wide|length long|price cost|salary wage pay|income earning|debt owe|tax taxation levy|budget revenue
inflation price|export ship|import bring|poverty poor|wealth rich|area surface|location situated located where
author writer|creator inventor|founder founded established|goal aim objective|reason cause|result outcome
requirement prerequisite|default preset|option flag switch|file document|folder directory|argument parameter
password passphrase|permission allow permit|forbid prohibit disallow|optional voluntary|mandatory required compulsory
obsolete superseded outdated deprecated|change modify alter|copy duplicate|show display|hide conceal|quick fast rapid
holiday vacation leave|employee staff personnel|customer client|supplier vendor|contract agreement|licence license
warranty guarantee|refund reimbursement|deadline due|boss manager supervisor|company firm business
gdp, gross domestic product|uk, united kingdom|usa, united states|eu, european union|un, united nations|ceo, chief executive
"""


def _read(text: str) -> tuple[tuple[str, ...], ...]:
    groups = (group.strip() for line in text.split("\n") for group in line.split("|"))
    return tuple(
        tuple(part.strip() for part in (group.split(",") if "," in group else group.split()))
        for group in groups
        if group
    )


FORMS: Final = _read(_FORMS)
"""Groups of forms; the first is the word itself."""

ALIKE: Final = _read(_ALIKE)
"""Groups of words, or of phrases, of which each may be said for the others."""
