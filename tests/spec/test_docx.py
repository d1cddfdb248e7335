"""Word documents: what is taken out of them, and what a hostile one cannot do."""

from __future__ import annotations

import contextlib
import io
import zipfile

import pytest

from workers.toolhost.documents import docx, reading

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def document(body, *, prolog="", compress=zipfile.ZIP_DEFLATED, name=docx.PART):
    xml = f'<?xml version="1.0"?>{prolog}<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
    return archive({name: xml.encode()}, compress=compress)


def archive(parts, *, compress=zipfile.ZIP_DEFLATED):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", compress) as made:
        for name, content in parts.items():
            made.writestr(name, content)
    return raw.getvalue()


def paragraph(text, style="", extra=""):
    styled = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{styled}<w:r>{extra}<w:t>{text}</w:t></w:r></w:p>"


class TestAWordDocument:
    def test_is_read_with_its_headings_lists_and_tables(self):
        table = "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>Payload</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>950 kg</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
        body = (
            paragraph("Brief", "Title")
            + paragraph("Specification", "Heading2")
            + paragraph("It is a robot.")
            + paragraph("It is quick.")
            + paragraph("It lifts.", "ListParagraph")
            + table
        )

        text = docx.text_of(document(body))

        assert text == (
            "# Brief\n\n## Specification\n\nIt is a robot.\n\nIt is quick.\n\n- It lifts.\n| Payload | 950 kg |\n"
        )

    def test_typed_line_by_line_keeps_its_lines_together(self):
        body = paragraph("It is a robot that") + paragraph("lifts.") + "<w:p/>" + paragraph("It is quick.")

        assert docx.text_of(document(body)) == "It is a robot that\nlifts.\n\nIt is quick.\n"

    def test_is_read_without_what_was_deleted_or_hidden(self):
        hidden = "<w:rPr><w:vanish/></w:rPr>"
        body = (
            paragraph("Kept.")
            + paragraph("Hidden.", extra=hidden)
            + f"<w:p><w:del>{paragraph('Gone.')}</w:del><w:r><w:t>Too.</w:t></w:r></w:p>"
        )

        assert docx.text_of(document(body)).split() == ["Kept.", "Too."]

    def test_in_a_folder_is_a_document_like_any_other(self, tmp_path):
        (tmp_path / "brief.docx").write_bytes(
            document(paragraph("Brief", "Heading1") + paragraph("It lifts."))
        )

        read = reading.read(tmp_path / "brief.docx", root=tmp_path)

        assert (read.title, read.media_type) == ("Brief", reading.DOCX)
        assert "Word" in read.note


BILLION = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


class TestAHostileDocument:
    @pytest.mark.parametrize(
        ("raw", "told"),
        [
            (document(paragraph("&b;"), prolog=BILLION), "document type"),
            (document("", prolog='<!DOCTYPE x SYSTEM "file:///etc/passwd">'), "document type"),
            (document("<w:p>" * 300 + "</w:p>" * 300), "nested"),
            (document("<w:p>")[:-1], "damaged"),
            (archive({docx.PART: b"<not xml"}), "damaged"),
            (archive({docx.PART: b"<w/>", **{f"p{n}": b"" for n in range(docx.MOST_PARTS)}}), "parts"),
        ],
        ids=["entities", "external", "deep", "cut", "no xml", "parts"],
    )
    def test_is_refused_with_a_reason(self, raw, told):
        with pytest.raises(docx.NotADocument, match=told):
            docx.text_of(raw)

    def test_that_unpacks_to_more_than_is_read_is_refused_before_it_is_unpacked(self, monkeypatch):
        monkeypatch.setattr(docx, "LIMIT_BYTES", 1024 * 1024)
        bomb = document(paragraph(" " * 20 * 1024 * 1024))

        assert len(bomb) < 100_000
        with pytest.raises(docx.NotADocument, match="more than 1 MiB"):
            docx.text_of(bomb)

    def test_that_is_no_zip_or_another_archive_is_no_word_document(self):
        assert not docx.is_docx(b"PK\x03\x04 rest of an archive")
        assert not docx.is_docx(archive({"word/other.xml": b""}))
        assert docx.is_docx(document(""))

    @pytest.mark.parametrize("at", range(0, 200, 7))
    def test_that_is_damaged_anywhere_raises_nothing_else(self, at):
        raw = bytearray(document(paragraph("A few words.") * 5))
        raw[at % len(raw)] ^= 0xFF

        with contextlib.suppress(docx.NotADocument):
            docx.text_of(bytes(raw))
