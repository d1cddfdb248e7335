"""The tool registry: what loads, what is refused, and that the stock one fits the stock profiles and the policy."""

from pathlib import Path

import pytest
import yaml

from agents import profiles
from workers.gate.policy import EmbeddedEnforcer, Question
from workers.toolhost import registry
from workers.toolhost.registry import RegistryError

ROOT = Path(__file__).parents[2]
STOCK = ROOT / "configs" / "tool_registry.yaml"
VALID = """
items:
  look:
    keywords: [look, see]
    server: eyes
    fallbacks: [listen]
    capability: documents.read
    semantics: idempotent
    timeout_s: 2.5
  listen:
    server: ears
    capability: network.egress
    semantics: at_most_once
    timeout_s: 30
    cost_uusd: 1500
    exclusive: true
    yields: [untrusted, sensitive]
    max_calls: 3
    schema_sha256: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
servers:
  eyes: {builtin: documents}
  ears:
    command: [listener, --quietly]
    env: [PATH, LISTENER_HOME]
"""


def load(tmp_path, text):
    path = tmp_path / "tools.yaml"
    path.write_text(text, encoding="utf-8")
    return registry.load(path)


class TestARegistry:
    def test_is_loaded_with_everything_its_file_says(self, tmp_path):
        loaded = load(tmp_path, VALID)

        assert loaded.tools == {
            "look": registry.ToolSpec(
                name="look",
                server="eyes",
                capability="documents.read",
                semantics="idempotent",
                timeout_s=2.5,
                cost_uusd=0,
                keywords=("look", "see"),
                fallbacks=("listen",),
            ),
            "listen": registry.ToolSpec(
                name="listen",
                server="ears",
                capability="network.egress",
                semantics="at_most_once",
                timeout_s=30,
                cost_uusd=1500,
                keywords=(),
                fallbacks=(),
                exclusive=True,
                yields=("untrusted", "sensitive"),
                max_calls=3,
                schema_sha256="0123456789abcdef" * 4,
            ),
        }
        assert loaded.servers == {
            "eyes": registry.ServerSpec("eyes", "documents", (), ()),
            "ears": registry.ServerSpec("ears", None, ("listener", "--quietly"), ("PATH", "LISTENER_HOME")),
        }

    def test_may_weigh_keywords_and_say_what_a_tool_is_for(self, tmp_path):
        weighed = VALID.replace(
            "[look, see]",
            "[look, {word: OHLCV, weight: 3}]\n    weight: 0.5\n    description: Looks.\n    planned: false",
        )

        look = load(tmp_path, weighed).tools["look"]

        assert look.keywords == ("look", "OHLCV")
        assert look.weights == {"OHLCV": 3}
        assert (look.weight, look.description, look.planned) == (0.5, "Looks.", False)

    def test_knows_the_tools_of_a_server(self, tmp_path):
        loaded = load(tmp_path, VALID)

        assert [tool.name for tool in loaded.of("ears")] == ["listen"]
        assert loaded.of("nobody") == ()

    def test_without_some_tools_remembers_why(self, tmp_path):
        loaded = load(tmp_path, VALID).without({"listen": "It is too loud.", "nobody": "There is none."})

        assert list(loaded.tools) == ["look"]
        assert loaded.withheld == {"listen": "It is too loud."}
        assert loaded.without({"look": "It is dark."}).withheld == {
            "listen": "It is too loud.",
            "look": "It is dark.",
        }

    def test_cannot_be_changed_once_loaded(self, tmp_path):
        loaded = load(tmp_path, VALID)

        with pytest.raises(TypeError):
            loaded.tools["look"] = loaded.tools["listen"]


class TestAMistake:
    @pytest.mark.parametrize(
        ("part", "replaced_by", "says"),
        [
            ("keywords:", "keyword:", "the key 'items.look.keyword' is not known"),
            ("[look, see]", "[look, LOOK]", "the keyword 'look' is listed more than once"),
            ("[look, see]", "[{word: look, weight: 0}]", "the key 'items.look.keywords.0"),
            ("[look, see]", "[{word: look, wait: 1}]", "wait' is not known"),
            ("[look, see]", "[look]\n    weight: -1", "the key 'items.look.weight' is not valid"),
            ("\nservers:", "\nversion: 1\nservers:", "the key 'version' is not known"),
            ("server: eyes", "server: nose", "the server 'nose', which is not in servers"),
            ("[listen]", "[smell]", "the fallback 'smell', which is not in items"),
            ("[listen]", "[look]", "names itself as a fallback"),
            (
                "capability: documents.read",
                "capability: documents.reed",
                "'documents.reed' is not a known capability",
            ),
            ("    capability: documents.read\n", "", "the key 'items.look.capability' is missing"),
            ("    semantics: idempotent\n", "", "the key 'items.look.semantics' is missing"),
            ("max_calls: 3", "max_calls: -1", "the key 'items.listen.max_calls' is not valid"),
            ("[untrusted, sensitive]", "[harmless]", "the key 'items.listen.yields.0' is not valid"),
            ('cdef0123456789abcdef"', '"', "is not a SHA-256 in 64 hexadecimal digits"),
            ("semantics: idempotent", "semantics: twice", "the key 'items.look.semantics' is not valid"),
            ("timeout_s: 2.5", "timeout_s: 0", "the key 'items.look.timeout_s' is not valid"),
            ("timeout_s: 2.5", "timeout_s: .inf", "the key 'items.look.timeout_s' is not valid"),
            ("timeout_s: 2.5", "timeout_s: '2.5'", "the key 'items.look.timeout_s' is not valid"),
            ("timeout_s: 2.5", "timeout_s: true", "the key 'items.look.timeout_s' is not valid"),
            ("cost_uusd: 1500", "cost_uusd: 0.0015", "the key 'items.listen.cost_uusd' is not valid"),
            ("cost_uusd: 1500", "cost_uusd: -1", "the key 'items.listen.cost_uusd' is not valid"),
            ("cost_uusd: 1500", "cost_uusd: false", "the key 'items.listen.cost_uusd' is not valid"),
            ("{builtin: documents}", "{builtin: anything}", "the key 'servers.eyes.builtin' is not valid"),
            ("{builtin: documents}", "{}", "the key 'servers.eyes' is not valid: a server is either"),
            ("{builtin: documents}", "{builtin: documents, command: [x]}", "a server is either"),
            ("{builtin: documents}", "{builtin: documents, env: [PATH]}", "only a command has an env"),
            ("[listener, --quietly]", "[]", "the key 'servers.ears.command' is not valid"),
            ("[listener, --quietly]", "listener --quietly", "the key 'servers.ears.command' is not valid"),
            (
                "[PATH, LISTENER_HOME]",
                "['PATH=/bin']",
                "'PATH=/bin' is not the name of an environment variable",
            ),
            ("[PATH, LISTENER_HOME]", "['*']", "'*' is not the name of an environment variable"),
            ("  look:\n", "  look at:\n", "'look at' is not a name"),
            ("  listen:\n", "  look:\n", "the key 'look' is given twice"),
            ("items:\n", "items: [\n", "not valid YAML"),
        ],
    )
    def test_refuses_the_file_by_name_and_key(self, tmp_path, part, replaced_by, says):
        assert part in VALID

        with pytest.raises(RegistryError) as refused:
            load(tmp_path, VALID.replace(part, replaced_by, 1))

        message = str(refused.value)
        assert "tools.yaml" in message
        assert says in message
        assert message.endswith(".")
        assert "\n" not in message

    @pytest.mark.parametrize("text", ["", "[]", "look", "items: {}\nservers: {}", "items:\nservers:\n"])
    def test_a_file_without_tools_is_refused(self, tmp_path, text):
        with pytest.raises(RegistryError, match=r"not valid: .*\.$"):
            load(tmp_path, text)

    def test_a_file_that_cannot_be_read_is_refused(self, tmp_path):
        with pytest.raises(RegistryError, match="cannot be read"):
            registry.load(tmp_path / "nowhere.yaml")
        (tmp_path / "odd.yaml").write_bytes(b"items: \xff")
        with pytest.raises(RegistryError, match="UTF-8"):
            registry.load(tmp_path / "odd.yaml")


class TestTheStockRegistry:
    def test_offers_what_comes_with_the_product(self):
        loaded = registry.load(STOCK)

        offered = {
            tool.name: (tool.server, tool.capability, tool.semantics, tool.timeout_s)
            for tool in loaded.tools.values()
        }
        assert offered == {
            "documents_index": ("documents", "documents.read", "idempotent", 300),
            "documents_search": ("documents", "documents.read", "idempotent", 30),
            "documents_fetch": ("documents", "documents.read", "idempotent", 30),
            "model_complete": ("model", "model.invoke", "keyed", 120),
            "memory_search": ("memory", "documents.read", "idempotent", 15),
            "fetch_url": ("web", "network.egress", "idempotent", 30),
            "web_search": ("search", "network.egress", "idempotent", 30),
            "calculate": ("numbers", "tools.call", "idempotent", 10),
            "convert_units": ("numbers", "tools.call", "idempotent", 10),
            "statistics_describe": ("numbers", "tools.call", "idempotent", 10),
            "time_now": ("clock", "tools.call", "idempotent", 10),
            "time_convert": ("clock", "tools.call", "idempotent", 10),
            "sql_schema": ("sql", "data.access", "idempotent", 20),
            "sql_query": ("sql", "data.access", "idempotent", 20),
            "code_run": ("code", "code.exec", "idempotent", 60),
            "code_libraries": ("code", "code.exec", "idempotent", 60),
        }
        assert all(tool.cost_uusd == 0 for tool in loaded.tools.values())

    def test_keeps_the_three_keys_that_every_registry_of_this_kind_has(self):
        items = yaml.safe_load(STOCK.read_text(encoding="utf-8"))["items"]

        assert all({"keywords", "server", "fallbacks"} <= set(item) for item in items.values())

    def test_every_tool_can_be_called_by_the_profiles_that_need_it_and_by_no_other(self):
        enforcer = EmbeddedEnforcer(ROOT / "policies")
        loaded = profiles.load(ROOT / "agents")

        allowed = {
            (profile.name, tool.name)
            for profile in loaded.values()
            for tool in registry.load(STOCK).tools.values()
            if enforcer.judge(asked(profile, tool)).allow
        }

        documents = {"documents_index", "documents_search", "documents_fetch", "memory_search"}
        harmless = {"calculate", "convert_units", "statistics_describe", "time_now", "time_convert"}
        minds = loaded.keys() - {"synthesiser"}
        assert allowed == {
            *((name, "model_complete") for name in minds),
            *((name, tool) for name in ("planner", "researcher") for tool in documents),
            *((name, tool) for name in ("researcher", "router") for tool in harmless),
            *(("code-generator", tool) for tool in ("code_run", "code_libraries")),
        }


def asked(profile, tool):
    return Question(
        agent=profile.name,
        tool=tool.name,
        server=tool.server,
        held=profile.capabilities,
        required=(tool.capability,),
        approval_policy=profile.approval_policy,
        run_mode="consumer",
        tenant_id="acme",
        plan_id="plan-1",
        step=1,
        attempt=1,
        depth=2,
        args_digest="sha256:" + "0" * 64,
        trace_id="0" * 32,
        profile_known=True,
    )


class TestTheSecretsOfAServer:
    WITH = VALID.replace(
        "env: [PATH, LISTENER_HOME]", "env: [PATH]\n    secrets: {LISTENER_KEY: listener.key-1}"
    )

    def test_are_names_by_variable(self, tmp_path):
        assert load(tmp_path, self.WITH).servers["ears"].secrets == {"LISTENER_KEY": "listener.key-1"}
        assert load(tmp_path, VALID).servers["ears"].secrets == {}

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            (WITH.replace("LISTENER_KEY", "LISTENER-KEY"), "not the name of an environment variable"),
            (WITH.replace("listener.key-1", "../key"), "not the name of a secret"),
            (WITH.replace("LISTENER_KEY", "PATH"), "PATH stands in env and in secrets"),
            (
                WITH.replace("builtin: documents", "builtin: documents, secrets: {A: b}"),
                "only a command has secrets",
            ),
        ],
    )
    def test_that_cannot_be_given_are_refused(self, tmp_path, wrong, told):
        with pytest.raises(RegistryError, match=told):
            load(tmp_path, wrong)
