import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from workers.toolhost.documents import server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "library"
    made.mkdir()
    (made / "whales.md").write_text("# Whales\n\nBlue whales eat krill. They live in every ocean.\n")
    (made / "empty.txt").touch()
    return made


@pytest.fixture
def built(folder, tmp_path):
    return server.build([folder], tmp_path / "cache")


def _call(target, tool, **arguments):
    async def call():
        async with Client(target) as client:
            return await client.call_tool(tool, arguments)

    return anyio.run(call)


def _told(result):
    assert result.is_error
    return " ".join(part.text for part in result.content)


class TestTheTools:
    def test_are_three_and_say_that_they_only_read(self, built):
        async def listed():
            async with Client(built) as client:
                return (await client.list_tools()).tools

        tools = anyio.run(listed)
        assert [tool.name for tool in tools] == ["documents_index", "documents_search", "documents_fetch"]
        assert all(
            tool.annotations.read_only_hint and tool.output_schema and tool.description for tool in tools
        )

    def test_index_says_what_is_there_and_what_was_skipped(self, built, folder):
        result = _call(built, "documents_index", folder=str(folder)).structured_content
        assert (result["documents"], result["passages"]) == (1, 1)
        assert result["skipped"] == [{"locator": "empty.txt", "reason": "The file is empty."}]
        assert len(result["fingerprint"]) == 64

    def test_search_gives_places_that_hold_in_what_fetch_gives(self, built, folder):
        found = _call(
            built, "documents_search", folder=str(folder), query="What do whales eat?"
        ).structured_content
        (passage,) = found["passages"]
        fetched = _call(built, "documents_fetch", folder=str(folder), locator="whales.md").structured_content
        assert set(passage) == {
            "locator", "title", "heading", "sha256", "text_sha256", "start", "end", "text", "score",
            "dated", "superseded",
        }  # fmt: skip
        assert set(fetched) == {"locator", "title", "media_type", "text", "sha256", "text_sha256", "note"}
        assert fetched["text"][passage["start"] : passage["end"]] == passage["text"]
        assert passage["sha256"] == fetched["sha256"] == fetched["text_sha256"]
        assert (passage["title"], passage["heading"]) == ("Whales", ["Whales"])

    def test_search_finds_nothing_without_an_error(self, built, folder):
        result = _call(built, "documents_search", folder=str(folder), query="什么是熵？")
        assert not result.is_error
        assert result.structured_content == {"passages": []}

    def test_search_refuses_a_limit_out_of_range(self, built, folder):
        for limit in (0, 51):
            assert "limit" in _told(
                _call(built, "documents_search", folder=str(folder), query="x", limit=limit)
            )

    def test_fetch_of_an_unknown_document_is_an_error_with_a_reason(self, built, folder):
        told = _told(_call(built, "documents_fetch", folder=str(folder), locator="sharks.md"))
        assert "The index has no document sharks.md." in told


class TestTheWalls:
    @pytest.mark.parametrize("elsewhere", ["/etc", "/", "..", "~", "", " ", "/nowhere/at/all", "\x00"])
    def test_a_folder_outside_of_the_roots_is_refused_with_a_reason(self, built, elsewhere):
        told = _told(_call(built, "documents_index", folder=elsewhere))
        assert "not within the folders" in told or "cannot be used as a path" in told

    def test_a_link_inside_a_root_opens_no_door(self, built, folder, tmp_path):
        (tmp_path / "private").mkdir()
        (folder / "door").symlink_to(tmp_path / "private")
        assert "not within" in _told(_call(built, "documents_index", folder=str(folder / "door")))

    def test_a_path_that_climbs_out_is_refused(self, built, folder):
        assert "not within" in _told(_call(built, "documents_index", folder=f"{folder}/../"))

    @pytest.mark.parametrize(
        "locator", ["../secret.txt", "/etc/passwd", "a/../../b", "C:\\secret", "..\\secret"]
    )
    def test_a_locator_that_escapes_is_refused_with_a_reason(self, built, folder, locator):
        assert "leads out of the folder" in _told(
            _call(built, "documents_fetch", folder=str(folder), locator=locator)
        )

    def test_a_folder_below_a_root_is_open(self, built, folder):
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("Words in a folder below.")
        assert (
            _call(built, "documents_index", folder=str(folder / "sub")).structured_content["documents"] == 1
        )

    def test_a_missing_folder_a_file_and_an_empty_folder_each_say_so(self, built, folder):
        (folder / "bare").mkdir()
        assert "There is no folder" in _told(_call(built, "documents_index", folder=str(folder / "gone")))
        assert "is a file" in _told(_call(built, "documents_index", folder=str(folder / "whales.md")))
        assert "no document" in _told(
            _call(built, "documents_search", folder=str(folder / "bare"), query="x")
        )

    def test_roots_may_be_asked_for_on_every_call(self, folder, tmp_path):
        allowed = []
        built = server.build(lambda: allowed, tmp_path / "cache")
        assert _call(built, "documents_index", folder=str(folder)).is_error
        allowed.append(folder)
        assert not _call(built, "documents_index", folder=str(folder)).is_error


def test_the_same_server_answers_over_standard_input_and_output(folder, tmp_path):
    started = StdioServerParameters(
        command=sys.executable,
        args=["-m", "workers.toolhost.documents.server", str(tmp_path / "cache"), str(folder)],
        cwd=ROOT,
    )
    result = _call(started, "documents_search", folder=str(folder), query="krill")
    assert [passage["locator"] for passage in result.structured_content["passages"]] == ["whales.md"]


def test_the_program_says_what_it_needs(capsys):
    assert server.main([]) == 2
    assert "folders that may be read" in capsys.readouterr().err
