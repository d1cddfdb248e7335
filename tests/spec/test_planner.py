"""What a plan is: tasks of a fixed form, refused with a reason where they cannot be carried out, and never too many."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import plan_schema, planner
from agents.plan_schema import PlanRefused, Task
from agents.toolbox import ToolCard
from orchestrator import prompts
from orchestrator.domain.ooda import DEPTH
from orchestrator.domain.plan import digest
from tests.spec.test_minds import INDEXED, Notebook, assignment
from tests.spec.test_prompts import STOCK

SEARCH = ToolCard("documents_search", "Finds passages.")
CODE = ToolCard("code_run", "Computes.")
WEB = ToolCard(
    "web_search", "Searches.", ("web", "news"), asks="query", fallbacks=("documents_search", "gone")
)
PAGE = ToolCard("fetch_url", "Fetches.", ("page", "website"), asks="url")
TOOLS = (SEARCH, CODE, WEB, PAGE)
NAMES = {card.name for card in TOOLS}


def task(name, question=None, **rest):
    return {"id": name, "question": question or f"What is {name}?", **rest}


def thought(goal="What is a lock?", *replies, tools=TOOLS, model="", **rest):
    notebook = Notebook(INDEXED, *replies, model=model, tools=tools)
    return planner.think(assignment(goal, prompts=prompts.load(STOCK), **rest), notebook)


def proposed(*tasks, goal="What is a lock?", again=(), **rest):
    replies = [json.dumps({"tasks": list(t)}) for t in (tasks, again or tasks)]
    return thought(goal, *replies, model="m", **rest)


class TestB22APlanThatCannotBeCarriedOut:
    @pytest.mark.parametrize(
        ("tasks", "why"),
        [
            ([task("a", after=["b"]), task("b", after=["a"])], "wait for each other: a → b → a"),
            ([task("a", after=["a"])], "wait for each other: a → a"),
            (
                [task("x"), task("a", after=["c"]), task("b", after=["a"]), task("c", after=["b"])],
                "a → c → b → a",
            ),
            ([task("a"), task("a", "Why?")], "Two tasks of the plan are called a"),
            ([task("a", after=["z"])], "comes after z, which is not in the plan"),
            ([task("a", tool="telepathy")], "names the tool telepathy, which is not offered"),
            ([task("a", fallbacks=["telepathy"])], "names the tool telepathy"),
            ([task("a", share=0.7), task("b", share=0.7)], "more than the whole budget"),
            ([task("a", share=0.0)], "tasks.0.share"),
            ([task("a", phase="guess")], "tasks.0.phase"),
            ([task("a", category="WHIM")], "tasks.0.category"),
            ([task("a", colour="red")], "tasks.0.colour"),
            ([task("not an id")], "tasks.0.id"),
            ([task(f"t{n}") for n in range(32_768)], "tasks"),
        ],
    )
    def test_b22_is_refused_with_the_reason_and_the_template_is_used(self, tasks, why):
        with pytest.raises(PlanRefused) as refused:
            plan_schema.read({"tasks": tasks}, NAMES)
        assert why in str(refused.value)

        fallen_back = proposed(*tasks)

        assert why in fallen_back.plan["refused"]
        assert fallen_back.plan["made_by"] == "template"
        assert [b["question"] for b in fallen_back.follow_ups] == ["What is a lock?"]

    def test_b22_is_asked_for_once_more(self):
        mended = proposed(task("a", tool="telepathy"), again=[task("a")])

        assert mended.plan["made_by"] == "model m"
        assert mended.plan["refused"] == ""
        assert [b["question"] for b in mended.follow_ups] == ["What is a lock?", "What is a?"]


class TestB22AModelsPlan:
    def test_b22_becomes_briefs_with_all_that_a_step_needs(self):
        found = proposed(
            task("page", tool="fetch_url", inputs={"url": "https://a.example/"}, fallbacks=["web_search"]),
            task("sum", tool="code_run", after=["page"], phase="analyse", category="SECURITY", share=0.2),
        )

        assert list(found.follow_ups) == [
            {"question": "What is a lock?", "query": "What is a lock?", "task": "t1"},
            {
                "question": "What is page?",
                "query": "What is page?",
                "task": "t2",
                "tool": "fetch_url",
                "inputs": {"url": "https://a.example/"},
                "fallbacks": ["web_search"],
            },
            {
                "question": "What is sum?",
                "query": "What is sum?",
                "task": "t3",
                "tool": "code_run",
                "after": ["t2"],
                "phase": "analyse",
                "category": "SECURITY",
                "share": 0.2,
            },
        ]

    def test_b22_asks_nothing_twice_and_who_waited_for_one_waits_for_the_other(self):
        found = proposed(task("a", "Why?"), task("b", "WHY?"), task("c", after=["b"]))

        assert [(b["task"], b["question"], b.get("after")) for b in found.follow_ups] == [
            ("t1", "What is a lock?", None),
            ("t2", "Why?", None),
            ("t3", "What is c?", ["t2"]),
        ]

    @pytest.mark.parametrize("depth", DEPTH)
    def test_b22_is_cut_to_the_depth_whatever_a_model_wants(self, depth):
        found = proposed(*(task(f"t{n}") for n in range(60)), depth=depth)

        assert len(found.follow_ups) == DEPTH[depth].fan_out
        assert len(found.plan["left_out"]) == 61 - DEPTH[depth].fan_out
        assert not found.partial

    @pytest.mark.parametrize("room", [0, 1, 3])
    def test_b22_is_cut_to_what_the_budget_leaves_and_says_that_it_is_partial(self, room):
        found = proposed(*(task(f"t{n}") for n in range(5)), depth=3, room=room)

        assert len(found.follow_ups) == room
        assert found.partial

    def test_b22_leaves_out_what_depends_on_what_was_left_out(self):
        tasks = [task("late", after=["x9"]), *(task(f"x{n}") for n in range(10))]

        found = proposed(*tasks, depth=2)

        assert "What is late?" in found.plan["left_out"]
        assert all(not b.get("after") for b in found.follow_ups)

    def test_b22_never_drops_the_goal_itself(self):
        assert proposed(task("a"), depth=1, room=1).follow_ups[0]["question"] == "What is a lock?"

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
    def test_b22_of_any_shape_is_read_or_refused(self, value):
        for reply in (
            {"tasks": value},
            {"tasks": [value]},
            {"tasks": [{"id": "a", "question": "?", "after": value}]},
        ):
            try:
                assert plan_schema.read(reply, NAMES) is not None
            except PlanRefused:
                continue

    @given(st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=8, max_size=8))
    def test_b22_is_refused_exactly_if_its_tasks_cannot_be_put_in_order(self, after):
        tasks = [Task(id=f"t{n}", question="?", after=[f"t{a}" for a in a_]) for n, a_ in enumerate(after)]
        placed = plan_schema.ordered(tasks)

        if len(placed) == len(tasks):
            plan_schema.check(tasks, NAMES)
            seen = set()
            for each in placed:
                assert seen.issuperset(each.after)
                seen.add(each.id)
        else:
            with pytest.raises(PlanRefused, match="wait for each other"):
                plan_schema.check(tasks, NAMES)


class TestATemplate:
    def test_computes_over_what_the_others_find_where_code_can_be_run(self):
        found = thought("Which of Peru, Chile and Cuba has the largest population?", depth=3)

        *looked_up, computed = found.follow_ups
        assert [b["question"] for b in looked_up] == [
            f"What is the population of {name}?" for name in ("Peru", "Chile", "Cuba")
        ]
        assert (computed["tool"], computed["phase"]) == ("code_run", "analyse")
        assert computed["after"] == [b["task"] for b in looked_up]

    def test_keeps_room_for_the_computation_at_a_lower_depth(self):
        found = thought("Which of Peru, Chile and Cuba has the largest population?", depth=2)

        assert [b.get("tool") for b in found.follow_ups] == [None, None, None, "code_run"]
        assert found.follow_ups[-1]["after"] == ["t1", "t2", "t3"]

    @pytest.mark.parametrize("goal", ["Which of Peru and Chile is a republic?", "What is a lock?"])
    def test_computes_nothing_that_is_only_looked_up(self, goal):
        assert all("tool" not in b for b in thought(goal, depth=3).follow_ups)

    def test_computes_nothing_where_code_cannot_be_run(self):
        found = thought("Which of Peru and Chile has the larger area?", tools=[SEARCH], depth=3)
        assert all("tool" not in b for b in found.follow_ups)

    def test_asks_a_tool_that_the_goal_speaks_of_besides(self):
        found = thought("What do the news say about tin?")

        assert found.follow_ups[-1] == {
            "question": "What do the news say about tin?",
            "query": "What do the news say about tin?",
            "task": "t2",
            "tool": "web_search",
            "inputs": {"query": "What do the news say about tin?"},
            "fallbacks": ["documents_search"],
        }

    def test_gives_a_tool_that_takes_an_address_the_one_in_the_goal_and_else_does_without(self):
        named = thought("What does the page https://a.example/tin?x=1 say?", tools=[SEARCH, PAGE])
        assert named.follow_ups[-1]["inputs"] == {"url": "https://a.example/tin?x=1"}
        assert len(thought("What does the page say?", tools=[SEARCH, PAGE]).follow_ups) == 1

    def test_asks_a_tool_even_where_no_documents_are_given(self):
        notebook = Notebook(tools=[SEARCH, WEB])
        found = planner.think(assignment("What is in the news?", sources={}), notebook)

        assert [b["tool"] for b in found.follow_ups] == ["web_search"]
        assert notebook.asked == []

    def test_b14_widens_a_broad_goal_by_the_facets_of_its_domain(self):
        found = thought("Research the earnings of Acme Bank", depth=2)

        assert [b["question"] for b in found.follow_ups] == [
            "Research the earnings of Acme Bank",
            "What are the figures of the earnings of Acme Bank?",
            "How did the earnings of Acme Bank change over time?",
            "What are the risks of the earnings of Acme Bank?",
        ]
        assert found.result["prompt"]["name"] == "persona/finance"

    def test_b14_never_widens_a_goal_that_asks_one_thing(self):
        assert len(thought("What were the earnings of Acme Bank?", depth=5).follow_ups) == 1


def test_b48_a_plan_is_kept_as_it_is_with_its_digest():
    found = proposed(task("a"))

    assert found.result["plan_sha256"] == digest(found.plan)
    assert [t["id"] for t in found.plan["tasks"]] == [b["task"] for b in found.follow_ups]
    assert found.plan["prompt"] == {**found.result["prompt"], "task": planner.PROMPT}
