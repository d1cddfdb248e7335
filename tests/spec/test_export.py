"""A report as a file: the same bytes each time, no text that becomes markup, and every sentence still in it."""

from __future__ import annotations

import io
import itertools
import re
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path

import pypdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import export
from orchestrator.domain.claims import visible
from orchestrator.domain.errors import Invalid, Misconfigured
from orchestrator.domain.plan import Evidence, digest
from orchestrator.domain.report import check, plain
from orchestrator.export import Form
from tests.spec import test_report as given_report

EVERYTHING = given_report.disputed(
    verdict="needs_review",
    partial=True,
    vintage_of=given_report.archived,
    against=[given_report.MUTEX.name],
)
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Reads a page into its tags and its text, as a browser would."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.open = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(sorted(name for name, _ in attrs))))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_comment(self, data):
        self.tags.append(("comment", data))

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def page_of(report):
    return export.written(report, Form.HTML).decode()


def pdf_text(report):
    pages = pypdf.PdfReader(io.BytesIO(export.written(report, Form.PDF))).pages
    footer = re.compile(r"SHA-256 of the report: .*FILE\s*\d+")
    return "".join(footer.sub("", page.extract_text()) for page in pages)


def fonts_of(report):
    """The fonts inside of its PDF: of each its name and its file."""
    files = {}
    for page in pypdf.PdfReader(io.BytesIO(export.written(report, Form.PDF))).pages:
        for font in page["/Resources"]["/Font"].values():
            described = font.get_object()["/DescendantFonts"][0].get_object()["/FontDescriptor"]
            name = described["/FontName"].partition("+")[2]
            files[name] = described["/FontFile2"].get_object().get_data()
    return files


def squeezed(text):
    return "".join(text.split())


def quoting(*texts, **rest):
    """A report with a section of these sentences, each the whole of a document."""
    stored = {e.sha256: e for e in (Evidence.of(text, locator="a.md", title="A") for text in texts)}
    facts = {}
    for number, text in enumerate(texts, start=1):
        evidence = next(e for e in stored.values() if e.text == text)
        fact = given_report.quoted(text, evidence, number, heading=())
        facts[fact.name] = fact
    drafted = [{"text": fact.quote, "facts": [name]} for name, fact in facts.items()]
    return given_report.made(
        [{"title": "Answer", "sentences": drafted}], facts=facts, evidence_of=stored.get, **rest
    )


class TestEveryForm:
    @pytest.mark.parametrize("form", Form)
    def test_has_the_same_bytes_for_the_same_report(self, form):
        again = dict(reversed(EVERYTHING.items()))

        assert export.written(EVERYTHING, form) == export.written(again, form)

    @pytest.mark.parametrize("form", Form)
    def test_of_what_is_no_report_is_an_error_and_no_half_a_file(self, form):
        if form is Form.JSON:
            return
        with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
            export.written({**EVERYTHING, "sections": [None]}, form)

    @pytest.mark.parametrize(
        ("name", "form"),
        [
            ("r.md", Form.MARKDOWN),
            ("r.Markdown", Form.MARKDOWN),
            ("r.json", Form.JSON),
            ("r.HTML", Form.HTML),
            ("r.htm", Form.HTML),
            ("r.pdf", Form.PDF),
            ("pdf", Form.MARKDOWN),
            (".report", Form.MARKDOWN),
        ],
    )
    def test_is_asked_for_by_the_end_of_a_name(self, name, form):
        assert export.of_file(Path(name)) is form

    @pytest.mark.parametrize("name", ["r.txt", "r.xyz", "r.md.bak", "r.2026"])
    def test_is_asked_for_by_no_other_end(self, name):
        with pytest.raises(Invalid, match=r"Known are \.md, \.markdown, \.json, \.html, \.htm, \.pdf"):
            export.of_file(Path(name))


class TestThePage:
    PAGE = page_of(EVERYTHING)

    def test_b26_links_every_citation_to_its_source_with_the_quote_shown(self):
        linked = set(re.findall(r'href="#([^"]+)"', self.PAGE))
        there = set(re.findall(r'id="([^"]+)"', self.PAGE))
        text = "".join(Reader(self.PAGE).text)

        assert linked == there == {f"source-{c['number']}" for c in EVERYTHING["citations"]}
        assert all(text.count(plain(c["quote"])) >= 2 for c in EVERYTHING["citations"])
        assert digest(EVERYTHING) in text

    def test_runs_nothing_and_loads_nothing(self):
        tags = {tag for tag, _ in Reader(self.PAGE).tags}

        assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "svg"}
        assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', self.PAGE))
        assert "url(" not in self.PAGE
        assert "@import" not in self.PAGE
        assert not re.search(r"\son\w+=", self.PAGE)

    def test_lets_a_browser_apply_its_own_style_and_nothing_else(self):
        said = re.search(r'Content-Security-Policy" content="([^"]+)"', self.PAGE)[1].replace("&#39;", "'")

        assert said == export.html.policy()
        assert said.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in said

    def test_can_be_read_by_anybody(self):
        reader = Reader(self.PAGE)
        levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r"h\d", tag)]

        assert reader.open == []
        assert '<html lang="en">' in self.PAGE
        assert "width=device-width" in self.PAGE
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
        assert "prefers-color-scheme: dark" in self.PAGE
        assert "@media print" in self.PAGE
        assert self.PAGE.count("aria-label") == self.PAGE.count('class="cite"') > 0

    @pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
    def test_has_enough_contrast(self, scheme):
        colours = [
            dict(re.findall(r"--(\w+): (#\w+)", part)) for part in re.findall(r":root \{[^}]*\}", self.PAGE)
        ]
        used = colours[scheme]

        assert all(contrast(used[ink], used["paper"]) >= 4.5 for ink in ("ink", "soft", "link"))
        assert contrast(used["ink"], used["mark"]) >= 4.5

    @pytest.mark.parametrize(
        "evil", [*given_report.EVIL, "'\"><svg/onload=x>", "{{ 7*7 }}", "{% raw %}", "]]>", "</style>"]
    )
    def test_prints_a_text_as_it_is_wherever_it_stands(self, evil):
        reader = Reader(page_of(given_report.with_text_everywhere(evil)))

        assert reader.tags == tags_of_harmless(evil)
        assert "".join(reader.text).count(visible(plain(evil))) >= 12

    @given(
        st.text(min_size=1).filter(
            lambda text: text.strip() and not any("\ud800" <= c <= "\udfff" for c in text)
        )
    )
    @settings(max_examples=60)
    def test_lets_no_text_become_markup(self, evil):
        if not plain(evil):
            return
        reader = Reader(page_of(given_report.with_text_everywhere(evil)))

        assert reader.tags == tags_of_harmless(evil)


def tags_of_harmless(evil):
    """The tags of the same report with as many letters in place of a text."""
    return Reader(page_of(given_report.with_text_everywhere("p" * len(plain(evil))))).tags


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


class TestThePdf:
    def test_has_every_sentence_and_citation_in_its_text(self):
        latin = quoting(
            "The north lighthouse is 41 metres tall and was lit in 1904.",
            "Высота маяка — 41 метр; ύψος 41 μέτρα, „höher“ als ≤ 50 → ja.",
            "A" * 300,
            "A long sentence " * 60 + "ends.",
            goal="How tall is it?",
        )
        for report in (latin, EVERYTHING):
            text = squeezed(pdf_text(report))
            for section in report["sections"]:
                for sentence in section["sentences"]:
                    marks = "".join(f"[{n}]" for n in sentence["citations"])
                    assert squeezed(sentence["text"]) + marks in text
            for citation in report["citations"]:
                assert squeezed(f"{citation['number']}. {citation['locator']}") in text
                assert citation["origin_sha256"] in text

    def test_says_in_its_foot_which_report_it_is_and_how_to_prove_it(self):
        pages = pypdf.PdfReader(io.BytesIO(export.written(EVERYTHING, Form.PDF))).pages

        for page in pages:
            assert f"SHA-256 of the report: {digest(EVERYTHING)}" in page.extract_text()
            assert "orchestrator report verify" in page.extract_text()

    @pytest.mark.parametrize(
        ("text", "fonts"),
        [
            ("The lighthouse is 41 metres ≤ 50, Ł₂ → ½.", {"NotoSans", "NotoSansMath"}),
            ("შუქურა is Georgian, ὕψος Greek, Ѣ old.", {"NotoSans", "FiraGO"}),
            ("∀x∈ℝ: ∑√x ≠ ∞, 𝒜 ⟨U+202E⟩ ⇒ ⊕.", {"NotoSans", "NotoSansMath"}),
            ("Ⓐ ① ♂ 🔒 ☂ ★ 👍 ⠿ 𝄞 ┌─┐ ▓.", None),
        ],
    )
    def test_has_the_letters_and_signs_of_every_font_and_carries_those_it_needs(self, text, fonts):
        report = quoting(text)
        said = pdf_text(report)

        assert squeezed(text) in squeezed(said)
        assert "cannot print" not in said
        assert fonts is None or set(fonts_of(report)) == fonts
        # what is filed as TrueType has to be: some readers refuse it otherwise
        assert all(file.startswith(b"\0\1\0\0") for file in fonts_of(report).values())

    @pytest.mark.parametrize(
        ("text", "printed"),
        [
            ("中文 is Chinese and 😀 is glad.", "�� is Chinese and � is glad."),
            (
                "עִב is Hebrew, عرب Arabic, हिन् Indic, ที่ Thai.",
                "��� is Hebrew, ��� Arabic, ���� Indic, ��� Thai.",
            ),
        ],
    )
    def test_names_the_characters_that_it_cannot_print(self, text, printed):
        said = pdf_text(quoting(text))

        assert printed in said
        named = said[said.index("cannot print") :].replace("\n", " ")
        for char, there in zip(text, printed, strict=True):
            assert (f"U+{ord(char):04X}" in named) == (there == "�")

    @pytest.mark.parametrize(
        ("text", "printed"),
        [
            ("The lighthouse is 41 metres tall.", "The lighthouse is 41 metres tall."),
            ("Mind ⚠\ufe0f the rocks.", "Mind ⚠ the rocks."),
            ("It has {nb} pages.", "It has {nb} pages."),
        ],
    )
    def test_of_what_it_can_print_confesses_nothing(self, text, printed):
        said = pdf_text(quoting(text))

        assert printed in said
        assert "cannot print" not in said

    def test_is_the_same_on_another_day_and_needs_no_place_for_a_file(self, monkeypatch, tmp_path):
        report = quoting("≤ 41 metres → შუქურა 🔒.")
        today, now = export.written(report, Form.PDF), time.time
        monkeypatch.setattr(time, "time", lambda: now() + 86_400)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))

        assert export.written(report, Form.PDF) == today

    def test_has_no_time_of_its_own_no_script_and_an_outline(self):
        reader = pypdf.PdfReader(io.BytesIO(export.written(EVERYTHING, Form.PDF)))

        assert reader.metadata.creation_date == export.pdf.EPOCH
        assert reader.metadata.title == "What is a lock?"
        assert "Sources" in str(reader.outline)
        assert b"/JavaScript" not in export.written(EVERYTHING, Form.PDF)
        assert b"/URI" not in export.written(EVERYTHING, Form.PDF)

    @given(
        st.text(min_size=1).filter(
            lambda text: text.strip() and not any("\ud800" <= c <= "\udfff" for c in text)
        )
    )
    @settings(max_examples=6, deadline=None)
    def test_is_written_whatever_is_in_it(self, evil):
        if plain(evil):
            assert export.written(given_report.with_text_everywhere(evil), Form.PDF).startswith(b"%PDF-")

    @pytest.mark.parametrize("missing", ["fpdf", "pymupdf_fonts"])
    def test_without_its_library_or_its_fonts_says_what_to_install(self, monkeypatch, missing):
        monkeypatch.setitem(sys.modules, missing, None)

        with pytest.raises(Misconfigured, match=r"pip install 'orchestrator\[pdf\]'"):
            export.written(EVERYTHING, Form.PDF)
        with pytest.raises(Misconfigured):
            export.require(Form.PDF)
        export.require(Form.HTML)
        assert export.written(EVERYTHING, Form.HTML)


def test_the_report_that_is_exported_here_is_sound():
    assert (
        check(EVERYTHING, given_report.EVERYWHERE.get, given_report.ALL, vintage_of=given_report.archived)
        == []
    )
