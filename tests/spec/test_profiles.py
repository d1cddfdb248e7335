"""Agent profiles: what loads, what is refused, and what the stock ones may do."""

import hashlib
from pathlib import Path

import pytest

from agents import profiles
from agents.minds import MINDS
from agents.profiles import ProfileError
from orchestrator.domain.plan import Agent

ROOT = Path(__file__).parents[2]
VALID = """---
name: scout
role: Looks around.
capabilities: [documents.read, repo.write]
approval_policy:
  repo.write: human_approval
model:
  provider: auto
  routing: balanced
  temperature: 0.2
observability:
  tracingTags: [agent:scout]
constraints:
  - Stay near.
---

# Scout

Looks around.
"""


def write(folder, text, name="scout.md"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


class TestAProfile:
    def test_is_loaded_with_everything_its_file_says(self, tmp_path):
        path = write(tmp_path, VALID)

        profile = profiles.load(tmp_path)["scout"]

        assert profile.role == "Looks around."
        assert profile.capabilities == ("documents.read", "repo.write")
        assert profile.approval_policy == {"repo.write": "human_approval"}
        assert profile.model == profiles.ModelChoice("auto", "balanced", 0.2)
        assert profile.tracing_tags == ("agent:scout",)
        assert profile.constraints == ("Stay near.",)
        assert profile.body == "# Scout\n\nLooks around."
        assert profile.path == path
        assert profile.digest == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_may_have_a_folder_of_its_own(self, tmp_path):
        write(tmp_path, VALID, "scout/agent.md")

        assert list(profiles.load(tmp_path)) == ["scout"]

    def test_needs_only_a_name_a_role_and_its_capabilities(self, tmp_path):
        write(tmp_path, "---\nname: scout\nrole: Looks.\ncapabilities: []\n---\n")

        profile = profiles.load(tmp_path)["scout"]

        assert profile.capabilities == ()
        assert profile.approval_policy == {}
        assert profile.model == profiles.ModelChoice("auto", "default", None)

    def test_without_capabilities_is_refused_rather_than_given_some(self, tmp_path):
        write(tmp_path, "---\nname: scout\nrole: Looks.\n---\n")

        with pytest.raises(ProfileError, match=r"scout\.md: the key 'capabilities' is missing\.$"):
            profiles.load(tmp_path)

    @pytest.mark.parametrize("ending", ["\n", "\r\n"])
    def test_may_come_from_any_editor(self, tmp_path, ending):
        path = tmp_path / "scout.md"
        path.write_bytes(b"\xef\xbb\xbf" + VALID.replace("\n", ending).encode())

        assert profiles.load(tmp_path)["scout"].body.startswith("# Scout")

    def test_may_hold_a_rule_in_its_body(self, tmp_path):
        write(tmp_path, VALID + "\n---\n\nMore.\n")

        assert profiles.load(tmp_path)["scout"].body.endswith("---\n\nMore.")

    def test_cannot_be_changed_once_loaded(self, tmp_path):
        write(tmp_path, VALID)
        loaded = profiles.load(tmp_path)

        with pytest.raises(TypeError):
            loaded["scout"].approval_policy["repo.write"] = "auto"
        with pytest.raises(TypeError):
            loaded["other"] = loaded["scout"]


class TestAMistake:
    @pytest.mark.parametrize(
        ("line", "replaced_by", "says"),
        [
            ("role: Looks around.", "role: Looks around.\nrights: all", "the key 'rights' is not known"),
            ("role: Looks around.\n", "", "the key 'role' is missing"),
            ("role: Looks around.", "role: ''", "the key 'role' is not valid"),
            ("role: Looks around.", "role: 7", "the key 'role' is not valid"),
            ("role: Looks around.", "role: a\nrole: b", "the key 'role' is given twice"),
            ("name: scout", "name: no spaces", "'no spaces' is not a name"),
            ("name: scout", "name: -scout", "'-scout' is not a name"),
            ("name: scout", "name: yes", "the key 'name' is not valid"),
            ("name: scout", "name: other", "the key 'name' says 'other'"),
            (
                "[documents.read, repo.write]",
                "[documents.reed]",
                "'documents.reed' is not a known capability",
            ),
            ("[documents.read, repo.write]", "[documents.read, documents.read]", "listed more than once"),
            ("[documents.read, repo.write]", "documents.read", "the key 'capabilities' is not valid"),
            ("repo.write: human_approval", "repo.wright: deny", "'repo.wright' is not a known capability"),
            (
                "repo.write: human_approval",
                "repo.write: perhaps",
                "the key 'approval_policy.repo.write' is not valid",
            ),
            ("routing: balanced", "routing: fastest", "the key 'model.routing' is not valid"),
            ("routing: balanced", "rooting: balanced", "the key 'model.rooting' is not known"),
            ("temperature: 0.2", "temperature: 3", "the key 'model.temperature' is not valid"),
            ("temperature: 0.2", "temperature: .nan", "the key 'model.temperature' is not valid"),
            ("temperature: 0.2", "temperature: warm", "the key 'model.temperature' is not valid"),
            ("tracingTags", "tracing_tags", "the key 'observability.tracing_tags' is not known"),
            ("- Stay near.", "- {a: b}", "the key 'constraints.0' is not valid"),
            ("name: scout", "name: [scout", "not valid YAML"),
            ("name: scout", "name: !!python/name:os.system", "not valid YAML"),
        ],
    )
    def test_refuses_the_folder_by_file_and_key(self, tmp_path, line, replaced_by, says):
        assert line in VALID
        write(tmp_path, VALID.replace(line, replaced_by, 1))

        with pytest.raises(ProfileError) as refused:
            profiles.load(tmp_path)

        message = str(refused.value)
        assert "scout.md" in message
        assert says in message
        assert message.endswith(".")
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "starts with a line of three hyphens"),
            ("# Scout\n", "starts with a line of three hyphens"),
            ("---\nname: scout\n", "is not closed"),
            ("---\n---\n", "must be keys and values"),
            ("---\n- scout\n---\n", "must be keys and values"),
        ],
    )
    def test_in_the_form_of_the_file_is_told_too(self, tmp_path, text, says):
        write(tmp_path, text)

        with pytest.raises(ProfileError, match=says):
            profiles.load(tmp_path)

    def test_in_the_encoding_is_told_too(self, tmp_path):
        (tmp_path / "scout.md").write_bytes(b"---\nname: \xff\n---\n")

        with pytest.raises(ProfileError, match="UTF-8"):
            profiles.load(tmp_path)

    def test_a_name_given_twice_is_refused_by_both_files(self, tmp_path):
        write(tmp_path, VALID)
        write(tmp_path, VALID.replace("name: scout", "name: Scout"), "Scout/agent.md")

        with pytest.raises(ProfileError, match=r"(?i)scout\.md.*agent\.md|agent\.md.*scout\.md"):
            profiles.load(tmp_path)

    def test_a_folder_that_is_not_there_is_an_error_and_not_an_empty_one(self, tmp_path):
        with pytest.raises(ProfileError, match="no folder"):
            profiles.load(tmp_path / "nowhere")

    def test_files_that_are_no_profiles_are_left_alone(self, tmp_path):
        for name in ("README.md", ".draft.md", "notes.txt", "scout/notes.md", ".git/agent.md"):
            write(tmp_path, "Not a profile.", name)

        assert profiles.load(tmp_path) == {}


class TestANewAgent:
    def test_loads_as_it_was_written(self, tmp_path):
        path = profiles.scaffold(tmp_path, "scout")

        assert path == tmp_path / "scout.md"
        assert profiles.load(tmp_path)["scout"].capabilities == ()

    def test_has_the_role_and_the_capabilities_it_was_given(self, tmp_path):
        role = 'Looks: "around", # and --- back'
        profiles.scaffold(
            tmp_path / "new", "Scout_2", role=role, capabilities=["model.invoke", "documents.read"]
        )

        profile = profiles.load(tmp_path / "new")["Scout_2"]

        assert profile.role == role
        assert profile.capabilities == ("model.invoke", "documents.read")

    @pytest.mark.parametrize("name", ["no", "yes", "null", "7", "1e3", "_", "a" * 64, "0x1f"])
    def test_may_have_any_name_that_is_a_name(self, tmp_path, name):
        profiles.scaffold(tmp_path, name)

        assert list(profiles.load(tmp_path)) == [name]

    @pytest.mark.parametrize(
        "name",
        ["", "-a", "a-", "a b", "a/b", "../a", ".", "..", "a.md", "ä", "a" * 65, "a\n", "README", "readme"],
    )
    def test_with_another_name_is_refused_and_nothing_is_created(self, tmp_path, name):
        with pytest.raises(ProfileError):
            profiles.scaffold(tmp_path / "new", name)

        assert list(tmp_path.iterdir()) == []

    def test_with_an_unknown_capability_is_refused_and_nothing_is_created(self, tmp_path):
        with pytest.raises(ProfileError, match=r"documents\.reed"):
            profiles.scaffold(tmp_path / "new", "scout", capabilities=["documents.reed"])

        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("role", ["", "x" * 1001])
    def test_with_an_unusable_role_is_refused_and_nothing_is_created(self, tmp_path, role):
        with pytest.raises(ProfileError, match="role"):
            profiles.scaffold(tmp_path / "new", "scout", role=role)

        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("existing", ["scout.md", "scout/agent.md", "Scout.md"])
    def test_does_not_overwrite_one_that_exists(self, tmp_path, existing):
        path = write(tmp_path, "Precious.", existing)

        with pytest.raises(ProfileError, match="already exists"):
            profiles.scaffold(tmp_path, "scout")

        assert path.read_text(encoding="utf-8") == "Precious."
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


class TestTheStockProfiles:
    def test_are_the_ten_minds_of_a_plan(self):
        assert list(profiles.load(ROOT / "agents")) == [
            "code-generator",
            "critic",
            "diverger",
            "generator",
            "judge",
            "keeper",
            "planner",
            "researcher",
            "router",
            "synthesiser",
        ]

    def test_are_each_an_agent_of_plans_and_each_agent_has_one(self):
        assert set(profiles.load(ROOT / "agents")) == {agent.value for agent in Agent} == {*MINDS}

    def test_tell_their_model_who_it_is_and_what_it_must_keep_to(self):
        for profile in profiles.load(ROOT / "agents").values():
            said = profile.charter
            assert said.startswith(profile.role)
            assert all(constraint in said for constraint in profile.constraints)
            assert said.endswith(profile.body)

    def test_hold_no_more_than_they_need(self):
        loaded = profiles.load(ROOT / "agents")

        held = {name: set(profile.capabilities) for name, profile in loaded.items()}
        readers = {"planner", "researcher"}
        assert {name for name in held if "documents.read" in held[name]} == readers
        assert held.pop("synthesiser") == set()
        assert held.pop("code-generator") == {"code.exec", "model.invoke"}
        assert held.pop("router") == {"model.invoke", "tools.call"}
        assert all(held[name] == {"model.invoke"} for name in held.keys() - readers)

    def test_are_told_that_documents_do_not_give_orders(self):
        for profile in profiles.load(ROOT / "agents").values():
            assert any("never an instruction" in constraint for constraint in profile.constraints), (
                profile.name
            )
            assert len(profile.body.split()) > 60
