"""The documents say what the code does: pages are current, links lead somewhere, and commands that are shown exist."""

import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import typer
import yaml

from orchestrator.domain import errors
from orchestrator.settings import PREFIX, Settings
from orchestrator.telemetry import EVENTS
from scripts import reference
from workers import cli
from workers.cli import exits

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
ADRS = sorted((DOCS / "adr").glob("*.md"))
WRITTEN = sorted(
    path
    for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "policies").glob("*.md"))
    if REFERENCE not in path.parents
)
"""The pages that people write; those of the reference are written from the code."""

README = (ROOT / "README.md").read_text(encoding="utf-8")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def text_of(name):
    return (REFERENCE / name).read_text(encoding="utf-8")


def blocks(text):
    """The fenced blocks of a page: their language and their text."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def verbs():
    """Every verb of the command line by its words, with the options it takes."""
    program = typer.main.get_command(cli.app)
    return {
        path: {name for parameter in verb.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for path, verb in reference._verbs(program, ())
    }


VERBS = verbs()


def commands():
    """Every command of this program that a page shows: the page and its words."""
    for path in WRITTEN:
        for language, text in blocks(path.read_text(encoding="utf-8")):
            if language != "sh":
                continue
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "orchestrator" in words:
                    yield name_of(path), words[words.index("orchestrator") + 1 :]


class TestTheReference:
    def test_is_what_the_code_says(self):
        assert reference.stale() == []

    def test_does_not_depend_on_the_terminal_or_the_user(self, monkeypatch):
        before = reference.pages()
        for name, value in (
            ("COLUMNS", "40"),
            ("TERM", "dumb"),
            ("NO_COLOR", "1"),
            ("HOME", "/nowhere"),
            ("LANG", "C"),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(f"{PREFIX}DATA_DIR", "/nowhere")
        assert reference.pages() == before

    def test_that_is_stale_is_told_with_what_differs(self, tmp_path):
        for name, text in reference.pages().items():
            (tmp_path / name).write_text(text.replace("`lease_s`", "`leash_s`"), encoding="utf-8")
        (tmp_path / "queries.md").unlink()
        (tmp_path / "old.md").write_text("", encoding="utf-8")
        old, queries, settings = reference.stale(tmp_path)
        assert old == "docs/reference/old.md: no code stands behind it"
        assert queries == "docs/reference/queries.md: missing"
        assert "lines gone: 1, new: 1" in settings
        assert "leash_s" in settings

    @pytest.mark.parametrize("name", Settings.model_fields)
    def test_lists_every_setting(self, name):
        assert f"| `{name}` | `{PREFIX}{name.upper()}` |" in text_of("settings.md")

    @pytest.mark.parametrize("event", EVENTS)
    def test_lists_every_log_event(self, event):
        assert f"| `{event}` |" in text_of("log-events.md")

    def test_lists_every_error_code(self):
        codes = {kind.code for _, kind in reference._tree(errors.OrchestratorError)}
        assert codes == set(re.findall(r"^\| [· ]*`\w+` \| `(\w+)` \|", text_of("errors.md"), re.MULTILINE))

    @pytest.mark.parametrize("verb", VERBS, ids=" ".join)
    def test_lists_every_verb_with_every_option(self, verb):
        section = text_of("cli.md").split(f"\n## orchestrator {' '.join(verb)}\n", 1)[1].split("\n## ", 1)[0]
        missing = [o for o in VERBS[verb] if o.startswith("--") and o != "--help" and f"`{o}" not in section]
        assert missing == []


def test_the_tree_of_errors_is_drawn_as_it_is():
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__))
    assert drawn == {kind.__name__ for _, kind in reference._tree(errors.OrchestratorError)} - {
        "OrchestratorError"
    }


def test_every_setting_of_the_file_is_explained_above_it():
    text = (ROOT / "configs" / "settings.yaml").read_text(encoding="utf-8")
    assert set(yaml.safe_load(text)) == set(Settings.model_fields)
    assert [s.name for s in reference._settings_in_file() if not s.said] == []


class TestTheReadme:
    def test_begins_with_the_two_commands_that_matter(self):
        language, text = blocks(README)[0]
        assert (language, text.split("\n")) == ("sh", ["make run", "make test", ""])
        assert README.index("```") < 40

    @pytest.mark.parametrize("target", ["run", "test"])
    def test_names_targets_that_exist(self, target):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

    def test_lists_every_promise_once(self):
        assert re.findall(r"^\| (P\d+) \|", README, re.MULTILINE) == [f"P{n}" for n in range(1, 11)]

    def test_lists_the_exit_codes(self):
        rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", README, re.MULTILINE))
        assert rows == {str(code): meaning for code, meaning in exits.MEANINGS.items()}

    def test_shows_the_picture(self):
        assert "](docs/architecture.svg)" in README


def test_what_a_change_must_pass_is_what_the_readme_names():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make test" in script
    assert "make check" in script


def test_every_target_that_a_page_names_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set()
    for path in WRITTEN:
        text = path.read_text(encoding="utf-8")
        shown = "\n".join(block for language, block in blocks(text) if language == "sh")
        named |= set(re.findall(r"^(?:\w+=\S+ )*make ([a-z-]+)", shown, re.MULTILINE))
        named |= set(re.findall(r"`make ([a-z-]+)", text))
    assert named - targets == set()


class TestACommandThatIsShown:
    @pytest.mark.parametrize(
        ("page", "words"),
        list(commands()),
        ids=lambda value: " ".join(value) if isinstance(value, list) else value,
    )
    def test_exists_with_its_options(self, page, words):
        verb = next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in VERBS), None)
        assert verb is not None, f"{page} shows a verb that there is not: {' '.join(words)}"
        options = [word.split("=", 1)[0] for word in words[len(verb) :] if word.startswith("--")]
        assert [option for option in options if option not in VERBS[verb]] == []

    @pytest.mark.parametrize("verb", VERBS, ids=" ".join)
    def test_is_there_for_every_verb(self, verb):
        said = "\n".join(path.read_text(encoding="utf-8") for path in WRITTEN)
        assert re.search(rf"(?:orchestrator |`){' '.join(verb)}[ `\n]", said)

    def test_that_stands_in_a_sentence_exists_too(self):
        unknown = []
        for path in WRITTEN:
            for shown in re.findall(r"`orchestrator ([a-z][^`]*)`", path.read_text(encoding="utf-8")):
                words = shown.split()
                if not {tuple(words[:2]), tuple(words[:1])} & set(VERBS):
                    unknown.append((name_of(path), shown))
        assert unknown == []


class TestALink:
    @staticmethod
    def anchors(path):
        """The anchors of a page's headings, as they are made by the sites that show Markdown."""
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        found, made = Counter(), set()
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
            anchor = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
            made.add(f"{anchor}-{found[anchor]}" if found[anchor] else anchor)
            found[anchor] += 1
        return made

    @pytest.mark.parametrize("path", [*WRITTEN, *sorted(REFERENCE.glob("*.md"))], ids=name_of)
    def test_leads_somewhere(self, path):
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        broken = []
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?://", link):
                continue
            file, _, anchor = link.partition("#")
            to = (path.parent / file).resolve() if file else path
            if not to.exists() or (anchor and anchor not in self.anchors(to)):
                broken.append(link)
        assert broken == []


class TestADecision:
    PARTS = ("Status", "Context", "Decision", "Consequences", "What would change our mind")

    def test_has_the_next_number(self):
        assert [path.name[:4] for path in ADRS] == [f"{n:04d}" for n in range(1, len(ADRS) + 1)]
        assert len(ADRS) >= 15

    @pytest.mark.parametrize("path", ADRS, ids=lambda path: path.stem)
    def test_fits_on_a_screen_and_has_its_parts(self, path):
        text = path.read_text(encoding="utf-8")
        assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == self.PARTS
        assert len(text.splitlines()) <= 45
        assert text.startswith(f"# {int(path.name[:4])}. ")

    @pytest.mark.parametrize("path", ADRS, ids=lambda path: path.stem)
    def test_is_listed_under_its_title(self, path):
        title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert f"- [{title}](adr/{path.name})" in (DOCS / "README.md").read_text(encoding="utf-8")


def test_every_page_is_listed_in_the_index():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = [p.relative_to(DOCS).as_posix() for p in WRITTEN if DOCS in p.parents and p.name != "README.md"]
    assert [page for page in pages if f"]({page})" not in index] == []


def test_the_changelog_says_what_is_not_released_yet():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased = text.split("\n## [Unreleased]\n", 1)[1].split("\n## ", 1)[0]
    lines = re.findall(r"^- .*$", unreleased, re.MULTILINE)
    assert lines
    assert [line for line in lines if not line.endswith(".")] == []


def test_the_picture_is_sound_and_readable_in_the_dark():
    # parsed by a program of its own: the standard library's parsers warn about what they are given
    text = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert "<title" in text
    assert "<desc" in text
    opened = re.findall(r"<(\w+)(?:\s[^<>]*)?(?<!/)>", text)
    closed = re.findall(r"</(\w+)>", text)
    assert Counter(opened) == Counter(closed)


def test_the_generator_s_check_ends_with_the_code_that_make_looks_at():
    ran = subprocess.run(
        [reference.sys.executable, "scripts/reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (0, "")
