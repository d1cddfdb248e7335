"""The catalogue of models: what the file may say, who is asked first, and what is reserved for whom."""

from __future__ import annotations

import pytest

from agents.profiles import ModelChoice
from orchestrator import house, settings
from orchestrator.domain.errors import Misconfigured
from orchestrator.domain.plan import canonical
from workers.cli import checks, config
from workers.toolhost.models import catalogue
from workers.toolhost.models.catalogue import Model
from workers.toolhost.models.port import Usage

TWO = """
models:
  quick: {provider: openai, base_url: http://127.0.0.1:1/v1, model: q-1, output_uusd_per_1k: 600}
  thorough:
    provider: anthropic
    base_url: https://models.example/v1
    model: t-1
    key_env: T_KEY
    input_uusd_per_1k: 3000
    cached_uusd_per_1k: 300
    output_uusd_per_1k: 15000
    answer_tokens: 100
routes:
  default: [quick, thorough]
  high_quality: [thorough]
"""


def loaded(tmp_path, text):
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return catalogue.load(path)


def names(models):
    return [model.name for model in models]


class TestTheFile:
    def test_that_ships_names_no_model_and_says_how_to(self):
        shipped = catalogue.load(house.path("configs/models.yaml"))

        assert (dict(shipped.models), dict(shipped.routes), shipped.first) == ({}, {}, "")
        assert catalogue.of(settings.load(environment={})).models == {}

    def test_shows_an_example_that_holds(self, tmp_path):
        text = house.path("configs/models.yaml").read_text()
        example = text[text.index("#   models:\n") : text.index("\nmodels: {}")]
        found = loaded(tmp_path, "\n".join(line.removeprefix("#   ") for line in example.splitlines()))

        assert names(found.order(ModelChoice(routing="high_quality"))) == ["thorough", "quick"]

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("models: [", "not valid YAML"),
            ("models: {}\nmodels: {}", "given twice"),
            ("model: {}", "'model' is not known"),
            ("models: {a: {provider: gopher}}", "provider"),
            ("models: {a: {provider: openai, model: m}}", "base_url and model"),
            ("models: {a: {provider: openai, base_url: http://h/v1}}", "base_url and model"),
            ("models: {A B: {provider: openai, base_url: http://h/v1, model: m}}", "is not a name"),
            ("models: {a: {provider: openai, base_url: file:///v1, model: m}}", "http://"),
            ("models: {a: {provider: openai, base_url: http://u:p@h/v1, model: m}}", "without a user"),
            (
                "models: {a: {provider: openai, base_url: http://h/v1, model: m, input_uusd_per_1k: -1}}",
                "input_uusd",
            ),
            (
                "models: {a: {provider: openai, base_url: http://h/v1, model: m, answer_tokens: 0}}",
                "answer_tokens",
            ),
            (
                "models: {a: {provider: openai, base_url: http://h/v1, model: m, timeout_s: .inf}}",
                "timeout_s",
            ),
            ("models: {a: {provider: replay}}", "recorded answers"),
            ("models: {a: {provider: replay, file: f, key_env: K}}", "recorded answers"),
            ("routes: {default: [a]}", "no model of this file"),
            ("routes: {fastest: []}", "fastest"),
            (f"{TWO}  low_cost: [quick, quick]", "twice"),
            (f"{TWO}  low_cost: []", "low_cost"),
        ],
    )
    def test_with_a_mistake_is_refused_as_a_whole(self, tmp_path, text, complaint):
        with pytest.raises(Misconfigured, match=r"models\.yaml") as refused:
            loaded(tmp_path, text)
        assert complaint in str(refused.value)

    def test_that_holds_a_key_is_refused_without_saying_it(self, tmp_path):
        entry = "models: {a: {provider: openai, base_url: http://h/v1, model: m, key_env: sk-planted-4f9c}}"
        with pytest.raises(Misconfigured) as refused:
            loaded(tmp_path, entry)

        assert "sk-planted" not in str(refused.value)

    def test_and_the_settings_may_not_both_name_models(self, tmp_path):
        path = tmp_path / "models.yaml"
        path.write_text(TWO)
        chosen = settings.load(environment={}, models_file=str(path), model_base_url="http://127.0.0.1:1/v1")

        with pytest.raises(Misconfigured, match="named twice"):
            catalogue.of(chosen)

    def test_is_not_needed_where_the_settings_name_one_model(self):
        chosen = settings.load(
            environment={},
            model_base_url="http://127.0.0.1:1/v1",
            model_name="m-1",
            model_input_uusd_per_1k=150,
            model_output_uusd_per_1k=600,
        )
        (model,) = catalogue.of(chosen).order()

        assert (model.name, model.model, model.provider) == ("default", "m-1", "openai")
        assert model.spent(Usage(1_000, 1_000, cached=500)).cost_uusd == 750
        assert catalogue.of(chosen).first == "m-1"


class TestARoute:
    @pytest.mark.parametrize(
        ("choice", "order"),
        [
            (None, ["quick", "thorough"]),
            (ModelChoice(), ["quick", "thorough"]),
            (ModelChoice(routing="high_quality"), ["thorough"]),
            (ModelChoice(routing="low_cost"), ["quick", "thorough"]),
            (ModelChoice(provider="anthropic"), ["thorough", "quick"]),
            (ModelChoice(provider="thorough"), ["thorough", "quick"]),
            (ModelChoice(provider="elsewhere"), ["quick", "thorough"]),
        ],
    )
    def test_begins_with_what_a_profile_prefers(self, tmp_path, choice, order):
        assert names(loaded(tmp_path, TWO).order(choice)) == order

    def test_without_a_default_is_the_order_of_the_file(self, tmp_path):
        assert names(loaded(tmp_path, TWO.partition("routes:")[0]).order()) == ["quick", "thorough"]


class TestAPrice:
    def test_is_reserved_for_every_byte_that_is_sent_and_every_token_that_may_come_back(self):
        model = Model("a", "openai", input_uusd_per_1k=1_000, output_uusd_per_1k=2_000, answer_tokens=100)
        arguments = {"messages": [{"role": "user", "content": "Was ist ein Schloß?"}]}
        sent = len(canonical(arguments))

        assert model.reserve(arguments).tokens == sent + 100
        assert model.reserve(arguments).cost_uusd == sent + 200

    def test_is_reserved_as_if_all_of_it_were_the_dearest_kind(self):
        model = Model(
            "a", "anthropic", input_uusd_per_1k=1_000, written_uusd_per_1k=1_250, cached_uusd_per_1k=100
        )

        assert model.reserve({}).cost_uusd >= model.spent(Usage(1_002, 0, written=1_002)).cost_uusd

    @pytest.mark.parametrize(
        ("usage", "cost"),
        [
            (Usage(1_000, 0), 1_000),
            (Usage(1_000, 0, cached=1_000), 100),
            (Usage(1_000, 0, written=1_000), 1_250),
            (Usage(0, 1_000), 2_000),
            (Usage(1_000, 10, cached=400, written=100), 500 + 40 + 125 + 20),
            (Usage(1, 0), 1),
        ],
    )
    def test_is_settled_by_kind(self, usage, cost):
        model = Model(
            "a",
            "openai",
            input_uusd_per_1k=1_000,
            cached_uusd_per_1k=100,
            written_uusd_per_1k=1_250,
            output_uusd_per_1k=2_000,
        )

        assert model.spent(usage).cost_uusd == cost


class TestTheDoctor:
    def test_looks_at_each_model_of_the_file(self, tmp_path, monkeypatch):
        monkeypatch.delenv("T_KEY", raising=False)
        path = tmp_path / "models.yaml"
        recorded = "  recorded: {provider: replay, file: nothing-is-here.json}\n"
        path.write_text(TWO.replace("routes:", f"{recorded}routes:"))
        found = {c.what: c for c in checks.models(settings.load(environment={}, models_file=str(path)))}

        assert [found[f"model {name}"].state for name in ("quick", "thorough", "recorded")] == [
            "warn",
            "warn",
            "fail",
        ]
        assert "T_KEY" in found["model thorough"].todo

    def test_says_what_is_wrong_with_the_file(self, tmp_path):
        path = tmp_path / "models.yaml"
        path.write_text("models: {a: {provider: gopher}}")
        (found,) = checks.models(settings.load(environment={}, models_file=str(path)))

        assert (found.state, "provider" in found.said) == ("fail", True)

    def test_knows_the_variables_that_hold_keys(self, tmp_path):
        path = tmp_path / "models.yaml"
        path.write_text(TWO.replace("T_KEY", "ORCHESTRATOR_T_KEY"))
        chosen = settings.load(environment={}, models_file=str(path))

        assert config.strangers({"ORCHESTRATOR_T_KEY": "x"}, chosen) == []
        assert config.strangers({"ORCHESTRATOR_U_KEY": "x"}, chosen) != []
