"""What is deployed is what there is: `compose.yaml` and `Procfile` name real commands, settings and ports, and agree."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from orchestrator import settings
from orchestrator.settings import PREFIX, Settings
from scripts import reference
from tests.contract import opa_server
from workers import cli

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES = COMPOSE["services"]
SERVERS = {"postgres", "rabbitmq", "redis", "opa"}
"""Services that are not this program; the rest are its members."""
ONCE = {"prepare", "policies"}
"""Members that end before the others begin."""
MEMBERS = {name: service for name, service in SERVICES.items() if name not in SERVERS}
PROCFILE = dict(re.findall(r"^(\w+): (.*)$", (ROOT / "Procfile").read_text(encoding="utf-8"), re.MULTILINE))
LISTENS = {"postgres", "rabbitmq", "redis", "opa", "api", "flower"}
VERBS = {
    path: {name for parameter in verb.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for path, verb in reference._verbs(typer.main.get_command(cli.app), ())
}


def words_of(command):
    """The words of this program's command in a line of the Procfile; none for another program's."""
    words = shlex.split(command)
    return words[words.index("orchestrator") + 1 :] if "orchestrator" in words else []


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def fleet_script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("fleet_script", ROOT / "scripts/fleet.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    monkeypatch.delitem(sys.modules, "services", raising=False)
    return made


class TestAProcess:
    def test_is_in_the_procfile_if_it_is_in_compose_and_the_other_way_round(self):
        assert set(PROCFILE) == set(MEMBERS) - ONCE

    @pytest.mark.parametrize("name", sorted(set(PROCFILE) - {"flower"}))
    def test_is_the_same_command_in_both(self, name):
        assert words_of(PROCFILE[name]) == MEMBERS[name]["command"]

    @pytest.mark.parametrize("name", sorted(set(MEMBERS) - {"flower"}))
    def test_is_a_command_that_there_is_with_its_options(self, name):
        words = MEMBERS[name]["command"]
        verb = tuple(words[:2])
        assert verb in VERBS
        assert [w for w in words[2:] if w.startswith("--") and w.split("=")[0] not in VERBS[verb]] == []

    def test_runs_as_often_without_docker_as_with_it(self, monkeypatch):
        scale = dict(part.split("=") for part in fleet_script(monkeypatch).SCALE.split(","))
        assert {name: int(number) for name, number in scale.items()} == {
            name: MEMBERS[name]["deploy"].get("replicas", 1) for name in PROCFILE
        }

    def test_sweeps_somewhere(self):
        commands = [service["command"] for service in MEMBERS.values() if service.get("command")]
        assert ["worker", "sweeper"] in commands

    def test_flower_looks_through_the_app_that_is_there(self):
        assert "celery -A workers.flower_app flower" in PROCFILE["flower"]
        assert MEMBERS["flower"]["entrypoint"] == ["celery", "-A", "workers.flower_app", "flower"]


class TestAVariable:
    @pytest.mark.parametrize("name", sorted(MEMBERS))
    def test_of_a_member_is_a_setting(self, name):
        given = {key for key in MEMBERS[name]["environment"] if key.startswith(PREFIX)}
        assert given <= {PREFIX + key.upper() for key in Settings.model_fields}
        assert {"ORCHESTRATOR_DATABASE_URL", "ORCHESTRATOR_BROKER_URL"} <= given

    def test_of_the_image_is_a_setting(self):
        named = re.findall(r"(ORCHESTRATOR_\w+)=", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
        assert named
        assert set(named) <= {PREFIX + key.upper() for key in Settings.model_fields}

    def test_that_compose_asks_for_is_a_setting_or_told_at_its_top(self):
        asked = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
        told = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", COMPOSE_TEXT.split("\nname:", 1)[0]))
        assert asked <= told | {PREFIX + key.upper() for key in Settings.model_fields}


class TestAService:
    @pytest.mark.parametrize("name", sorted(SERVICES))
    def test_is_reached_from_this_machine_only(self, name):
        assert [p for p in SERVICES[name].get("ports", []) if not p.startswith("127.0.0.1:")] == []

    @pytest.mark.parametrize("name", sorted(SERVICES))
    def test_has_limits(self, name):
        assert set(SERVICES[name]["deploy"]["resources"]["limits"]) == {"cpus", "memory"}

    @pytest.mark.parametrize("name", sorted(LISTENS & set(SERVICES)))
    def test_that_listens_has_a_health_check(self, name):
        assert SERVICES[name]["healthcheck"]["test"]

    @pytest.mark.parametrize("name", sorted(name for name, s in SERVICES.items() if s.get("ports")))
    def test_that_publishes_a_port_is_known_to_listen(self, name):
        assert name in LISTENS

    @pytest.mark.parametrize("name", sorted(set(SERVICES) - ONCE))
    def test_comes_back_after_it_died(self, name):
        assert SERVICES[name]["restart"] == "unless-stopped"

    @pytest.mark.parametrize("name", sorted(MEMBERS))
    def test_of_ours_is_no_superuser_and_can_write_only_where_it_should(self, name):
        assert MEMBERS[name]["read_only"] is True
        assert MEMBERS[name]["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in MEMBERS[name]["security_opt"]
        users = re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
        assert users[-1:] == ["orchestrator"]

    @pytest.mark.parametrize("name", sorted(SERVICES))
    def test_keeps_what_it_keeps_in_a_volume_that_has_a_name(self, name):
        sources = [volume.split(":")[0] for volume in SERVICES[name].get("volumes", [])]
        named = [source for source in sources if source and not source.startswith((".", "/", "$"))]
        assert set(named) <= set(COMPOSE["volumes"])

    @pytest.mark.parametrize("name", sorted(MEMBERS))
    def test_of_ours_is_given_longer_to_end_than_it_gives_its_steps(self, name):
        grace_s = settings.load(environment={}).shutdown_grace_s
        assert seconds(MEMBERS[name]["stop_grace_period"]) >= grace_s + 5

    def test_waits_for_those_that_it_needs(self):
        for name, service in SERVICES.items():
            for other, how in service.get("depends_on", {}).items():
                assert other in SERVICES, name
                healthy = how["condition"] == "service_healthy"
                assert healthy == ("healthcheck" in SERVICES[other]), (name, other)

    def test_named_api_is_looked_at_where_it_listens(self):
        port = settings.load(environment={}).api_port
        assert f"http://127.0.0.1:{port}/readyz" in MEMBERS["api"]["healthcheck"]["test"][-1]


class TestThePolicyServer:
    def test_decides_by_the_bundle_that_this_image_packs(self):
        packed = MEMBERS["policies"]["command"][-1]
        volume = f"{packed.rsplit('/', 1)[0]}"

        assert packed in SERVICES["opa"]["command"]
        assert SERVICES["opa"]["volumes"] == [f"policies:{volume}:ro"]
        assert MEMBERS["policies"]["volumes"] == [f"policies:{volume}"]

    def test_is_of_the_version_that_the_tests_are_run_against(self):
        assert SERVICES["opa"]["image"] == f"openpolicyagent/opa:{opa_server.PIN}-static"

    @pytest.mark.parametrize("name", sorted(set(MEMBERS) - ONCE))
    def test_is_asked_by_every_process_that_runs_and_is_there_before_it(self, name):
        host = "127.0.0.1" if MEMBERS[name].get("network_mode") == "host" else "opa"

        assert MEMBERS[name]["environment"]["ORCHESTRATOR_OPA_URL"] == f"http://{host}:8181"
        assert MEMBERS[name]["depends_on"]["opa"] == {"condition": "service_healthy"}

    @pytest.mark.skipif(
        opa_server.program() is None, reason=f"no opa {opa_server.PIN} on the PATH or in ~/go/bin"
    )
    def test_is_found_well_and_found_down_by_its_health_check(self, tmp_path):
        test = SERVICES["opa"]["healthcheck"]["test"]
        assert test[:2] == ["CMD", "/opa"]

        def healthy(url):
            words = [word.replace("http://127.0.0.1:8181", url) for word in test[2:]]
            return (
                subprocess.run([opa_server.program(), *words], capture_output=True, check=False).returncode
                == 0
            )

        with opa_server.real(ROOT / "policies", tmp_path) as (_, url):
            assert healthy(url)
        assert not healthy(url)


def test_the_fleet_without_docker_hands_back_before_its_manager_kills(monkeypatch):
    from honcho import manager

    assert fleet_script(monkeypatch).GRACE_S < manager.KILL_WAIT
