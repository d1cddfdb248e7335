"""Domains and personas: a key in a file is a domain, a mistake refuses the file, and every word used is kept by digest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agents import asking, generator, personas
from orchestrator import prompts
from orchestrator.domain.errors import InvalidRequest, Misconfigured
from orchestrator.domain.plan import Agent
from tests.spec.test_minds import Notebook, assignment, fact

STOCK = Path(__file__).parents[2] / "configs" / "prompts.yaml"
BEES = """
    persona: You are a beekeeper.
    audience: reader
    keywords: [hive, {word: NECTAR, weight: 3}]
    facets: ["What threatens {subject}?"]
    tools: [documents_search]
"""


def document(text=None, **changes):
    found = yaml.safe_load(STOCK.read_text("utf-8"))
    return yaml.safe_dump({**found, **changes}) if text is None else STOCK.read_text("utf-8") + text


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text(document(), encoding="utf-8")
    return path


@pytest.fixture
def said():
    with structlog.testing.capture_logs() as lines:
        yield lines


def of(goal, *, known=None, **rest):
    return personas.persona(assignment(goal, prompts=known or prompts.load(STOCK), **rest))


class TestB14ADomain:
    def test_b14_is_a_key_in_the_file_and_needs_no_code(self, file):
        file.write_text(document(f"  bees:{BEES}"), encoding="utf-8")
        known = prompts.load(file)

        found = of("How much nectar does a hive need?", known=known)

        assert found.domain == "bees"
        assert "You are a beekeeper." in found.told
        assert found.facets == ("What threatens {subject}?",)
        assert of("anything", known=known, sources={"domain": "bees"}).domain == "bees"

    def test_b14_that_is_asked_for_wins_over_what_the_goal_says(self):
        assert of("The earnings of the bank", sources={"domain": "legal"}).domain == "legal"

    @pytest.mark.parametrize(
        ("goal", "domain"),
        [
            ("What are the side effects of this drug?", "medical"),
            ("Compare the EARNINGS and dividend of two banks", "finance"),
            ("Which GDPR rules apply?", "legal"),
            ("How was CVE-2024-1 exploited?", "security"),
            ("What does the with statement do?", "engineering"),
            ("Which lakes are deep?", "general"),
            ("Analyze broker earnings in Tokyo", "finance"),
            ("lawn mowers and courtship", "general"),
            ("", "general"),
        ],
    )
    def test_b14_is_known_by_whole_weighted_words(self, goal, domain):
        assert personas.detect(goal, prompts.load(STOCK)) == domain

    def test_b14_tells_a_model_more_the_deeper_the_plan(self):
        shallow, deep = of("x", depth=1), of("x", depth=5)
        assert shallow.told != deep.told
        assert shallow.told.split("\n")[:2] == deep.told.split("\n")[:2]

    @given(st.text(), st.text(max_size=20))
    def test_b14_is_found_for_any_goal_and_any_request(self, goal, asked):
        known = prompts.load(STOCK)
        assert of(goal, known=known, sources={"domain": asked}).domain in known.domains

    def test_b14_that_nobody_knows_is_refused_with_those_that_are(self):
        with pytest.raises(InvalidRequest, match=r"'bees'.*general, research, finance"):
            prompts.load(STOCK).check("bees")
        prompts.load(STOCK).check(None)


class TestB42WhatWasUsed:
    def test_b42_is_kept_by_name_version_and_digest(self):
        kept = of("The earnings of a bank").as_json()

        assert (kept["name"], kept["version"]) == ("persona/finance", "1")
        assert len(kept["sha256"]) == 64

    def test_b42_has_another_digest_once_a_word_of_it_is_another(self, file):
        before = of("law", known=prompts.load(file)).sha256
        file.write_text(file.read_text().replace("legal researcher", "legal scholar"))

        assert of("law", known=prompts.load(file)).sha256 != before
        assert of("GDP", known=prompts.load(file)).sha256 == of("GDP").sha256

    def test_b42_stands_in_the_step_of_a_generator_that_used_it(self):
        notebook = Notebook(json.dumps({"sentences": [{"text": "A lock.", "facts": ["F3.1"]}]}), model="m")
        asked = assignment("law", agent=Agent.GENERATOR, facts=[fact()], prompts=prompts.load(STOCK))

        thought = generator.think(asked, notebook)

        assert thought.result["prompt"] == personas.persona(asked).as_json()
        system = notebook.asked[0][1]["messages"][0]["content"]
        assert system.startswith(asking.RULES)
        assert "legal researcher" in system


class TestB42AMistake:
    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            (document(f"  bees:{BEES}".replace("keywords", "keyword")), "domains.bees.keyword"),
            (document(f"  bees:{BEES}".replace("audience: reader", "audience: bears")), "'bears'"),
            (document(f"  bees:{BEES}".replace("{subject}", "them")), "one {subject}"),
            (document(f"  bees:{BEES}".replace("{subject}?", "{subject} {0}?")), "one {subject}"),
            (document(f"  bees:{BEES}".replace("weight: 3", "weight: 0")), "domains.bees.keywords"),
            (document(f"  finance:{BEES}"), "'finance' is given twice"),
            (document(f"  Bees!:{BEES}"), "domains.Bees!"),
            (document(tasks={}), "tasks"),
            (document(version=1), "version"),
            (document(depth_instructions={1: "Be quick."}), "exactly the depths 1 to 5"),
            (document(domains={}), "there must be a domain general"),
            ("[", "cannot be read"),
            ("", "not valid"),
        ],
    )
    def test_b42_anywhere_refuses_the_file_and_names_the_key(self, file, wrong, told):
        file.write_text(wrong, encoding="utf-8")
        with pytest.raises(Misconfigured) as refused:
            prompts.load(file)
        assert told in str(refused.value)
        assert str(file) in str(refused.value)

    def test_b42_refuses_to_begin_without_a_file(self, tmp_path):
        with pytest.raises(Misconfigured, match="cannot be read"):
            prompts.Book(tmp_path / "nowhere.yaml")


class TestB42AFileThatChanges:
    def test_b42_is_in_force_at_the_next_look(self, file, said):
        book = prompts.Book(file)
        assert "bees" not in book.current().domains

        rewrite(file, document(f"  bees:{BEES}"))

        assert "bees" in book.current().domains
        assert [line["event"] for line in said] == ["prompts.reloaded"]

    def test_b42_and_is_wrong_leaves_what_was_there_and_says_so_once(self, file, said):
        book = prompts.Book(file)
        before = book.current()

        rewrite(file, "nonsense: true")

        assert book.current() is before
        assert book.current() is before
        assert [(line["event"], line["log_level"]) for line in said] == [("prompts.refused", "error")]


def rewrite(file, text):
    """Put another file in its place, as editors do."""
    other = file.with_suffix(".new")
    other.write_text(text, encoding="utf-8")
    other.replace(file)
