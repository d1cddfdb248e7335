"""Canaries are planted as secrets, and a fleet works with a tool server that leaks them and libraries that log them.

Then everything that the run left behind is searched: each log line, each message at the broker, each row of each table,
what the policy and the model were asked, reports, events, the audit, answers of the API, files, and command lines. The
canaries are looked for as they are and in the usual encodings. Positive controls show that they were really used.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import sys
from pathlib import Path
from urllib.parse import quote

import amqp
import httpx
import psycopg
import pytest
from psycopg import sql

from orchestrator import topology
from orchestrator.telemetry import GONE
from orchestrator.wiring import core
from scripts.services import free_port
from tests.broker import name_of
from tests.contract.test_model import Endpoint, said
from tests.fleet import Fleet, until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

HERE = Path(__file__).parent
DOCUMENT = (
    "# Lighthouse\n\nA lighthouse is a tower that shows a light to guide ships at night. "
    "A lighthouse stands on a rock, a cape or the end of a pier.\n"
)
REGISTRY = """
items:
  documents_index: {{server: leaking, capability: documents.read, semantics: idempotent, timeout_s: 60}}
  documents_search: {{server: leaking, capability: documents.read, semantics: idempotent, timeout_s: 30}}
  documents_fetch: {{server: leaking, capability: documents.read, semantics: idempotent, timeout_s: 30}}
  model_complete: {{server: model, capability: model.invoke, semantics: keyed, timeout_s: 30}}
servers:
  leaking:
    command: {command}
    env: [PYTHONPATH]
    secrets: {{LEAK: leaky-key}}
  model: {{builtin: model}}
"""


def canary(prefix):
    return f"{prefix}canary_{secrets.token_hex(12)}"


def forms(value):
    data = value.encode()
    yield from (value, quote(value, safe=""), data.hex(), data.hex().upper(), json.dumps(value)[1:-1])
    for before in (b"", b"x", b"xx"):
        yield base64.b64encode(before + data + b"xx").decode()[4:-6]


class Planted:
    """The canaries, and where each may be: nowhere but in a header that goes to where it belongs."""

    def __init__(self):
        self.first = canary("first-")
        self.second = canary("second-")
        self.pending = canary("pending-")
        self.api_key = canary("orc_live_")  # until there is a real one
        self.cookie = canary("session-")
        self.model_key = canary("sk-")

    def found_in(self, text):
        """The names of the canaries that a text holds, in whichever form."""
        return sorted(
            name for name, value in vars(self).items() if any(form in text for form in forms(value))
        )


class Tap:
    """Every message that anybody publishes at a virtual host, Celery's own too, by the broker's tracer."""

    def __init__(self, vhost):
        at = httpx.URL(vhost)
        self.connection = amqp.Connection(
            f"{at.host}:{at.port}", userid=at.username, password=at.password, virtual_host=name_of(vhost)
        )
        self.connection.connect()
        self.channel = self.connection.channel()
        topology.declare(self.channel)
        self.channel.queue_declare("tap", durable=False, auto_delete=False)
        self.channel.queue_bind("tap", "amq.rabbitmq.trace", routing_key="publish.#")
        self.bodies = []

    def drain(self):
        while (message := self.channel.basic_get("tap", no_ack=True)) is not None:
            body = message.body if isinstance(message.body, str) else bytes(message.body).decode("latin-1")
            self.bodies.append(f"{message.headers} {body}")
        return self.bodies

    def close(self):
        self.connection.close()


class Run:
    """One run of a fleet with canaries in it, and all that it left behind."""

    def __init__(self, dsn, vhost, folder, planted, endpoint):
        self.dsn, self.folder, self.planted, self.endpoint = dsn, folder, planted, endpoint
        self.documents = folder / "documents"
        self.documents.mkdir()
        (self.documents / "lighthouse.md").write_text(DOCUMENT)
        self.witness = folder / "calls"
        self.inputs = folder / "policy-inputs"
        leaking = [
            sys.executable,
            str(HERE / "leaking_documents.py"),
            str(self.documents),
            str(folder / "cache"),
            str(self.witness),
        ]
        self.registry = folder / "tools.yaml"
        self.registry.write_text(REGISTRY.format(command=json.dumps(leaking)))
        self.port = free_port()
        self.fleet = Fleet(
            dsn,
            vhost,
            folder,
            api_port=self.port,
            documents_roots=str(self.documents),
            log_level="debug",
            backoff_cap_s=0.5,
            model_base_url=endpoint.url,
            model_name="m-1",
        )
        with core(self.fleet.settings) as opened:
            shown = opened.keyring.create(
                name="canary", tenant="default", roles=("operator", "tenant_admin"), by="test"
            )
        planted.api_key, planted.api_secret = shown.token, shown.token.split("_", 3)[3]
        self.fleet.environment["CANARY_API_KEY"] = planted.api_key
        self.fleet.environment["ORCHESTRATOR_MODEL_KEY"] = planted.model_key
        self.fleet.environment["NO_PROXY"] = "127.0.0.1"
        self.answers = []
        self.command_lines = ""

    def start(self):
        worker = [sys.executable, str(HERE / "careless_worker.py"), str(self.registry), str(self.inputs)]
        self.fleet._begin("steps", worker, {})
        for role in ("completions", "relay", "dead-letters", "api"):
            self.fleet.start(role)
        until(self._serves, within_s=60, why=self.fleet.logs)

    def _serves(self):
        try:
            return self.ask("GET", "/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, method, path, body=None):
        headers = {
            "Authorization": f"Bearer {self.planted.api_key}",
            "X-API-Key": self.planted.api_key,
            "Cookie": f"session={self.planted.cookie}",
        }
        address = f"http://127.0.0.1:{self.port}{path}"
        answer = httpx.request(method, address, json=body, headers=headers, trust_env=False, timeout=30)
        self.answers.append(f"{method} {path} {answer.status_code} {dict(answer.headers)} {answer.text}")
        return answer

    def research(self, goal):
        """Submit a goal and wait for its end; the plan's id and state."""
        body = {"goal": goal, "depth": 2, "sources": {"documents": str(self.documents)}}
        plan_id = self.ask("POST", "/plans", body).json()["plan_id"]
        ended = {"succeeded", "failed", "dead_lettered", "rejected", "cancelled"}

        def state():
            return self.ask("GET", f"/plans/{plan_id}").json()["state"]

        until(lambda: state() in ended, within_s=120, why=self.fleet.logs)
        self.note_command_lines()
        return plan_id, state()

    def note_command_lines(self):
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.command_lines += each.read_bytes().replace(b"\0", b" ").decode(errors="replace") + "\n"
            except OSError:
                continue  # it has ended

    def tables(self):
        """Every row of every table, as text, by table."""
        with psycopg.connect(self.dsn) as connection:
            listed = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            names = [row[0] for row in connection.execute(listed)]
            rows = "SELECT t::text FROM {} AS t"
            return {
                name: "\n".join(
                    row[0] for row in connection.execute(sql.SQL(rows).format(sql.Identifier(name)))
                )
                for name in names
            }

    def logs(self):
        return {m.name: m.log.read_text(errors="replace") for m in self.fleet.members.values()}

    def files(self):
        """Every file that the run left in its folder, as text."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes().decode("latin-1")
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture(scope="module")
def planted():
    return Planted()


@pytest.fixture(scope="module")
def endpoint(planted):
    made = Endpoint()

    def answer(body):
        if len(made.requests) == 1:  # refuses the first one, and says whom
            return 401, {"error": f"Incorrect API key provided: {planted.model_key}"}
        if len(made.requests) == 2:
            return 200, said(f"You are {planted.model_key}.")
        return 200, said("{}")

    made.answer = answer
    yield made
    made.close()


@pytest.fixture(scope="module")
def run(postgres_server, rabbit, tmp_path_factory, planted, endpoint):
    dsn = postgres_server.create()
    with rabbit.vhost() as vhost, rabbit.traced(vhost):
        tap = Tap(vhost)
        made = Run(dsn, vhost, tmp_path_factory.mktemp("canary"), planted, endpoint)
        try:
            made.start()
            put = made.ask("PUT", "/secrets/leaky-key", {"value": planted.first})
            assert put.status_code == 200, put.text
            made.plans = [made.research("What is a lighthouse?")]
            for path, value in (("rotate", planted.second), ("promote", None)):
                body = {} if value is None else {"value": value}
                assert made.ask("POST", f"/secrets/leaky-key/{path}", body).status_code in {200, 201}
            made.plans.append(made.research("Where does a lighthouse stand?"))
            made.ask("POST", "/secrets/leaky-key/rotate", {"value": planted.pending})
            made.ask("POST", "/secrets/leaky-key/rotate", {"value": planted.pending})  # 409
            made.ask("PUT", "/secrets/leaky-key", {"valu": planted.pending})  # 422
            made.ask("GET", f"/plans?token={planted.api_key[9:]}")  # 422
            made.ask("GET", "/secrets")
            made.ask("DELETE", "/secrets/leaky-key")
            made.ask("PUT", "/secrets/kept-key", {"value": planted.pending})  # for the tables to hold one
            made.orphan = made.research("Who keeps a lighthouse?")
            for plan_id, _ in [*made.plans, made.orphan]:
                for part in ("report", "events", "facts", "steps", "calls", "audit"):
                    made.ask("GET", f"/plans/{plan_id}/{part}")
            made.ask("GET", "/metrics")
            made.exported = [
                made.fleet.run(*words, plan_id)
                for plan_id, _ in made.plans
                for words in (("audit", "show"), ("plans", "show"), ("report", "show"))
            ]
            made.exported.append(made.fleet.run("dead", "list", "--json"))
            made.messages = list(tap.drain())
        finally:
            made.fleet.stop()
            tap.close()
        yield made
    postgres_server.drop(dsn)


class TestTheRun:
    """That the canaries were really used, so that what follows means something."""

    def test_came_to_two_reports_and_one_plan_that_lacks_its_secret(self, run):
        assert [state for _, state in run.plans] == ["succeeded", "succeeded"]
        _, state = run.orphan
        assert state in {"dead_lettered", "failed"}
        assert "needs the secret leaky-key, which tenant default does not have" in "".join(run.answers)

    def test_gave_the_tool_the_current_value_each_time(self, run, planted):
        used = [json.loads(line)[1] for line in run.witness.read_text().splitlines()]
        digests = [hashlib.sha256(value.encode()).hexdigest() for value in (planted.first, planted.second)]
        assert list(dict.fromkeys(used)) == digests

    def test_gave_the_model_its_key_in_a_header(self, run, planted):
        assert len(run.endpoint.headers) > 2
        assert {h["Authorization"] for h in run.endpoint.headers} == {f"Bearer {planted.model_key}"}

    def test_leaked_in_results_errors_and_prints_where_now_something_else_stands(self, run):
        tables = run.tables()
        assert GONE in tables["evidence"]
        assert GONE in tables["call"]
        assert f"The library refused the key {GONE}" in "".join(run.answers)
        logs = "".join(run.logs().values())
        assert f"documents_search: Authorization: {GONE}" in logs
        assert f"the secret is {GONE}" in logs
        assert f"the key is {GONE}" in logs
        assert "step.crashed" in logs
        assert (run.folder / "failed once").exists()

    def test_was_heard_at_the_broker(self, run):
        assert len(run.messages) > 20
        assert any(plan_id in body for plan_id, _ in run.plans for body in run.messages)


class TestNoCanaryIs:
    def test_in_any_line_of_any_log(self, run, planted):
        logs = run.logs()
        assert all(logs[name] for name in ("steps-1", "api-1"))
        assert {name: planted.found_in(text) for name, text in logs.items() if planted.found_in(text)} == {}

    def test_in_any_message_at_the_broker(self, run, planted):
        assert [body for body in run.messages if planted.found_in(body)] == []

    def test_in_any_row_of_any_table(self, run, planted):
        tables = run.tables()
        assert {"plan", "audit", "call", "evidence", "secret", "data_key", "event", "report"} <= set(tables)
        assert "kept-key" in tables["secret_version"]
        assert {name: planted.found_in(t) for name, t in tables.items() if planted.found_in(t)} == {}

    def test_in_what_the_policy_was_asked(self, run, planted):
        text = run.inputs.read_text()
        assert "documents_search" in text
        assert planted.found_in(text) == []

    def test_in_what_the_model_was_asked(self, run, planted):
        prompts = json.dumps([body for _, body in run.endpoint.requests], ensure_ascii=False)
        assert "lighthouse" in prompts
        assert planted.found_in(prompts) == []

    def test_in_any_answer_of_the_api(self, run, planted):
        text = "\n".join(run.answers)
        assert "lighthouse is a tower" in text
        # one address was asked for with a part of a key in it, as some clients do
        assert planted.found_in(text.replace(f"token={planted.api_key[9:]}", "")) == []

    def test_in_an_exported_audit_plan_report_or_dead_letter(self, run, planted):
        assert all(run.exported)
        assert planted.found_in("\n".join(run.exported)) == []

    def test_in_any_file_of_the_fleet(self, run, planted):
        files = run.files()
        assert any(name.endswith("secrets.key") for name in files)
        assert {name: planted.found_in(t) for name, t in files.items() if planted.found_in(t)} == {}

    def test_in_the_command_line_of_any_process(self, run, planted):
        assert "leaking_documents.py" in run.command_lines
        assert planted.found_in(run.command_lines) == []


class TestTheSearch:
    """That a canary would be found: one that looks for nothing finds nothing."""

    @pytest.mark.parametrize("form", range(8))
    def test_finds_a_canary_in_each_form(self, form):
        planted = Planted()
        forms_of = list(forms(planted.first))
        assert len(forms_of) == 8
        assert planted.found_in(f"before {forms_of[form]} behind") == ["first"]

    def test_finds_a_canary_in_a_row(self, dsn, tmp_path):
        planted = Planted()
        with psycopg.connect(dsn) as connection:
            connection.execute("INSERT INTO secret (tenant, name) VALUES ('x', %s)", [planted.first])
        looking = Run.__new__(Run)
        looking.dsn = dsn
        assert [name for name, t in looking.tables().items() if planted.found_in(t)] == ["secret"]
