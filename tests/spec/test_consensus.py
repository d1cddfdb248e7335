"""Rounds of generator, critic and judge: what a ballot means, and what of a model's reply is taken for an answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import critic, generator, judge, synthesiser
from agents.portions import PORTION, portions
from orchestrator.domain import consensus
from orchestrator.domain.consensus import Decision, Opinion, Verdict, Why, opinion, threshold, worst
from orchestrator.domain.errors import InvalidRequest
from orchestrator.domain.plan import Agent, Step, StepState, digest, request
from tests.spec.test_minds import DOCUMENT, ONE, THREE, TWO, Notebook, assignment, done, fact


def judged(verdict="accept", sure=1.0, *, round_=0, **result):
    result = {"confidence": sure, "objections": 0, **result}
    return Step("p", 9, Agent.JUDGE, StepState.SUCCEEDED, round_, verdict=verdict, result=result)


def cast(verdict="accept", sure=1.0, *, most=2, affordable=True, **rest):
    ballot = consensus.cast(judged(verdict, sure, **rest), most=most, affordable=affordable)
    return ballot.decided, ballot.why


class TestTheThreshold:
    def test_b6_sinks_from_0_95_to_0_60_and_never_below(self):
        assert [threshold(r) for r in range(9)] == [0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.6]
        assert threshold(32_767) == 0.6

    @given(st.integers(0, 32_767))
    def test_never_rises(self, round_):
        assert 0.6 <= threshold(round_ + 1) <= threshold(round_) <= 0.95


class TestABallot:
    @pytest.mark.parametrize("round_", range(9))
    def test_b6_accepts_on_accept_and_enough_confidence_only(self, round_):
        enough = threshold(round_)

        assert cast("accept", enough, round_=round_)[0] is Decision.ACCEPTED
        assert cast("accept", enough - 0.01, round_=round_, most=99)[0] is Decision.REVISE
        assert cast("revise", 1.0, round_=round_, most=99)[0] is Decision.REVISE

    @pytest.mark.parametrize("round_", [0, 1, 7])
    def test_b6_of_a_rejected_draft_ends_as_needs_review_and_never_as_an_answer(self, round_):
        assert cast("reject", 1.0, round_=round_, most=99) == (Decision.NEEDS_REVIEW, Why.REJECTED)

    def test_that_is_the_last_one_ends_as_needs_review(self):
        assert cast("revise", round_=1) == (Decision.NEEDS_REVIEW, Why.ROUNDS)
        assert cast("accept", 0.1, round_=1) == (Decision.NEEDS_REVIEW, Why.ROUNDS)

    def test_of_a_draft_that_was_there_before_ends_as_no_progress(self):
        assert cast("revise", round_=1, most=9, repeats=0) == (Decision.NEEDS_REVIEW, Why.NO_PROGRESS)

    def test_may_accept_in_a_later_round_the_draft_that_an_earlier_one_was_not_sure_of(self):
        assert cast("accept", 0.9, round_=1, repeats=0) == (Decision.ACCEPTED, None)

    def test_that_the_budget_leaves_no_round_after_says_so(self):
        assert cast("revise", affordable=False) == (Decision.NEEDS_REVIEW, Why.BUDGET)

    @given(st.floats(0, 1), st.integers(0, 32_767), st.integers(1, 1000))
    def test_never_accepts_what_the_critic_s_rules_object_to(self, sure, round_, objections):
        found = cast("accept", sure, round_=round_, objections=objections, most=32_768)
        assert found[0] is not Decision.ACCEPTED

    @pytest.mark.parametrize(
        ("verdict", "sure"),
        [
            ("accept", None), ("accept", True), ("accept", "1.0"), ("accept", float("nan")), ("accept", 1.01),
            ("accept", -1), ("accept", float("inf")), ("accept", 10**400), (None, 1.0), ("ACCEPT", 1.0),
            ("accepted", 1.0), ("", 1.0),
        ],
    )  # fmt: skip
    def test_of_a_judge_that_says_what_cannot_be_accepts_nothing(self, verdict, sure):
        found = consensus.cast(judged(verdict, sure), most=2, affordable=True)

        assert found.decided is Decision.REVISE
        assert 0 <= found.confidence <= 1

    @given(
        st.sampled_from(["accept", "revise", "reject", "odd"]),
        st.floats(),
        st.integers(0, 40_000),
        st.integers(1, 32_768),
        st.booleans(),
        st.none() | st.integers(0, 5),
    )
    def test_is_decided_once_and_rounds_come_to_an_end(
        self, verdict, sure, round_, most, affordable, repeats
    ):
        decided, why = cast(verdict, sure, round_=round_, most=most, affordable=affordable, repeats=repeats)

        assert (why is not None) == (decided is Decision.NEEDS_REVIEW)
        assert decided is not Decision.REVISE or (round_ + 1 < most and affordable)
        step = judged(verdict, sure, round_=round_, repeats=repeats)
        assert consensus.stands(step) == (decided is Decision.ACCEPTED)


class TestTheRounds:
    def test_b6_are_two_by_default_and_up_to_32_768_where_a_request_says_so(self):
        assert consensus.rounds({}, 2) == 2
        for asked in (1, 2, 32_768):
            made = request("Why?", metadata={"consensus_rounds": asked})
            assert consensus.rounds(made.metadata, 2) == asked

    @pytest.mark.parametrize("asked", [0, -1, 32_769, 1.5, "3", True, [], {}, float("nan")])
    def test_that_cannot_be_meant_are_refused(self, asked):
        with pytest.raises(InvalidRequest, match=r"from 1 to 32,768"):
            request("Why?", metadata={"consensus_rounds": asked})


ACCEPT = '{"verdict": "accept", "confidence": 0.97, "reasons": ["Every sentence is a quote."]}'

HOSTILE = [
    # what the engine that this one replaces took for verdicts
    "VERDICT: Accept\n**CONFIDENCE:** 0.97",
    "VERDICT: Accept. I see no reason to reject it.",
    "**VERDICT:** ACCEPT\n**CONFIDENCE:** 0.97\n\nThe draft is fine.",
    "I would not reject this.",
    "Reject",
    "accept",
    '"accept"',
    "accept 0.97",
    # prose around it, and more than one of it
    f"Sure! Here is my verdict: {ACCEPT}",
    f"{ACCEPT}\n\nI hope that helps.",
    f"{ACCEPT}{ACCEPT}",
    f"{ACCEPT}\n" + '{"verdict": "reject", "confidence": 1, "reasons": []}',
    f"[{ACCEPT}]",
    f'{{"verdict": {ACCEPT}}}',
    f'{{"answer": {ACCEPT}}}',
    f"<think>{ACCEPT}</think>",
    f"```json\n{ACCEPT}\n```\n```json\n{ACCEPT}\n```",
    f"~~~\n{ACCEPT}\n~~~",
    f"'{ACCEPT}'",
    ACCEPT.replace('"', "'"),
    ACCEPT.replace('"', "“"),
    ACCEPT[:-1],
    ACCEPT[1:],
    ACCEPT + "}",
    ACCEPT.replace("}", ",}"),
    f"// a comment\n{ACCEPT}",
    ACCEPT.encode("utf-16").decode("utf-16-le"),
    "\ufeff\ufeff" + ACCEPT,
    ACCEPT + "\x00",
    # a verdict that is none, or both
    '{"verdict": "Accept", "confidence": 0.97, "reasons": []}',
    '{"verdict": "ACCEPT", "confidence": 0.97, "reasons": []}',
    '{"verdict": " accept", "confidence": 0.97, "reasons": []}',
    '{"verdict": "accept ", "confidence": 0.97, "reasons": []}',
    '{"verdict": "accept|revise|reject", "confidence": 0.97, "reasons": []}',
    '{"verdict": "accept and reject", "confidence": 0.97, "reasons": []}',
    '{"verdict": ["accept"], "confidence": 0.97, "reasons": []}',
    '{"verdict": ["accept", "reject"], "confidence": 0.97, "reasons": []}',
    '{"verdict": {"accept": true}, "confidence": 0.97, "reasons": []}',
    '{"verdict": true, "confidence": 0.97, "reasons": []}',
    '{"verdict": null, "confidence": 0.97, "reasons": []}',
    '{"verdict": 1, "confidence": 0.97, "reasons": []}',
    '{"verdict": "", "confidence": 0.97, "reasons": []}',
    '{"verdict": "аccept", "confidence": 0.97, "reasons": []}',
    '{"verdict": "accept\\u200b", "confidence": 0.97, "reasons": []}',
    '{"verdict": "approved", "confidence": 0.97, "reasons": []}',
    # a confidence that is none
    '{"verdict": "accept", "confidence": "0.97", "reasons": []}',
    '{"verdict": "accept", "confidence": "high", "reasons": []}',
    '{"verdict": "accept", "confidence": "97%", "reasons": []}',
    '{"verdict": "accept", "confidence": 97, "reasons": []}',
    '{"verdict": "accept", "confidence": 1.0000001, "reasons": []}',
    '{"verdict": "accept", "confidence": -0.1, "reasons": []}',
    '{"verdict": "accept", "confidence": NaN, "reasons": []}',
    '{"verdict": "accept", "confidence": Infinity, "reasons": []}',
    '{"verdict": "accept", "confidence": -Infinity, "reasons": []}',
    '{"verdict": "accept", "confidence": 1e999, "reasons": []}',
    '{"verdict": "accept", "confidence": true, "reasons": []}',
    '{"verdict": "accept", "confidence": null, "reasons": []}',
    '{"verdict": "accept", "confidence": [0.97], "reasons": []}',
    '{"verdict": "accept", "confidence": {"value": 0.97}, "reasons": []}',
    '{"verdict": "accept", "confidence": 0,97, "reasons": []}',
    '{"verdict": "accept", "confidence": 1' + "0" * 400 + ', "reasons": []}',
    # keys too many or too few
    "{}",
    '{"verdict": "accept"}',
    '{"verdict": "accept", "confidence": 0.97}',
    '{"confidence": 0.97, "reasons": []}',
    '{"VERDICT": "accept", "CONFIDENCE": 0.97, "REASONS": []}',
    '{"verdict": "accept", "confidence": 0.97, "reasons": [], "final_answer": "The moon is cheese."}',
    '{"verdict": "accept", "Verdict": "reject", "confidence": 0.97, "reasons": []}',
    '{"verdict": "reject", "verdict": "accept", "confidence": 0.97, "reasons": []}',
    '{"verdict": "accept", "verdict": "reject", "confidence": 0.97, "reasons": []}',
    '{"verdict": "accept", "confidence": 0.1, "confidence": 0.97, "reasons": []}',
    # reasons that are none
    '{"verdict": "accept", "confidence": 0.97, "reasons": "none"}',
    '{"verdict": "accept", "confidence": 0.97, "reasons": null}',
    '{"verdict": "accept", "confidence": 0.97, "reasons": [1]}',
    '{"verdict": "accept", "confidence": 0.97, "reasons": [""]}',
    '{"verdict": "accept", "confidence": 0.97, "reasons": [["fine"]]}',
    '{"verdict": "accept", "confidence": 0.97, "reasons": [null]}',
    json.dumps({"verdict": "accept", "confidence": 0.97, "reasons": ["x"] * 51}),
    json.dumps({"verdict": "accept", "confidence": 0.97, "reasons": ["x" * 4_001]}),
    # nothing at all
    "",
    " \n",
    "null",
    "[]",
    "0.97",
    "[" * 100_000,
    '{"verdict":' * 100_000,
    "\ud800",
]
"""Replies that are no verdict, although a reader who looks for words would find one in most of them."""

DRAFT = {"sections": [{"title": "Answer", "sentences": [{"text": ONE.quote, "facts": ["F3.1"]}]}]}


def judge_of(*replies, sections=None, critique=None, facts=(ONE, TWO), earlier=(), **rest):
    drafted = done(Agent.GENERATOR, result=DRAFT if sections is None else {"sections": sections})
    sentences = sum(len(s["sentences"]) for s in drafted.result["sections"])
    criticised = done(Agent.CRITIC, result={"objections": [], "sentences": sentences, **(critique or {})})
    notebook = Notebook(*replies, model="m" if replies else "")
    given = assignment(agent=Agent.JUDGE, steps=[*earlier, drafted, criticised], facts=facts, **rest)
    return judge.think(given, notebook), notebook.asked


class TestAJudgesReply:
    def test_is_a_verdict_a_confidence_and_reasons(self):
        thought, asked = judge_of(ACCEPT)

        assert thought.verdict == "accept"
        assert thought.result["confidence"] == 0.97
        assert thought.result["reasons"] == ["Every sentence is a quote."]
        assert len(asked) == 1

    @pytest.mark.parametrize("reply", HOSTILE, ids=range(len(HOSTILE)))
    def test_b9_that_cannot_be_read_costs_one_more_call_and_is_then_a_revision_of_no_confidence(self, reply):
        thought, asked = judge_of(reply, reply)

        assert (thought.verdict, thought.result["confidence"]) == ("revise", 0.0)
        assert len(asked) == judge_tries()
        assert consensus.cast(
            judged(thought.verdict, **thought.result), most=2, affordable=True
        ).decided is Decision.REVISE  # fmt: skip

    @pytest.mark.parametrize("reply", HOSTILE[:3])
    def test_b9_may_be_read_at_the_second_try(self, reply):
        thought, asked = judge_of(reply, ACCEPT)

        assert (thought.verdict, thought.result["confidence"], len(asked)) == ("accept", 0.97, 2)

    def test_b9_is_read_whatever_words_its_reasons_hold(self):
        reply = {"verdict": "accept", "confidence": 1, "reasons": ["I see no reason to reject or revise it."]}

        assert judge_of(json.dumps(reply))[0].verdict == "accept"

    def test_b9_is_one_of_the_whole_draft_in_which_nothing_is_cut(self):
        long = ("word " * 900).strip() + "."
        quotes = [fact(f"{n} {long}", number=n, start=0) for n in range(1, 21)]
        sections = [{"title": "Answer", "sentences": [{"text": f.quote, "facts": [f.name]} for f in quotes]}]

        _, asked = judge_of(*[ACCEPT] * 20, sections=sections, facts=quotes)

        told = "".join(arguments["messages"][1]["content"] for _, arguments in asked)
        assert 1 < len(asked) < 20
        assert all(told.count(json.dumps(f.quote)) == 2 for f in quotes)  # as sentence and as quote

    def test_is_as_harsh_as_that_about_the_worst_part(self):
        sections = [{"title": "A", "sentences": [{"text": "x" * PORTION, "facts": ["F3.1"]}] * 2}]
        harsh = '{"verdict": "reject", "confidence": 0.8, "reasons": ["No."]}'

        thought, asked = judge_of(ACCEPT, harsh, sections=sections)

        assert (thought.verdict, thought.result["confidence"], len(asked)) == ("reject", 0.8, 2)

    def test_accepts_nothing_that_the_critic_s_rules_object_to(self):
        objection = {"sentence": ONE.quote, "why": "It is not so.", "grave": True}

        thought, _ = judge_of(ACCEPT, critique={"objections": [objection], "grave": 1})

        assert (thought.verdict, thought.result["objections"]) == ("revise", 1)

    def test_accepts_nothing_that_no_critic_has_read(self):
        thought, _ = judge_of(ACCEPT, critique={"sentences": 0})

        assert thought.verdict == "revise"

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["verdict", "confidence", "reasons", "x"]), inner)
            ),
        )
    )
    def test_is_read_strictly_whatever_it_is(self, value):
        for reply in (value, {"verdict": "accept", "confidence": value, "reasons": []}):
            if isinstance(reply, dict):
                read = opinion(reply)
                assert read is None or (0 <= read.confidence <= 1 and read.verdict in set(Verdict))
            thought, asked = judge_of(json.dumps(reply), json.dumps(reply))
            assert thought.verdict in set(Verdict)
            assert 0 <= thought.result["confidence"] <= 1
            assert len(asked) <= judge_tries()

    @given(st.text())
    def test_survives_any_text(self, reply):
        assert judge_of(reply, reply)[0].verdict == "revise"


def judge_tries():
    return 2


def test_the_worst_of_several_opinions_is_the_harshest_and_the_least_sure():
    fine, less = Opinion(Verdict.ACCEPT, 0.99, ("a",)), Opinion(Verdict.ACCEPT, 0.7, ("b", "a"))

    assert worst([fine, less]) == Opinion(Verdict.ACCEPT, 0.7, ("a", "b"))
    assert worst([fine, Opinion(Verdict.REVISE, 0.5), less]).verdict is Verdict.REVISE
    assert worst([Opinion(Verdict.REVISE, 0.5), Opinion(Verdict.REJECT, 0.9)]) == Opinion(Verdict.REJECT, 0.9)


class TestAJudgeWithoutAModel:
    def sections(self, *facts):
        return [{"title": "Answer", "sentences": [{"text": f.quote, "facts": [f.name]} for f in facts]}]

    def sure(self, *cited, facts, **rest):
        thought, _ = judge_of(sections=self.sections(*cited), facts=facts, **rest)
        return thought.verdict, thought.result["confidence"]

    def test_is_just_sure_enough_of_quotes_of_one_source_and_surer_of_two(self):
        other = fact("It is so.", number=5, evidence="1" * 64, start=0)

        assert self.sure(ONE, TWO, facts=[ONE, TWO]) == ("accept", 0.95)
        assert self.sure(ONE, other, facts=[ONE, other]) == ("accept", 1.0)

    def test_is_less_sure_of_a_draft_that_leaves_out_a_question_with_facts(self):
        assert self.sure(ONE, facts=[ONE, THREE]) == ("accept", 0.47)

    def test_does_not_mind_which_question_s_words_are_quoted(self):
        same = fact(ONE.quote.upper(), step=7, question="What is it?", start=0)
        assert self.sure(ONE, facts=[ONE, same]) == ("accept", 0.95)

    def test_sends_back_what_somebody_objects_to_and_is_less_sure(self):
        objections = [{"sentence": ONE.quote, "why": "No.", "grave": False}]
        found = self.sure(ONE, TWO, facts=[ONE, TWO], critique={"objections": objections, "grave": 0})
        assert found == ("revise", 0.47)

    def test_accepts_that_nothing_is_said_where_nothing_was_found(self):
        assert self.sure(facts=[]) == ("accept", 1.0)

    def test_rejects_silence_about_what_was_found(self):
        assert self.sure(facts=[ONE])[0] == "reject"

    def test_says_what_is_judged(self):
        thought, _ = judge_of(facts=[ONE])

        assert thought.result["draft"] == digest(DRAFT["sections"])
        assert thought.result["repeats"] is None
        assert 0 < thought.result["generator"] < thought.result["critic"]

    def test_tells_a_draft_that_was_there_before(self):
        earlier = [
            done(Agent.GENERATOR, round=0, result={"sections": []}),
            done(Agent.GENERATOR, round=1, result=DRAFT),
        ]
        thought, _ = judge_of(earlier=earlier, facts=[ONE], round=2)

        assert thought.result["repeats"] == 1

    @pytest.mark.parametrize(("noted", "repeats"), [(digest(DRAFT["sections"]), 0), (digest([]), None)])
    def test_knows_an_earlier_draft_by_what_its_judge_noted_and_does_not_read_it_again(self, noted, repeats):
        earlier = [
            done(Agent.GENERATOR, round=0, result={"sections": ["not what was judged"]}),
            done(Agent.JUDGE, round=0, verdict="revise", result={"draft": noted}),
        ]
        thought, _ = judge_of(earlier=earlier, facts=[ONE], round=1)

        assert thought.result["repeats"] == repeats


def sentence(text, *facts):
    return {"text": text, "facts": list(facts)}


def said(*verdicts):
    return json.dumps({"verdicts": [{"n": n, "verdict": v, "why": w} for n, v, w in verdicts]})


def criticise(sentences, *replies, facts=(ONE, TWO, THREE), evidence=(DOCUMENT,)):
    steps = [done(Agent.GENERATOR, result={"sections": [{"title": "Answer", "sentences": sentences}]})]
    notebook = Notebook(*replies, model="m" if replies else "", evidence=evidence)
    thought = critic.think(assignment(agent=Agent.CRITIC, steps=steps, facts=facts), notebook)
    return thought.result, notebook.asked


PARAPHRASE = "A lock belongs to one holder only."


class TestACritic:
    def test_b8_sees_each_sentence_with_all_the_words_it_cites(self):
        sentences = [
            sentence(PARAPHRASE, "F3.1", "F3.2"),
            sentence("Nobody but its holder may take it.", "F4.1"),
        ]

        _, asked = criticise(sentences, said((1, "supported", ""), (2, "supported", "")))

        told = asked[0][1]["messages"][1]["content"]
        given = json.loads(told.removeprefix("<data>\n").removesuffix("\n</data>"))["sentences"]
        assert given == [
            {"n": 1, "sentence": PARAPHRASE, "quotes": [ONE.quote, TWO.quote]},
            {"n": 2, "sentence": "Nobody but its holder may take it.", "quotes": [THREE.quote]},
        ]

    def test_b8_leaves_nothing_out_of_a_draft_of_any_length(self):
        sentences = [sentence(f"{PARAPHRASE} It stays {'very ' * n}so.", "F3.1") for n in range(200)]
        listed = [{"n": n, "text": s["text"]} for n, s in enumerate(sentences, start=1)]
        count = len(list(portions([{**item, "quotes": [ONE.quote]} for item in listed])))

        _, asked = criticise(sentences, *["no"] * (2 * count + 4))

        told = "".join(a["messages"][1]["content"] for _, a in asked[::2])
        assert len(asked) >= 2 * count > 2
        assert all(told.count(json.dumps(s["text"])) == 1 for s in sentences)

    def test_asks_nobody_about_what_is_quoted_word_for_word(self):
        result, asked = criticise([sentence(ONE.quote, "F3.1")], "never asked")

        assert (result["objections"], asked) == ([], [])

    @pytest.mark.parametrize(
        ("text", "facts"),
        [
            ("A lock is held by 2.", ["F3.1"]),
            ("In 2024 a lock is held by one.", ["F3.1"]),
            ("A lock is held by Grace.", ["F3.1"]),
            ("A lock is not held by one.", ["F3.1"]),
            (PARAPHRASE, []),
            (PARAPHRASE, ["F9.9"]),
        ],
    )
    def test_objects_by_rule_before_a_model_is_asked_and_whatever_it_would_say(self, text, facts):
        result, asked = criticise([sentence(text, *facts)], said((1, "supported", "")))

        (objection,) = result["objections"]
        assert (objection["by"], objection["grave"], result["grave"], asked) == ("rules", True, 1, [])

    def test_objects_to_evidence_that_was_altered_whatever_a_model_would_say(self):
        result, asked = criticise([sentence(PARAPHRASE, "F3.1")], said((1, "supported", "")), evidence=())

        assert (result["grave"], asked) == (1, [])

    def test_believes_a_model_about_a_sentence_in_other_words(self):
        sentences = [sentence(PARAPHRASE, "F3.1"), sentence("A mutex holds a lock.", "F3.2")]

        result, _ = criticise(sentences, said((1, "supported", ""), (2, "unsupported", "It is one.")))

        (objection,) = result["objections"]
        assert objection == {
            "sentence": "A mutex holds a lock.",
            "why": "It is one.",
            "by": "model",
            "verdict": "unsupported",
            "grave": False,
        }
        assert (result["grave"], result["sentences"]) == (0, 2)

    def test_lets_no_sentence_in_other_words_pass_where_there_is_no_model(self):
        result, _ = criticise([sentence(PARAPHRASE, "F3.1")])

        assert (result["grave"], result["objections"][0]["verdict"]) == (1, "unknown")

    @pytest.mark.parametrize(
        "reply",
        [
            *HOSTILE[:8],
            said(),
            said((2, "supported", "")),
            said((1, "supported", ""), (2, "supported", "")),
            said((1, "supported", ""), (1, "unsupported", "")),
            said((1, "SUPPORTED", "")),
            said((1, "supported|unsupported", "")),
            said((1, True, "")),
            said((1, ["supported"], "")),
            said(("1", "supported", "")),
            said((True, "supported", "")),
            said((1.0, "supported", "")),
            said((1, "supported", None)),
            said((1, "supported", "x" * 2_001)),
            '{"verdicts": {"1": "supported"}}',
            '{"verdicts": ["supported"]}',
            '{"verdicts": [{"n": 1}]}',
            '{"verdicts": [{"n": 1, "verdict": "supported", "confidence": 1}]}',
            '{"verdicts": [{"n": 1, "verdict": "supported"}], "all": "fine"}',
            '{"verdict": "supported"}',
            '{"n": 1, "verdict": "supported", "why": ""}',
            "All sentences are supported.",
            "1. supported",
        ],
    )
    def test_that_cannot_be_read_costs_one_more_call_and_vouches_for_nothing(self, reply):
        result, asked = criticise([sentence(PARAPHRASE, "F3.1")], reply, reply)

        assert len(asked) == 2
        assert (result["grave"], result["objections"][0]["verdict"]) == (1, "unknown")

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["verdicts", "n", "verdict", "why"]), inner)
            ),
        )
    )
    def test_is_read_strictly_whatever_it_is(self, value):
        for reply in (value, {"verdicts": value}, {"verdicts": [value]}):
            text = json.dumps(reply)
            result, _ = criticise([sentence(PARAPHRASE, "F3.1")], text, text)
            assert result["objections"]


def wrote(*sentences):
    return json.dumps({"sentences": [{"text": t, "facts": f} for t, f in sentences]})


def draft(*replies, facts=(ONE, TWO, THREE), **rest):
    notebook = Notebook(*replies, model="m")
    thought = generator.think(assignment(agent=Agent.GENERATOR, facts=facts, **rest), notebook)
    sections = [
        (s["title"], [(x["text"], x["facts"]) for x in s["sentences"]]) for s in thought.result["sections"]
    ]
    return sections, notebook.asked


QUOTES = [
    ("What is a lock?", [(ONE.quote, ["F3.1"]), (TWO.quote, ["F3.2"])]),
    ("Who may take it?", [(THREE.quote, ["F4.1"])]),
]


class TestAGeneratorWithAModel:
    def test_b7_is_given_numbered_facts_and_each_sentence_names_those_it_rests_on(self):
        sections, asked = draft(wrote((PARAPHRASE, ["F3.1", "F3.2"]), ("Others wait.", ["F4.1"])))

        assert sections == [
            ("What is a lock?", [(PARAPHRASE, ["F3.1", "F3.2"])]),
            ("Who may take it?", [("Others wait.", ["F4.1"])]),
        ]
        told = asked[0][1]["messages"][1]["content"]
        assert all(f'"name": "{name}"' in told for name in ("F3.1", "F3.2", "F4.1"))

    def test_b7_writes_no_sentence_that_names_no_fact_that_there_is(self):
        sections, _ = draft(wrote(("The moon is cheese.", ["F9.9"]), (PARAPHRASE, ["F9.9", "F3.1", "F3.1"])))

        assert sections == [("Answer", [(PARAPHRASE, ["F3.1"])])]

    def test_is_told_what_was_objected_to_in_the_round_before(self):
        steps = [
            done(Agent.CRITIC, result={"objections": [{"sentence": PARAPHRASE, "why": "Not only."}]}),
            done(Agent.JUDGE, verdict="revise", result={"reasons": ["Say who may take it."]}),
        ]
        sections, asked = draft(wrote(("Others wait.", ["F4.1"])), steps=steps, round=1)

        told = asked[0][1]["messages"][1]["content"]
        assert "Not only." in told
        assert "Say who may take it." in told
        assert sections == [("Answer", [("Others wait.", ["F4.1"])])]

    @pytest.mark.parametrize(
        "reply",
        [
            *HOSTILE[:8],
            wrote(("", ["F3.1"])),
            wrote((" \n", ["F3.1"])),
            wrote(("x" * 2_001, ["F3.1"])),
            wrote((1, ["F3.1"])),
            wrote((None, ["F3.1"])),
            wrote(("A.", "F3.1")),
            wrote(("A.", [1])),
            wrote(("A.", None)),
            wrote(("A.", [["F3.1"]])),
            wrote(*[("A.", ["F3.1"])] * 501),
            '{"sentences": "A."}',
            '{"sentences": {"text": "A.", "facts": ["F3.1"]}}',
            '{"sentences": ["A. [F3.1]"]}',
            '{"sentences": [{"text": "A."}]}',
            '{"sentences": [{"facts": ["F3.1"]}]}',
            '{"sentences": [{"text": "A.", "facts": ["F3.1"], "quote": "B."}]}',
            '{"sentences": [{"text": "A.", "facts": ["F3.1"]}], "answer": "B."}',
            '{"answer": "A. [F3.1]"}',
            "A. [F3.1]",
            "{}",
        ],
    )
    def test_that_cannot_be_read_costs_one_more_call_and_then_quotes(self, reply):
        sections, asked = draft(reply, reply)

        assert sections == QUOTES
        assert len(asked) == 2

    def test_that_chooses_nothing_quotes(self):
        assert draft('{"sentences": []}')[0] == QUOTES

    def test_reads_all_the_facts_however_many_there_are(self):
        long = "word " * 900
        many = [fact(f"{n} {long}.", number=n, start=0) for n in range(1, 21)]

        _, asked = draft(*['{"sentences": []}'] * 20, facts=many)

        told = "".join(arguments["messages"][1]["content"] for _, arguments in asked)
        assert 1 < len(asked) < 20
        assert all(told.count(f'"quote": "{f.quote.split()[0]} word') == 1 for f in many)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["sentences", "text", "facts"]), inner)
            ),
        )
    )
    def test_names_no_fact_that_there_is_not_whatever_it_says(self, value):
        for reply in (value, {"sentences": value}, {"sentences": [value]}):
            sections, _ = draft(json.dumps(reply), json.dumps(reply))
            assert sections == QUOTES


class TestAReport:
    def written(self, judge_step, *, sections=None):
        steps = [
            done(Agent.GENERATOR, result=DRAFT if sections is None else {"sections": sections}),
            judge_step,
        ]
        return synthesiser.think(assignment(steps=steps, facts=[ONE]), Notebook()).report["verdict"]

    def test_b44_is_an_answer_only_if_its_draft_was_accepted(self):
        assert self.written(judged("accept", 0.95)) == "answered"

    @pytest.mark.parametrize(
        "judge_step",
        [
            judged("accept", 0.94),
            judged("revise", 1.0),
            judged("reject", 1.0),
            judged("accept", 1.0, objections=1),
            judged("accept", 0.89, round_=1),
            judged("revise", 0.0),
            done(Agent.JUDGE, verdict="accept"),
        ],
    )
    def test_b44_of_a_draft_that_was_not_accepted_says_that_it_needs_review(self, judge_step):
        assert self.written(judge_step) == "needs_review"

    def test_says_why_no_draft_was_accepted_and_no_word_of_the_judge(self):
        refused = judged("revise", 0.5, round_=1, objections=2, reasons=["The moon is cheese."])
        steps = [done(Agent.GENERATOR, result=DRAFT), refused]
        report = synthesiser.think(assignment(steps=steps, facts=[ONE]), Notebook()).report

        (note,) = report["notes"]
        assert note.startswith(
            "Not accepted in round 2: the judge's verdict was revise, 0.50 sure where 0.90 "
        )
        assert note.endswith("was needed, with 2 grave objections.")
        assert "cheese" not in json.dumps(report)


class TestPortions:
    @given(st.lists(st.integers(0, 60)), st.integers(1, 100))
    def test_hold_everything_once_in_order_and_whole(self, lengths, size):
        items = [{"n": n, "text": "x" * length} for n, length in enumerate(lengths)]

        made = list(portions(items, size))

        assert [item for portion in made for item in portion] == items
        assert all(made)
        assert all(
            len(portion) == 1 or sum(len(json.dumps(item)) for item in portion) <= size for portion in made
        )
