"""`orchestrator eval` asks the real pipeline, counts right, and gives the same numbers twice."""

from __future__ import annotations

import json

import pytest
import structlog

from workers import cli
from workers.cli import doors, exits
from workers.eval import lab, measures, questions, run

DOCS = {
    "burundi.md": "# Burundi\n\n## Climate\n\nequatorial; high plateau with much rain\n\n## Coastline\n\n0 km (landlocked)\n",
    "kenya.md": "# Kenya\n\n## Climate\n\nvaries from tropical along the coast to arid inside\n\n## Coastline\n\n536 km\n",
    "policy.md": "# Leave policy\n\nEffective date: 2026-01-01\n\nEvery employee has thirty days of annual leave.\n",
    "archive/policy_2024.md": "# Leave policy\n\nEvery employee has twenty days of annual leave.\n",
}
QUESTIONS = [
    {"id": "c1", "question": "What is the climate of Burundi?", "doc": "burundi", "quote": "equatorial; high plateau with much rain"},
    {"id": "c2", "question": "How long is the coastline of Kenya?", "doc": "kenya", "quote": "536 km", "answer": "536 km"},
    {"id": "v1", "question": "How many days of annual leave does every employee have?", "doc": "policy",
     "quote": "Every employee has thirty days of annual leave.", "stale": ["archive/policy_2024"], "answer": "thirty"},
    {"id": "v2", "question": "How many days of annual leave did the previous policy give every employee?", "doc": "archive/policy_2024",
     "quote": "Every employee has twenty days of annual leave."},
    {"id": "no", "question": "Who composed the Goldberg Variations?", "answerable": False},
    {"id": "gone", "question": "What is the climate of Kenya?", "doc": "kenya", "quote": "ice and snow all year round"},
]  # fmt: skip


@pytest.fixture(autouse=True)
def quiet():
    """Printing what a mind crashed of is slow where nobody reads it."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def a_set(tmp_path):
    folder = tmp_path / "set"
    for name, text in DOCS.items():
        (folder / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "docs" / name).write_text(text, encoding="utf-8")
    lines = "".join(json.dumps(question) + "\n" for question in QUESTIONS)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    return folder


def evaluate(a_set, data, **how):
    return run.evaluate(questions.load(a_set), doors.settings(data), run.How(**how))


def called(capsys, *arguments):
    code = cli.run(["eval", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


class TestASetThatIsAsked:
    def test_is_answered_by_real_plans_and_measured(self, a_set, tmp_path):
        results = evaluate(a_set, tmp_path)

        found = results.all()
        assert results.absent == ("gone",)
        assert [row.id for row in results.rows] == ["c1", "c2", "v1", "v2", "no"]
        assert (found["recall@5"], found["doc_recall@5"], found["contained"]) == (1.0, 1.0, 1.0)
        assert (found["abstention"], found["false_abstention"]) == (1.0, 0.0)
        assert (found["unsupported"], found["troubled"], found["stale_first"]) == (0.0, 0.0, 0.0)
        assert found["recall@5/bm25"] >= 1.0
        assert found["calls"] >= 3

    def test_gives_the_same_numbers_in_several_processes(self, a_set, tmp_path):
        alone = evaluate(a_set, tmp_path, plans=False)
        together = evaluate(a_set, tmp_path, plans=False, workers=2)

        assert alone.rows == together.rows

    def test_may_be_sampled_by_a_seed(self, a_set, tmp_path):
        def drawn(seed):
            return [r.id for r in evaluate(a_set, tmp_path, plans=False, limit=2, seed=seed).rows]

        assert drawn(3) == drawn(3)
        assert {tuple(drawn(seed)) for seed in range(5)} != {tuple(drawn(3))}

    def test_never_finds_its_own_questions_among_the_documents(self, a_set, tmp_path):
        for path in (a_set / "docs").iterdir():
            path.rename(a_set / path.name)
        (a_set / "docs").rmdir()

        results = evaluate(a_set, tmp_path, plans=False)

        assert results.documents == len(DOCS)

    def test_prefers_what_is_current_unless_asked_for_the_past(self, a_set, tmp_path):
        rows = {row.id: row.answer for row in evaluate(a_set, tmp_path).rows}

        assert not any("twenty" in line for line in rows["v1"].printed)
        assert any("twenty" in line for line in rows["v2"].printed)


class TestALab:
    def test_says_what_became_of_a_plan_whose_minds_fail(self, a_set, tmp_path):
        def broken(assignment, toolbox):
            raise ValueError("no mind")

        minds = dict.fromkeys(lab.MINDS, broken)
        made = lab.Lab(doors.settings(tmp_path), a_set / "docs", depth=1, minds=minds)
        try:
            ended = made.ask("What is the climate of Burundi?")
        finally:
            made.close()

        assert ended.plan.state == "dead_lettered"
        assert ended.report == {}


class TestTheVerb:
    def test_prints_tables_and_the_questions_that_went_wrong(self, a_set, tmp_path, capsys):
        (a_set / "questions.jsonl").write_text(
            json.dumps({"id": "odd", "question": "How long is the coastline of Kenya?", "doc": "burundi", "quote": "0 km (landlocked)"})
        )  # fmt: skip

        code, out, err = called(
            capsys, "--set", str(a_set), "--workers", "1", "--failures", "3", "--data", str(tmp_path)
        )

        assert code == exits.FINE, err
        assert "plain BM25" in out
        assert "unsupported" in out
        assert "odd: How long is the coastline of Kenya?" in out

    def test_fails_where_a_floor_is_not_met(self, a_set, tmp_path, capsys):
        usual = ("--set", str(a_set), "--search-only", "--workers", "1", "--data", str(tmp_path), "--json")

        met, out, _ = called(capsys, *usual, "--floor", "recall@5=1", "--floor", "recall@5/bm25=1")
        missed, _, err = called(capsys, *usual, "--floor", "recall@1=1.01")

        assert met == exits.FINE
        assert json.loads(out)["all"]["recall@5"] == 1.0
        assert missed == exits.FAILED
        assert "recall@1 is" in err

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["--floor", "recall@5"], "no floor"),
            (["--floor", "beauty=1"], "no measure 'beauty'"),
            (["--questions", "nowhere.jsonl"], "cannot be read"),
        ],
    )
    def test_refuses_what_it_cannot_use(self, a_set, tmp_path, capsys, arguments, told):
        usual = ("--set", str(a_set), "--search-only", "--workers", "1", "--data", str(tmp_path))

        code, _, err = called(capsys, *usual, *arguments)

        assert code == exits.USAGE
        assert told in err

    def test_asks_the_shipped_set_where_none_is_named(self, tmp_path, capsys):
        code, out, _ = called(
            capsys,
            "--limit",
            "6",
            "--workers",
            "1",
            "--data",
            str(tmp_path),
            "--json",
            "--floor",
            "unsupported=0",
        )

        found = json.loads(out)
        assert code == exits.FINE
        assert found["all"]["questions"] == 6
        assert found["documents"] >= 70
        assert set(measures.LOWER_IS_BETTER) & set(found["all"])
