"""A model that alters what it was given, and documents that contradict each other: no altered word is printed as found.

The real loop, gate, tools and report; only the generator is one that lets a model write, as the contract of drafts
allows, and the keeper one that is told what contradicts what.
"""

from __future__ import annotations

import json
import re

import pytest

from agents import asking, keeper
from agents.minds import MINDS
from agents.toolbox import Assignment
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent
from orchestrator.domain.report import markdown, plain
from orchestrator.export import Form, written
from tests.contract import test_model
from tests.contract.bench import InMemoryBench
from tests.contract.test_model import Endpoint, said

GOAL = "What is known about the north lighthouse of Skerry?"
TRUE = {
    "tall.md": "The north lighthouse of Skerry is 41 metres tall and has 207 steps.",
    "lit.md": "The north lighthouse of Skerry was lit on 5 March 1904 by the Board of Trade.",
    "safe.md": "The north lighthouse of Skerry is not safe to climb.",
    "keeper.md": "The north lighthouse of Skerry was kept by Ingrid Halvorsen until 1977.",
    "range.md": "The north lighthouse of Skerry shows its light for 18 nautical miles.",
}
RIVAL = {"rival.md": "The north lighthouse of Skerry is 47 metres tall and has 207 steps."}
ALTERED = {
    "tall.md": [
        "The north lighthouse of Skerry is 14 metres tall and has 207 steps.",
        "The north lighthouse of Skerry is 207 metres tall and has 41 steps.",
        "The north lighthouse of Skerry is 41 feet tall and has 207 steps.",
        "The north lighthouse of Skerry is 4\u200b1\u202e metres tall and has 702 steps.",
    ],
    "lit.md": [
        "The north lighthouse of Skerry was lit on 5 March 1940 by the Board of Trade.",
        "The north lighthouse of Skerry was lit on 5 May 1904 by the Board of Trade [1][2].",
    ],
    "safe.md": ["The north lighthouse of Skerry is safe to climb."],
    "keeper.md": ["The north lighthouse of Skerry was kept by Astrid Lindqvist until 1977."],
    "range.md": [
        "The north lighthouse of Skerry shows its light for eighty nautical miles.",
        "It outshines every other tower, and everybody should visit.",
    ],
}
WORDS = {alteration for alterations in ALTERED.values() for alteration in alterations}


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv(test_model.KEY_VARIABLE, test_model.KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "library"
    made.mkdir()
    return made


@pytest.fixture
def work(sealer, endpoint, folder, tmp_path):
    bench = InMemoryBench()
    with test_model.real_tools(bench, sealer, endpoint, folder, tmp_path / "cache") as made:
        yield made
    bench.close()


def fill(folder, documents):
    for name, text in documents.items():
        (folder / name).write_text(f"# The north lighthouse of Skerry\n\n{text}\n", encoding="utf-8")


def drafting(assignment: Assignment, toolbox) -> Completed:
    """A generator that prints what the model writes."""
    data = {"facts": [{"name": f.name, "source": f.locator, "quote": f.quote} for f in assignment.facts]}
    draft = asking.ask(toolbox, prompt="draft/1", task="Write a draft.", data=data, read=lambda reply: reply)
    return Completed(
        "drafted", result={"sections": (draft or {}).get("sections", []), "model": toolbox.model}
    )


def altering(body):
    """A model that writes each fact down otherwise than it was given it, and a sentence of its own for none."""
    if "Write a draft" not in body["messages"][0]["content"]:
        return 200, said("{}")
    data = re.search(r"<data>\n(.*)\n</data>", body["messages"][1]["content"], re.DOTALL)[1]
    facts = json.loads(data.replace("<\\/", "</"))["facts"]
    drafted = [
        {"text": text, "facts": [fact["name"]]} for fact in facts for text in ALTERED.get(fact["source"], ())
    ]
    drafted.append({"text": "The keeper recommends it [1].", "facts": ["F99.9"]})
    return 200, said(json.dumps({"sections": [{"title": "Answer", "sentences": drafted}]}))


def run(work, folder, monkeypatch, **minds):
    monkeypatch.setattr(test_model, "MINDS", {**MINDS, **{Agent(name): mind for name, mind in minds.items()}})
    return test_model.run_to_the_end(
        work, folder, goal=GOAL, model_name="m-1" if minds.get("generator") else ""
    )


class TestADraftThatSaysOtherwise:
    def test_b27_is_printed_as_the_quotes_it_cites_and_not_one_altered_word(
        self, work, endpoint, folder, monkeypatch
    ):
        fill(folder, TRUE)
        endpoint.answer = altering

        _, report = run(work, folder, monkeypatch, generator=drafting)

        shown = test_model.sentences(report)
        everything = "".join([markdown(report), json.dumps(report), written(report, Form.HTML).decode()])
        assert set(shown) == {plain(text) for text in TRUE.values()}
        assert len(shown) == len(set(shown))
        assert not any(altered in everything for altered in WORDS)
        for changed in (
            "14 metres",
            "702 steps",
            "41 feet",
            "March 1940",
            "5 May",
            "Lindqvist",
            "eighty",
            "outshines",
            "recommends",
        ):
            assert changed not in everything
        assert (report["basis"]["repaired"], report["basis"]["dropped"]) == (9, 2)
        assert report["basis"]["unsupported"].keys() >= {
            "number",
            "unit",
            "date",
            "name",
            "negation",
        }
        assert report["verdict"] == "needs_review"

    def test_that_is_word_for_word_is_printed_as_it_is(self, work, endpoint, folder, monkeypatch):
        fill(folder, TRUE)
        monkeypatch.setattr("tests.contract.test_hostile_drafts.ALTERED", {n: [t] for n, t in TRUE.items()})
        endpoint.answer = altering

        _, report = run(work, folder, monkeypatch, generator=drafting)

        assert set(test_model.sentences(report)) == {plain(text) for text in TRUE.values()}
        assert report["basis"]["repaired"] == 0


class TestDocumentsThatContradictEachOther:
    def test_are_reported_with_both_sides_cited_and_neither_altered(self, work, folder, monkeypatch):
        fill(folder, {**TRUE, **RIVAL})

        def finding(assignment, toolbox):
            thought = keeper.think(assignment, toolbox)
            sides = {f.locator: f.name for f in assignment.facts if "metres tall" in f.quote}
            dispute = {
                "question": GOAL,
                "facts": [sides["tall.md"], sides["rival.md"]],
                "values": ["41", "47"],
                "preferred": sides["tall.md"],
                "why": "<b>its name</b> [says](so)",
            }
            result = {**thought.result, "contradictions": [dispute]}
            return Completed(thought.verdict, thought.follow_ups, result)

        _, report = run(work, folder, monkeypatch, keeper=finding)

        (dispute,) = report["contradictions"]
        cited = {c["number"]: c["locator"] for c in report["citations"]}
        assert {side["value"]: cited[side["citations"][0]] for side in dispute["sides"]} == {
            "41": "tall.md",
            "47": "rival.md",
        }
        assert cited[dispute["preferred"]] == "tall.md"
        assert "contradicted" in report["sections"][0]["doubts"]  # for both sides are in it
        assert "## Contradictions" in markdown(report)
        assert "<b>" not in written(report, Form.HTML).decode()
        assert "[says](so)" not in markdown(report)
