"""A report's promises: it says only what its evidence contains, any tampering is named, and nothing in it is markup."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from orchestrator.domain.plan import Evidence, Fact, digest
from orchestrator.domain.report import NOT_FOUND, SHORT, build, check, markdown, plain, supports, verified

TEXT = "# Locks\n\nA lock is held\n  by one 🔒. A mutex is a lock. It is false that X is safe.\n"
OTHER = "Nobody else may take it.\nA lock is held by one 🔒."
LOCKS = Evidence.of(TEXT, locator="locks.md", title="Locks", origin="a" * 64)
RULES = Evidence.of(OTHER, locator="rules.txt", title="Rules")
STORED = {e.sha256: e for e in (LOCKS, RULES)}


def quoted(quote, evidence, number, **rest):
    start = evidence.text.index(quote)
    usual = {
        "locator": evidence.locator,
        "title": evidence.title,
        "heading": ("Locks", "Held"),
        "origin_sha256": evidence.origin_sha256,
        "question": "What is a lock?",
    }
    return Fact(3, number, quote, evidence.sha256, start, start + len(quote), **{**usual, **rest})


HELD = quoted("A lock is held\n  by one 🔒.", LOCKS, 1)
MUTEX = quoted("A mutex is a lock.", LOCKS, 2)
NOBODY = quoted("Nobody else may take it.", RULES, 3)
SAME = quoted("A lock is held by one 🔒.", RULES, 4)
FACTS = {f.name: f for f in (HELD, MUTEX, NOBODY, SAME)}


def says(text, *facts):
    return {"text": text, "facts": [f if isinstance(f, str) else f.name for f in facts]}


SECTIONS = [
    {
        "title": "What is a lock?",
        "sentences": [says("A lock is held by one 🔒.", HELD, SAME), says("A mutex is a lock.", MUTEX)],
    },
    {"title": "Who may take it?", "sentences": [says("Nobody else may take it.", NOBODY)]},
]


def made(sections=SECTIONS, *, evidence_of=STORED.get, facts=FACTS, **rest):
    usual = {
        "goal": "What is a lock?",
        "verdict": "answered",
        "method": "Extractive.",
        "partial": False,
        "gaps": ["How much is a lock?"],
        "notes": ["Searched 2 documents."],
        "confidence": 0.666,
    }
    return build(sections=sections, facts=facts, evidence_of=evidence_of, **{**usual, **rest})


def faults(report, **rest):
    return check(report, rest.get("evidence_of", STORED.get), rest.get("facts", FACTS))


class TestAReport:
    def test_proves_every_sentence(self):
        report = made()

        assert faults(report) == []
        assert check(report, STORED.get) == []
        assert [c["number"] for c in report["citations"]] == [1, 2, 3, 4]
        assert [s["citations"] for section in report["sections"] for s in section["sentences"]] == [
            [1, 2],
            [3],
            [4],
        ]
        assert report["confidence"] == 0.67

    def test_is_the_same_for_the_same_facts(self):
        assert digest(made()) == digest(made())
        assert markdown(made()) == markdown(copy.deepcopy(made()))
        assert markdown(made()) == markdown(dict(reversed(made().items())))

    def test_prints_every_sentence_with_its_citations_and_every_source_with_its_place(self):
        text = markdown(made())

        assert "- *Locks › Held:* A lock is held by one 🔒. [1][2]\n" in text
        assert "- *Locks › Held:* A mutex is a lock. [3]\n" in text
        place = f"characters {MUTEX.start}–{MUTEX.end}, SHA-256 `{'a' * 64}`"
        assert f"3. `locks.md` — Locks › Held, {place}" in text
        assert "## Not found in the sources\n\n- How much is a lock?\n" in text
        assert text.endswith("sources answer): 0.67\n")

    def test_without_a_sentence_says_that_nothing_was_found(self):
        report = made([])

        assert (report["verdict"], report["confidence"], faults(report)) == ("not_found", 0.0, [])
        assert NOT_FOUND == "Not found in the sources."
        assert NOT_FOUND in markdown(report).splitlines()

    def test_says_when_it_is_partial_or_needs_review(self):
        text = markdown(made(verdict="needs_review", partial=True))

        assert "**Partial:**" in text
        assert "**Needs review:**" in text
        assert "**" not in markdown(made())

    def test_puts_no_heading_before_a_sentence_that_is_long_enough_to_stand_alone(self):
        long = Evidence.of("A lock " + "is " * SHORT + "held.", locator="long.md")
        fact = quoted(long.text, long, 1)
        report = made(
            [{"title": "Answer", "sentences": [says(long.text, fact)]}],
            facts={fact.name: fact},
            evidence_of={long.sha256: long}.get,
        )

        assert "- A lock is is" in markdown(report)


class TestASentence:
    @pytest.mark.parametrize(
        "sentence",
        [
            says("A lock is held by one 🔒."),
            says("A lock is held by one 🔒.", "F9.9"),
            says("A lock is held by two.", HELD),
            says("A mutex is a lock.", HELD),
            says("a mutex is a lock.", MUTEX),
            says("A mutex is a lock", MUTEX),
            says("mutex is a lock.", MUTEX),
            says("A mutex is a lock. A mutex is a lock.", MUTEX),
            says("X is safe.", quoted("It is false that X is safe.", LOCKS, 2)),
            says("", MUTEX),
            says("   ", MUTEX),
        ],
        ids=lambda sentence: repr(sentence["text"]),
    )
    def test_that_no_cited_quote_contains_is_never_printed(self, sentence):
        report = made([{"title": "Answer", "sentences": [sentence]}])

        assert (report["sections"], report["citations"], report["verdict"]) == ([], [], "not_found")
        assert "Sentences left out because no verified evidence contains them: 1." in report["notes"]
        assert faults(report) == []

    @pytest.mark.parametrize(
        "stored",
        [
            {},
            {LOCKS.sha256: RULES},
            {LOCKS.sha256: Evidence(LOCKS.sha256, TEXT.replace("mutex", "MUTEX"), "locks.md")},
            {LOCKS.sha256: Evidence(LOCKS.sha256, TEXT + " ", "locks.md")},
        ],
        ids=["gone", "swapped", "altered", "altered elsewhere"],
    )
    def test_whose_evidence_does_not_hold_is_never_printed(self, stored):
        report = made([{"title": "Answer", "sentences": [says(MUTEX.quote, MUTEX)]}], evidence_of=stored.get)

        assert MUTEX.quote not in markdown(report)
        assert report["verdict"] == "not_found"

    def test_cites_only_the_facts_that_bear_it_out(self):
        report = made([{"title": "Answer", "sentences": [says(MUTEX.quote, HELD, MUTEX, "F9.9")]}])

        assert [c["fact"] for c in report["citations"]] == ["F3.2"]

    def test_may_differ_from_its_quote_in_white_space_only(self):
        assert supports("A lock is held by one 🔒.", [HELD.quote])
        assert supports(" A  mutex is\na lock. ", [MUTEX.quote])
        assert not supports("Amutex is a lock.", [MUTEX.quote])
        assert not supports("", [""])


class TestAFact:
    @pytest.mark.parametrize(
        ("start", "end"),
        [(-1, 3), (5, 5), (6, 5), (0, len(TEXT) + 1), (0, 3), (None, 3), (0.0, 3), (False, True)],
    )
    def test_whose_span_does_not_hold_its_quote_is_not_verified(self, start, end):
        fact = Fact(3, 1, "A mutex is a lock.", LOCKS.sha256, start, end, "locks.md")

        assert not verified(fact, LOCKS)

    def test_with_its_evidence_is_verified(self):
        assert all(verified(f, STORED[f.evidence]) for f in FACTS.values())
        assert not verified(MUTEX, None)
        assert not verified(MUTEX, RULES)


def put(report, path, value):
    altered = copy.deepcopy(report)
    at = altered
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return altered


TAMPERED = [
    (("sections", 0, "sentences", 1, "text"), "A mutex is a tree.", "sentence 2"),
    (("sections", 0, "sentences", 1, "text"), "mutex is a lock.", "sentence 2"),
    (("sections", 0, "sentences", 1, "text"), "", "sentence 2"),
    (("sections", 0, "sentences", 1, "citations"), [], "sentence 2"),
    (("sections", 0, "sentences", 1, "citations"), [1], "sentence 2"),
    (("sections", 0, "sentences", 1, "citations"), [3, 4], "sentence 2"),
    (("sections", 0, "sentences", 1, "citations"), [3, 99], "sentence 2"),
    (("sections", 0, "sentences", 1, "citations"), ["3"], "sentence 2"),
    (("sections", 0, "sentences", 0, "citations"), [True, 2], "sentence 1"),
    (("citations", 2, "quote"), "A mutex is a tree.", "citation 3"),
    (("citations", 2, "quote"), "A mutex is a lock", "citation 3"),
    (("citations", 2, "start"), 0, "citation 3"),
    (("citations", 2, "end"), 1_000, "citation 3"),
    (("citations", 2, "evidence"), "0" * 64, "citation 3"),
    (("citations", 2, "evidence"), RULES.sha256, "citation 3"),
    (("citations", 2, "origin_sha256"), "b" * 64, "citation 3"),
    (("citations", 2, "number"), 7, "citation 7"),
    (("citations", 2, "number"), 2, "citation 2"),
    (("citations", 0, "number"), True, "citation True"),
    (("citations", 2, "fact"), "F3.1", "citation 3"),
    (("citations", 2, "fact"), "F9.9", "citation 3"),
    (("citations", 2, "locator"), "rules.txt", "citation 3"),
    (("citations", 2, "title"), "Rules", "citation 3"),
    (("citations", 2, "heading"), ["Locks"], "citation 3"),
    (("citations", 2), "A mutex is a lock.", "report"),
    (("citations",), None, "report"),
    (("citations",), [], "sentence 1"),
    (("sections",), [], "report"),
    (("sections", 0), None, "report"),
    (("sections", 0, "title"), 7, "report"),
    (("sections", 0, "sentences", 1), "A mutex is a lock.", "report"),
    (("sections", 0, "sentences", 1, "citations"), None, "sentence 2"),
    (("notes",), 3, "report"),
    (("gaps",), [None], "report"),
    (("goal",), None, "report"),
    (("confidence",), "high", "report"),
]


class TestTampering:
    @pytest.mark.parametrize(("path", "value", "where"), TAMPERED, ids=lambda v: str(v)[:50])
    def test_is_a_fault_that_names_its_place(self, path, value, where):
        found = faults(put(made(), path, value))

        assert where in {f.where for f in found} or (found and where.startswith("sentence") and value is None)

    @pytest.mark.parametrize("key", sorted(made()))
    def test_with_the_form_of_a_report_is_a_fault(self, key):
        report = made()
        del report[key]

        assert faults(report) or key == "v"

    @pytest.mark.parametrize(
        "report", [{}, {"sections": []}, {"citations": 3}, {"citations": [[]], "sections": {}}]
    )
    def test_that_leaves_no_report_is_a_fault_and_no_crash(self, report):
        assert [f.where for f in faults(report)] == ["report"]

    def test_with_the_stored_evidence_is_a_fault(self):
        altered = {
            **STORED,
            LOCKS.sha256: Evidence(LOCKS.sha256, TEXT + "!", "locks.md", origin_sha256="a" * 64),
        }

        found = faults(made(), evidence_of=altered.get)

        assert [f.where for f in found] == ["citation 1", "citation 3"]
        assert all("was altered" in f.what for f in found)

    def test_with_the_recorded_fact_is_a_fault(self):
        (fault,) = faults(made(), facts={**FACTS, "F3.2": quoted("A mutex is a lock.", LOCKS, 2, title="X")})

        assert str(fault) == "citation 3: it differs from fact F3.2 as it was recorded"

    @given(st.data())
    def test_that_changes_what_is_printed_is_found_or_changes_the_digest(self, data):
        report = made()
        paths = list(leaves(report))
        path = data.draw(st.sampled_from(paths))
        value = data.draw(
            st.text() | st.integers() | st.booleans() | st.none() | st.floats() | st.lists(st.integers())
        )
        altered = put(report, path, value)
        try:
            changed = markdown(altered) != markdown(report)
        except (TypeError, ValueError, AttributeError, KeyError):
            changed = True

        if changed:
            assert digest(altered) != digest(report)
            proven = path[0] == "citations" or path[-2:] in {("citations", 0), ("citations", 1)}
            if proven or path[-1] == "text":
                assert faults(altered)


def leaves(value, path=()):
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path


EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- hidden -->",
    "</p><h1>Owned</h1>",
    "[click me](http://evil.example)",
    "![pixel](http://evil.example/x.png)",
    "<http://evil.example>",
    "[1]: http://evil.example 'x'",
    "[1][2] and [x]",
    "# A heading",
    "Setext\n=====",
    "Setext\n-----",
    "-----",
    "- - -",
    "***",
    "=====",
    "> a quote",
    "- an item",
    "+ an item",
    "* an item",
    "1. an item",
    "2024) an item",
    "`code`",
    "``` \ncode\n```",
    "~~~\ncode\n~~~",
    "    indented code",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "*bold* **bold** _em_ __em__ ~~gone~~",
    "&lt;b&gt; &amp; &copy; &#60;script&#62;",
    "\\<b\\> \\[x\\](y) \\",
    "trailing backslash \\",
    "a\u2028b\u0085c\x0bd\x00e\ttab",
    "\u202eabc",
    "$x^2$ :smile: @somebody #1",
    "[ ] a task",
    "-",
    "1.",
]
LINE = MarkdownIt("commonmark").enable(["table", "strikethrough"])
OURS = {
    "paragraph",
    "heading",
    "bullet_list",
    "ordered_list",
    "list_item",
    "inline",
    "text",
    "code_inline",
    "em",
}


def tokens(text):
    flat = []
    for token in LINE.parse(text):
        flat.append(token)
        flat.extend(token.children or [])
    return flat


def kinds(text):
    return {t.type.removesuffix("_open").removesuffix("_close") for t in tokens(text)}


def emphasised(text):
    return [
        "".join(
            t.content for t in line.children[1:-1][: [c.type for c in line.children].index("em_close") - 1]
        )
        for line in LINE.parse(text)
        if line.type == "inline" and any(c.type == "em_open" for c in line.children)
    ]


def shape(text):
    """The blocks of a rendering, without their text."""
    return [(t.type, t.tag, t.level) for t in LINE.parse(text) if t.type != "inline"]


def with_text_everywhere(evil):
    """A report in which a text stands in every place that a source, a file's name or a model can fill."""
    text = f"{evil}\n"
    evidence = Evidence.of(text, locator=evil, title=evil, origin=evil)
    fact = Fact(
        3, 1, evil, evidence.sha256, 0, len(evil), evil, evil, (evil, evil), evidence.origin_sha256, evil
    )
    untitled = Fact(3, 2, evil, evidence.sha256, 0, len(evil), evil, evil, (), evidence.origin_sha256, evil)
    facts = {f.name: f for f in (fact, untitled)}
    sections = [{"title": evil, "sentences": [says(evil, fact, untitled)]}]
    rest = {"goal": evil, "method": evil, "gaps": [evil, evil], "notes": [evil]}
    report = made(sections, facts=facts, evidence_of={evidence.sha256: evidence}.get, **rest)
    assert check(report, {evidence.sha256: evidence}.get, facts) == []
    return report


class TestTheMarkdown:
    @pytest.mark.parametrize("evil", EVIL, ids=repr)
    def test_prints_a_text_as_it_is_wherever_it_stands(self, evil):
        text = markdown(with_text_everywhere(evil))

        assert kinds(text) <= OURS
        assert shape(text) == shape(markdown(with_text_everywhere("plain")))
        shown = ["".join(c.content for c in t.children) for t in LINE.parse(text) if t.type == "inline"]
        meant = plain(evil).replace("\x00", "\ufffd")
        assert shown[0] == shown[1] == meant
        assert shown[2] == f"{meant} › {meant}: {meant} [1][2]"
        assert emphasised(text) == [f"{meant} › {meant}:"]

    @given(st.text(alphabet=st.sampled_from("<>[]()!#*_`~|\\&;:-+=.) \n\t123aé$@/\"'{}^%"), min_size=1))
    def test_lets_no_text_become_markup(self, evil):
        if not plain(evil):
            return
        text = markdown(with_text_everywhere(evil))

        assert kinds(text) <= OURS
        shown = ["".join(c.content for c in t.children) for t in LINE.parse(text) if t.type == "inline"]
        assert shown[0] == shown[1] == plain(evil)
        assert len(emphasised(text)) == (len(plain(evil)) <= SHORT)

    @given(st.text(min_size=1).filter(lambda text: text.strip() and max(text) < "\ud800"))
    def test_keeps_its_shape_whatever_is_in_it(self, evil):
        if not plain(evil):
            return
        assert shape(markdown(with_text_everywhere(evil))) == shape(markdown(with_text_everywhere("plain")))
