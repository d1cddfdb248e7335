"""What a guide shows as a file is taken by the program as it stands: nobody should have to guess what was meant."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from agents import profiles
from orchestrator import chains, prompts
from workers.toolhost import registry
from workers.toolhost.models import catalogue

ROOT = Path(__file__).parents[2]


def shown(guide):
    """The blocks of YAML that a guide shows."""
    text = (ROOT / "docs" / "how-to" / f"{guide}.md").read_text(encoding="utf-8")
    return re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def joined(tmp_path):
    """Make a file of the program's with what a guide shows put under one of its keys; its path."""

    def join(name, key, text):
        whole = yaml.safe_load((ROOT / "configs" / name).read_text(encoding="utf-8"))
        whole[key] = {**whole[key], **yaml.safe_load(text)}
        made = tmp_path / name
        made.write_text(yaml.safe_dump(whole), encoding="utf-8")
        return made

    return join


def test_a_chain_of_approvals_can_be_put_into_the_file(joined):
    (text,) = shown("approvals")
    found = chains.load(timedelta(days=1), joined("approvals.yaml", "categories", text))
    assert found["COMPLIANCE"].holds == timedelta(hours=24)


def test_a_domain_can_be_put_into_the_file(joined):
    (text,) = shown("domains")
    found = prompts.load(joined("prompts.yaml", "domains", yaml.safe_dump(yaml.safe_load(text)["domains"])))
    assert "beekeeping" in found.domains


@pytest.mark.parametrize(
    ("guide", "names"), [("language-model", {"quick", "thorough"}), ("replay", {"recorded"})]
)
def test_a_file_of_models_is_taken(tmp_path, guide, names):
    (text,) = shown(guide)
    file = tmp_path / "models.yaml"
    file.write_text(text, encoding="utf-8")
    assert set(catalogue.load(file).models) == names


def test_a_registry_with_a_server_of_one_s_own_is_taken(tmp_path):
    (text,) = shown("tool-server")
    file = tmp_path / "tool_registry.yaml"
    file.write_text(text, encoding="utf-8")
    assert registry.load(file).servers["library"].command == ("library-server", "--stdio")


def test_a_server_with_a_secret_can_be_put_into_the_registry(joined):
    (text,) = shown("secrets")
    file = joined("tool_registry.yaml", "servers", yaml.safe_dump(yaml.safe_load(text)["servers"]))
    assert registry.load(file).servers["library"].secrets == {"LIBRARY_TOKEN": "library-token"}


def test_a_profile_s_head_is_taken(tmp_path):
    (text,) = shown("agent-profile")
    file = tmp_path / "researcher.md"
    file.write_text(text + "\n# Researcher\n\nAnswers a question.\n", encoding="utf-8")
    assert profiles.read(file).approval_policy == {"documents.read": "human_approval"}
