import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.toolhost.documents import language_reference, passages, reading
from workers.toolhost.documents.index import (
    DocumentIndex,
    FolderNotFound,
    IndexUnavailable,
    NotAFolder,
    NothingReadable,
)
from workers.toolhost.documents.reading import Document, Unreadable

HANDBOOK = """# Handbook

## Leave

Every employee has thirty days of annual leave a year.

## Travel

Trains are booked in second class. Flights need an approval.
"""


def _pdf(text):
    """Write the smallest PDF that shows one line of text."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources 6 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Font << /F1 5 0 R >> >>",
    ]
    body = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(body)
    return body + (
        b"xref\n0 7\n0000000000 65535 f \n%strailer\n<< /Size 7 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
        % (table, start)
    )


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "library"
    made.mkdir()
    (made / "handbook.md").write_text(HANDBOOK)
    (made / "whales.txt").write_text("Whales\n======\n\nBlue whales eat krill. They live in every ocean.\n")
    return made


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def _read(folder, name, content, **given_):
    path = folder / name
    path.write_bytes(content)
    return reading.read(path, root=folder, **given_)


class TestReading:
    @pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.py", "README"])
    def test_text_is_kept_character_by_character(self, tmp_path, name):
        raw = "Title\r\n=====\r\n\r\nCafé 熵 \t\u200b end \n\n\n".encode()
        document = _read(tmp_path, name, raw)
        assert document.text.encode() == raw
        assert document.sha256 == document.text_sha256 == hashlib.sha256(raw).hexdigest()
        assert document.note == ""

    def test_a_document_is_called_by_its_heading(self, tmp_path):
        assert _read(tmp_path, "a.md", b"# The Handbook\n\nText.\n").title == "The Handbook"
        assert (
            _read(tmp_path, "b.txt", b'The "with" statement\n****\n\nText.\n').title == 'The "with" statement'
        )
        assert (
            _read(tmp_path, "c.rst", b"PEP: 8\nTitle: Style Guide\n\nIntro\n=====\n\nText.\n").title
            == "Style Guide"
        )
        assert _read(tmp_path, "plain-notes.txt", b"just some words that end here.\n").title == "plain-notes"

    def test_a_page_of_html_becomes_text_with_marks(self, tmp_path):
        page = (
            b"<?xml version='1.0'?><html><head><title>The page</title><style>p{}</style></head><body>"
            b"<nav>Home</nav><h1>Main <b>part</b></h1><p>First &amp; best.<br>Next line.</p><script>x=1</script>"
            b"<ul><li>one</li><li><p>two</p></li></ul><table><tr><th>a</th><td>b</td></tr></table>"
            b"<pre>code\n  here</pre><!-- hidden --></body></html>"
        )
        document = _read(tmp_path, "a.html", page)
        assert document.title == "The page"
        assert document.text == (
            "# Main part\n\nFirst & best.\nNext line.\n\n- one\n- two\n\n| a | b |\n\n```\ncode\n  here\n```\n"
        )
        assert document.sha256 == hashlib.sha256(page).hexdigest() != document.text_sha256

    def test_a_page_nested_a_hundred_thousand_deep_is_no_disaster(self, tmp_path):
        assert isinstance(_read(tmp_path, "a.html", b"<div>" * 100_000 + b"deep"), Document | Unreadable)

    def test_a_pdf_becomes_text(self, tmp_path):
        document = _read(tmp_path, "a.pdf", _pdf("Whales eat krill every day."))
        assert "Whales eat krill every day." in document.text
        assert document.media_type == "application/pdf"

    def test_bytes_that_are_not_utf8_are_guessed_and_it_is_noted(self, tmp_path):
        words = "Die Größe der Straße fällt überall auf, sagte der müde Bäcker zu später Stunde. " * 5
        document = _read(tmp_path, "a.txt", words.encode("cp1252"))
        assert "Größe" in document.text
        assert "not UTF-8" in document.note

    def test_a_byte_order_mark_is_left_out_and_it_is_noted(self, tmp_path):
        document = _read(tmp_path, "a.txt", b"\xef\xbb\xbfSome words here.\n")
        assert document.text == "Some words here.\n"
        assert "byte order mark" in document.note
        assert _read(tmp_path, "b.txt", "Some words here.\n".encode("utf-16")).text == "Some words here.\n"

    def test_a_nul_is_replaced_because_a_database_cannot_hold_it(self, tmp_path):
        document = _read(tmp_path, "a.txt", b"Words " * 100 + b"\x00 and more.\n")
        assert "\x00" not in document.text
        assert "\ufffd" in document.text
        assert "replaced" in document.note

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("a.txt", b"", "empty"),
            ("a.txt", b" \n\t\n", "empty"),
            ("a.txt", bytes(range(256)) * 20, "not text"),
            ("a.docx", b"PK\x03\x04 rest of an archive", "office document"),
            ("a.png", b"\x89PNG\r\n\x1a\n rest", "image"),
            ("a.pdf", b"%PDF-1.7 and then nothing of the kind", "PDF"),
            ("a.pdf", b"not even a header", "PDF"),
            ("a.pdf", _pdf(""), "scan"),
            ("a.html", b"<html><script>only()</script></html>", "no text"),
        ],
    )
    def test_a_file_that_is_not_text_is_skipped_with_a_reason(self, tmp_path, name, content, told):
        found = _read(tmp_path, name, content)
        assert isinstance(found, Unreadable)
        assert found.locator == name
        assert told in found.reason
        assert found.reason.endswith(".")

    def test_a_file_beyond_the_limit_is_skipped_with_a_reason(self, tmp_path):
        found = _read(tmp_path, "a.txt", b"x" * 11, limit_bytes=10)
        assert found == Unreadable("a.txt", "The file has 11 bytes; at most 10 bytes are read.")

    def test_a_link_that_leads_out_of_the_folder_is_not_followed(self, tmp_path):
        (tmp_path / "secret.txt").write_text("A secret for nobody.")
        inside = tmp_path / "inside"
        inside.mkdir()
        (inside / "link.txt").symlink_to(tmp_path / "secret.txt")
        found = reading.read(inside / "link.txt", root=inside)
        assert found == Unreadable("link.txt", "The file is a link that leads out of the folder.")

    def test_what_is_no_file_is_skipped_with_a_reason(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.txt")
        (tmp_path / "sub").mkdir()
        for name in ("pipe.txt", "sub", "gone.txt"):
            assert isinstance(reading.read(tmp_path / name, root=tmp_path), Unreadable)

    @given(
        st.binary(max_size=400),
        st.sampled_from(["a.txt", "a.md", "a.html", "a.pdf", "a.bin", "a"]),
        st.booleans(),
    )
    def test_no_bytes_at_all_are_an_error(self, tmp_path_factory, content, name, pdf):
        where = tmp_path_factory.getbasetemp()
        found = _read(where, name, b"%PDF-1.4\n" * pdf + content)
        assert isinstance(found, Document | Unreadable)
        if isinstance(found, Document):
            assert hashlib.sha256(found.text.encode()).hexdigest() == found.text_sha256
            assert passages.cut(found)

    @pytest.mark.parametrize(
        ("missing", "name", "content", "told"),
        [
            ("pypdf", "a.pdf", _pdf("Whales eat krill."), "No PDFs can be read here"),
            ("bs4", "a.html", b"<p>Whales eat krill.</p>", "No web pages can be read here"),
        ],
    )
    def test_what_a_missing_library_would_read_is_left_out_with_the_reason_until_it_is_there(
        self, tmp_path, monkeypatch, missing, name, content, told
    ):
        monkeypatch.setitem(sys.modules, missing, None)

        found = _read(tmp_path, name, content)

        assert told in found.reason
        assert missing in found.reason
        assert found.passing


class TestPassages:
    @staticmethod
    def _cut(text, media_type="text/markdown"):
        return passages.cut(Document("a", "A", media_type, text, "", ""))

    def test_stand_under_the_path_of_their_headings(self):
        assert [(span.heading, HANDBOOK[span.start : span.end]) for span in self._cut(HANDBOOK)] == [
            (("Handbook", "Leave"), "Every employee has thirty days of annual leave a year."),
            (("Handbook", "Travel"), "Trains are booked in second class. Flights need an approval."),
        ]

    def test_are_cut_between_paragraphs(self):
        paragraph = "Some words of a paragraph that goes on. " * 10
        text = "\n\n".join([paragraph.strip()] * 12)
        spans = self._cut(text)
        assert all(passages.SHORTEST <= span.end - span.start <= passages.LONGEST for span in spans)
        assert all(text[span.end : span.end + 2] in {"\n\n", ""} for span in spans)

    def test_a_paragraph_that_is_too_long_is_cut_between_sentences(self):
        text = "Some words of a paragraph that goes on. " * 200
        assert all(text[span.start : span.end].endswith(".") for span in self._cut(text))

    @given(
        st.lists(
            st.sampled_from(["# A\n", "B\n===\n", "\n\n", "word ", "End. ", "熵", "x" * 700, "\r\n", "  "])
        ).map("".join),
        st.sampled_from(["text/markdown", "text/plain", "text/csv"]),
    )
    def test_are_ordered_and_hold_all_the_text_but_the_headings(self, text, media_type):
        reached = 0
        for span in self._cut(text, media_type):
            assert reached <= span.start < span.end <= len(text)
            assert span.end - span.start <= passages.LONGEST
            reached = span.end
        kept = "".join(text[span.start : span.end] for span in self._cut(text, media_type))
        assert kept.count("熵") == text.count("熵") or media_type != "text/csv"


class TestAnIndex:
    def test_finds_passages_with_their_exact_place(self, folder, cache):
        index = DocumentIndex.open(folder, cache)
        summary = index.refresh()
        assert (summary.documents, summary.passages, summary.skipped) == (2, 3, ())
        found = index.search("How many days of annual leave are there?", 5)[0]
        assert (found.locator, found.title, found.heading) == (
            "handbook.md",
            "Handbook",
            ("Handbook", "Leave"),
        )
        document = index.fetch(found.locator)
        assert document.text[found.start : found.end] == found.text
        assert (found.sha256, found.text_sha256) == (document.sha256, document.text_sha256)

    def test_gives_the_same_answer_every_time(self, folder, cache):
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        assert index.search("whales or trains", 5) == index.search("whales or trains", 5)

    @pytest.mark.parametrize(
        "query", ["", "   ", "???", '" OR "', "NEAR(", "a* -b ^c {d}", "😀", "熵 AND", "x" * 100_000]
    )
    def test_takes_any_query_as_words(self, folder, cache, query):
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        assert isinstance(index.search(query, 3), list)

    def test_finds_chinese_inside_a_sentence(self, folder, cache):
        (folder / "physics.txt").write_text("熵是系统无序程度的度量。")
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        assert [found.locator for found in index.search("什么是无序程度？", 3)] == ["physics.txt"]

    def test_finds_a_stop_word_that_is_meant_as_a_word(self, folder, cache):
        (folder / "with.md").write_text('The "with" keyword opens a block.\n')
        (folder / "other.md").write_text("A keyword that goes with a block is what opens it.\n")
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        assert index.search("What does the with keyword do?", 1)[0].locator == "with.md"

    def test_takes_a_files_name_for_part_of_its_title(self, folder, cache):
        (folder / "rule-0008.txt").write_text("Lines have at most 79 characters.")
        (folder / "rule-0009.txt").write_text("Lines have at most 99 characters.")
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        assert index.search("How long are lines in rule 9?", 1)[0].locator == "rule-0009.txt"

    def test_leaves_room_for_more_than_one_document(self, folder, cache):
        long = "\n\n".join(f"# Part {n}\n\nWhales and krill number {n} in the sea." for n in range(20))
        (folder / "long.md").write_text(long)
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        assert {found.locator for found in index.search("whales krill", 8)} == {"long.md", "whales.txt"}

    def test_shows_a_copied_passage_once(self, folder, cache):
        (folder / "copy.txt").write_text((folder / "whales.txt").read_text())
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        assert len(index.search("krill", 8)) == 1

    def test_says_why_it_skipped_a_file(self, folder, cache, tmp_path):
        (folder / "empty.txt").touch()
        (folder / "gone.txt").symlink_to(folder / "nowhere.txt")
        (folder / "elsewhere").symlink_to(tmp_path)
        (folder / ".hidden.txt").write_text("Nobody sees this file.")
        summary = DocumentIndex.open(folder, cache).refresh()
        assert [left.locator for left in summary.skipped] == ["elsewhere", "empty.txt", "gone.txt"]
        assert all(left.reason.endswith(".") for left in summary.skipped)

    def test_does_not_index_itself(self, folder):
        index = DocumentIndex.open(folder, folder / "cache")
        assert index.refresh() == index.refresh()
        assert index.refresh().skipped == ()


class TestRefreshing:
    def test_reads_only_what_has_changed(self, folder, cache, monkeypatch):
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        (folder / "whales.txt").write_text("Orcas are dolphins and not whales at all.\n")
        read = []
        real = reading.read
        monkeypatch.setattr(
            reading, "read", lambda path, **given_: read.append(path.name) or real(path, **given_)
        )
        index.refresh()
        assert read == ["whales.txt"]
        assert index.search("orcas", 3)
        assert not index.search("krill", 3)

    def test_forgets_what_is_gone(self, folder, cache):
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        (folder / "whales.txt").unlink()
        assert index.refresh().documents == 1
        assert index.fetch("whales.txt") is None
        assert not index.search("krill", 3)

    def test_tries_a_file_again_that_could_not_be_opened(self, folder, cache, monkeypatch):
        index = DocumentIndex.open(folder, cache)
        with monkeypatch.context() as broken:
            broken.setattr(
                Path,
                "read_bytes",
                lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")),
            )
            with pytest.raises(NothingReadable, match="The file cannot be opened: Permission denied"):
                index.refresh()
        assert index.refresh().documents == 2

    def test_tells_how_far_it_is(self, folder, cache):
        told = []
        DocumentIndex.open(folder, cache).refresh(lambda done, of: told.append((done, of)))
        assert told == [(1, 2), (2, 2)]

    def test_a_fingerprint_depends_on_the_documents_alone(self, folder, cache, tmp_path):
        first = DocumentIndex.open(folder, cache).refresh().fingerprint
        moved = tmp_path / "moved"
        folder.rename(moved)
        index = DocumentIndex.open(moved, cache)
        assert index.refresh().fingerprint == first
        (moved / "new.txt").write_text("Some new words here.")
        assert index.refresh().fingerprint != first

    def test_a_document_stays_as_indexed_when_its_file_changes(self, folder, cache):
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        before = (folder / "whales.txt").read_text()
        (folder / "whales.txt").write_text("Something else entirely.")
        assert index.fetch("whales.txt").text == before


class TestAFolder:
    def test_that_does_not_exist_is_named(self, tmp_path, cache):
        with pytest.raises(FolderNotFound, match=r"There is no folder .*nowhere"):
            DocumentIndex.open(tmp_path / "nowhere", cache)

    def test_that_is_a_file_is_named(self, folder, cache):
        with pytest.raises(NotAFolder, match="is a file"):
            DocumentIndex.open(folder / "whales.txt", cache)

    def test_without_a_readable_document_says_why(self, tmp_path, cache):
        (tmp_path / "bare").mkdir()
        (tmp_path / "bare" / "empty.txt").touch()
        with pytest.raises(
            NothingReadable, match=r"holds no document.*empty\.txt: The file is empty\."
        ) as caught:
            DocumentIndex.open(tmp_path / "bare", cache).refresh()
        assert len(caught.value.skipped) == 1


class TestACacheFolder:
    def test_that_cannot_be_made_is_named(self, folder):
        with pytest.raises(IndexUnavailable, match="cannot be used"):
            DocumentIndex.open(folder, folder / "whales.txt" / "cache")

    def test_that_is_gone_is_named(self, folder, cache):
        index = DocumentIndex.open(folder, cache)
        cache.rmdir()
        with pytest.raises(IndexUnavailable, match="unable to open database file"):
            index.refresh()


class TestDamage:
    @pytest.mark.parametrize(
        "content", [b"", b"this is no database at all" * 100, b"SQLite format 3\x00" + b"\x07" * 9000]
    )
    def test_to_the_index_file_is_repaired(self, folder, cache, content):
        index = DocumentIndex.open(folder, cache)
        before = index.refresh()
        index.path.write_bytes(content)
        assert index.refresh() == before
        assert index.search("krill", 3)

    def test_in_the_middle_of_the_file_is_repaired_by_a_search(self, folder, cache):
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        raw = bytearray(index.path.read_bytes())
        raw[4096:] = b"\x55" * (len(raw) - 4096)
        index.path.write_bytes(raw)
        assert index.search("krill", 3)[0].locator == "whales.txt"

    def test_to_a_text_is_noticed_when_it_is_fetched(self, folder, cache):
        index = DocumentIndex.open(folder, cache)
        index.refresh()
        database = sqlite3.connect(index.path)
        with database:
            database.execute("UPDATE document SET text = 'forged' WHERE locator = 'whales.txt'")
        database.close()
        assert index.fetch("whales.txt").text == (folder / "whales.txt").read_text()

    def test_by_an_index_of_another_version_is_none(self, folder, cache):
        index = DocumentIndex.open(folder, cache)
        before = index.refresh()
        database = sqlite3.connect(index.path)
        with database:
            database.execute("UPDATE meta SET value = 'old' WHERE key = 'version'")
        database.close()
        assert index.refresh() == before

    def test_is_never_done_by_a_process_killed_in_the_middle(self, folder, cache):
        for number in range(40):
            (folder / f"note{number:02}.txt").write_text(
                f"Note {number} speaks of lighthouses and their keepers.\n"
            )
        script = textwrap.dedent("""
            import sys, time
            from pathlib import Path
            from workers.toolhost.documents.index import DocumentIndex
            def slowly(done, of):
                print(done, flush=True)
                time.sleep(0.02)
            DocumentIndex.open(Path(sys.argv[1]), Path(sys.argv[2])).refresh(slowly)
        """)
        for killed_after in (1, 20, 41):
            process = subprocess.Popen(
                [sys.executable, "-c", script, str(folder), str(cache)],
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            with process:
                for line in process.stdout:
                    if int(line) == killed_after:
                        process.send_signal(signal.SIGKILL)
                        break
            index = DocumentIndex.open(folder, cache)
            assert index.search("lighthouses", 3) == []  # nothing half done is visible
        assert index.refresh().documents == 42
        assert len(index.search("lighthouses", 3)) == 3


class TestMany:
    def test_threads_refresh_and_search_at_once(self, folder, cache):
        barrier = threading.Barrier(6)

        def work(number):
            index = DocumentIndex.open(folder, cache)
            barrier.wait()
            summary = index.refresh()
            return summary, [found.locator for found in index.search("krill", 3)]

        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(work, range(6)))
        assert {summary.documents for summary, _ in results} == {2}
        assert all(found == ["whales.txt"] for _, found in results)

    def test_processes_refresh_at_once(self, folder, cache):
        script = textwrap.dedent("""
            import sys
            from pathlib import Path
            from workers.toolhost.documents.index import DocumentIndex
            print(DocumentIndex.open(Path(sys.argv[1]), Path(sys.argv[2])).refresh().fingerprint)
        """)
        command = [sys.executable, "-c", script, str(folder), str(cache)]
        root = Path(__file__).parents[2]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(3)]
        printed = {process.communicate(timeout=60)[0] for process in running}
        assert len(printed) == 1
        assert all(process.returncode == 0 for process in running)


class TestTheLanguageReference:
    def test_is_written_once_and_left_alone_after(self, tmp_path):
        count = language_reference.export(tmp_path)
        assert count == len(list(tmp_path.glob("*.txt"))) > 50
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        (tmp_path / "mine.txt").write_text("Somebody else's file.")
        assert language_reference.export(tmp_path) == count
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())
        assert (tmp_path / "mine.txt").exists()

    def test_mends_a_chapter_that_was_changed(self, tmp_path):
        language_reference.export(tmp_path)
        chapter = (tmp_path / "with.txt").read_bytes()
        (tmp_path / "with.txt").write_bytes(b"changed")
        language_reference.export(tmp_path)
        assert (tmp_path / "with.txt").read_bytes() == chapter


class TestStaleDocuments:
    POLICY = "# Leave policy\n\nEvery employee has {} days of annual leave a year.\n"

    def _found(self, tmp_path, query, **documents):
        folder = tmp_path / "docs"
        for name, days in documents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.POLICY.format(days), encoding="utf-8")
        opened = DocumentIndex.open(folder, tmp_path / "indexes")
        opened.refresh()
        return opened.search(query, 5)

    @pytest.mark.parametrize("stale", ["archive/leave.md", "a_superseded.md", "leave_policy_2024.md"])
    def test_come_after_the_current_one(self, tmp_path, stale):
        found = self._found(
            tmp_path, "How many days of annual leave?", **{stale: "twenty", "leave_policy_2026.md": "thirty"}
        )

        assert [p.locator for p in found] == ["leave_policy_2026.md", stale]

    def test_that_say_so_carry_the_reason(self, tmp_path):
        (found,) = self._found(tmp_path, "annual leave", **{"archive/leave_2024.md": "twenty"})

        assert (found.superseded, found.dated) == ("It lies in a folder named archive.", "2024-01-01")

    def test_are_not_moved_back_where_the_past_is_asked_for(self, tmp_path):
        documents = {"archive/leave_policy_2024.md": "twenty", "leave_policy_2026.md": "thirty"}

        found = self._found(tmp_path, "How many days of annual leave in 2024?", **documents)

        assert found[0].locator == "archive/leave_policy_2024.md"

    def test_are_not_moved_back_where_they_are_named(self, tmp_path):
        folder = tmp_path / "docs"
        folder.mkdir()
        for number, rest in (("0345", "Superseded-By: 566\n"), ("0566", "")):
            text = f"PEP: {number}\n{rest}\n# Metadata\n\nMetadata of PEP {int(number)} describes packages of Python.\n"
            (folder / f"pep-{number}.md").write_text(text, encoding="utf-8")
        opened = DocumentIndex.open(folder, tmp_path / "indexes")
        opened.refresh()

        assert opened.search("What metadata does PEP 345 describe?", 5)[0].locator == "pep-0345.md"
        assert opened.search("Which metadata describes packages?", 5)[0].locator == "pep-0566.md"


class TestASearchInProse:
    def test_is_not_led_astray_by_headings_and_long_documents(self, tmp_path):
        folder = tmp_path / "docs"
        folder.mkdir()
        filler = "The harbour of the town is old, and its walls were built of grey stone long ago. " * 6
        many = "".join(f"\n\n## Locks, part {n}\n\n{filler} A lock was mentioned.\n" for n in range(30))
        (folder / "everything.md").write_text(f"# Everything\n{many}", encoding="utf-8")
        answer = f"A lock is held by one thread at a time, and no other thread may take it. {filler}"
        (folder / "threads.md").write_text(f"# Threads\n\n{answer}\n", encoding="utf-8")
        opened = DocumentIndex.open(folder, tmp_path / "indexes")
        opened.refresh()

        found = opened.search("How many threads may hold a lock at a time?", 5)

        assert found[0].locator == "threads.md"


def test_a_record_is_found_under_a_heading_that_says_the_same_in_other_words(tmp_path):
    folder = tmp_path / "profiles"
    folder.mkdir()
    for name, climate in (("Kiribati", "tropical; marine"), ("Norway", "temperate along coast")):
        rows = {"Terrain": "mostly low", "Climate": climate, "Flag": "red", "Kind of rule": "republic"}
        body = "\n".join(f"## {heading}\n\n{value}\n" for heading, value in rows.items())
        (folder / f"{name.lower()}.md").write_text(f"# {name}\n\n{body}")
    index = DocumentIndex.open(folder, tmp_path / "cache")
    index.refresh()
    assert index.search("What weather does Kiribati have?", 1)[0].heading == ("Kiribati", "Climate")
