"""How a tool gets its secrets: by name, those of its tenant, those that are current; and what of them comes back: nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import threading
import traceback
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.errors import SecretsUnavailable
from orchestrator.domain.plan import CallState
from orchestrator.inmemory import InMemoryStore
from orchestrator.telemetry import GONE
from orchestrator.vault.secrets import MasterKeys, SealedSecrets
from tests.clock import Clock
from tests.contract.bench import InMemoryBench
from tests.contract.workbench import ROOT, eventually, opened, spec
from workers.gate.gate import CallFailed
from workers.toolhost import host as toolhost
from workers.toolhost.host import ToolFailure, ToolHost
from workers.toolhost.registry import Registry, ServerSpec
from workers.toolhost.veil import Printed, Veil

TELLTALE = ROOT / "tests" / "contract" / "telltale_server.py"
NAMES = {"SECRET_KEY": "api-key", "SECRET_PIN": "pin"}
KEY, PIN = 'canary-"4f9d/7b+1\\ü end', "8306251479"
OTHER = "another-value-of-this-key"
ACME, ELSE = "acme", "another tenant"
LONG = 60.0


class Bank:
    """A tool server that needs two secrets, the secrets, and what both came to."""

    def __init__(self, folder):
        self.witness = folder / "witness"
        self.secrets = SealedSecrets(InMemoryStore(Clock()), MasterKeys(lambda: [b"m" * 32]))
        self.names = ("tell", "fail", "protest", "lie", "print", "wait", "write")
        self.tools = {name: spec(name, server="telltale", timeout_s=LONG) for name in self.names}
        command = (sys.executable, str(TELLTALE), str(self.witness))
        self.registry = Registry(self.tools, {"telltale": ServerSpec("telltale", None, command, (), NAMES)})
        self.host = ToolHost(self.registry, {}, self.secrets)

    def furnish(self, tenant=ACME, key=KEY, pin=PIN):
        self.secrets.put(tenant, "api-key", key, by="ann")
        self.secrets.put(tenant, "pin", pin, by="ann")

    def call(self, name, tenant=ACME, **arguments):
        return self.host.call(self.tools[name], arguments, timeout_s=LONG, key="k" * 64, tenant=tenant)

    def starts(self):
        """What each start of the server was given, as digests."""
        return [json.loads(line) for line in self.witness.read_text().splitlines()]

    def keys(self):
        return [start["SECRET_KEY"] for start in self.starts()]


def digest(value):
    return hashlib.sha256(value.encode()).hexdigest()


@pytest.fixture
def bank(tmp_path):
    made = Bank(tmp_path)
    yield made
    made.host.close()


def forms(value):
    """How a value could stand in a text."""
    data = value.encode()
    yield from (value, json.dumps(value)[1:-1], quote(value, safe=""), data.hex())
    for before in range(3):
        yield base64.b64encode(b"x" * before + data).decode()[4:-4]


class TestAServerThatNamesSecrets:
    def test_is_given_those_of_the_tenant_as_variables(self, bank):
        bank.furnish()
        bank.call("tell")
        (start,) = bank.starts()
        assert (start["SECRET_KEY"], start["SECRET_PIN"]) == (digest(KEY), digest(PIN))

    def test_is_another_process_for_another_tenant(self, bank):
        bank.furnish()
        bank.furnish(ELSE, OTHER)
        for tenant in (ACME, ELSE, ACME, ELSE):
            bank.call("tell", tenant)
        assert bank.keys() == [digest(KEY), digest(OTHER)]

    @pytest.mark.parametrize("missing", ["api-key", "pin"])
    def test_is_not_called_for_a_tenant_that_lacks_one_and_says_what_to_do(self, bank, missing):
        bank.furnish()
        bank.furnish(ELSE)
        bank.secrets.remove(ELSE, missing, by="ann")
        with pytest.raises(ToolFailure) as failure:
            bank.call("tell", ELSE)
        assert (failure.value.reason, failure.value.unsure) == ("secret_missing", False)
        assert f"orchestrator secrets put {missing} --tenant {ELSE}" in failure.value.detail
        assert not bank.witness.exists()

    def test_is_not_called_where_nobody_says_whose_call_it_is(self, bank):
        bank.furnish()
        with pytest.raises(ToolFailure, match="does not have"):
            bank.call("tell", "")

    def test_is_not_called_where_there_are_no_secrets(self, bank):
        host = ToolHost(bank.registry, {})
        with pytest.raises(ToolFailure, match="there are no secrets here"):
            host.call(bank.tools["tell"], {}, timeout_s=1, key="k", tenant=ACME)
        host.close()

    def test_is_not_called_while_the_secrets_cannot_be_read(self, bank):
        class Down:
            def get(self, *_):
                raise SecretsUnavailable("Vault is sealed.")

        host = ToolHost(bank.registry, {}, Down())
        with pytest.raises(ToolFailure, match="Vault is sealed") as failure:
            host.call(bank.tools["tell"], {}, timeout_s=1, key="k", tenant=ACME)
        host.close()
        assert failure.value.reason == "secrets_unavailable"
        assert not bank.witness.exists()

    def test_goes_on_with_the_old_value_until_the_new_one_is_promoted(self, bank):
        bank.furnish()
        bank.call("tell")
        bank.secrets.rotate(ACME, "api-key", OTHER, by="ann")
        bank.call("tell")
        assert bank.keys() == [digest(KEY)]
        bank.secrets.promote(ACME, "api-key", by="ann")
        bank.call("tell")
        bank.call("tell")
        assert bank.keys() == [digest(KEY), digest(OTHER)]

    def test_ends_once_a_newer_value_is_used(self, bank):
        bank.furnish()
        bank.call("tell")
        (old,) = bank.host._sessions.values()
        bank.secrets.put(ACME, "api-key", OTHER, by="ann")
        bank.call("tell")
        old.join(60)
        assert not old._thread.is_alive()
        assert len(bank.host._sessions) == 1

    def test_finishes_what_it_is_in_the_middle_of_when_a_newer_value_is_used(self, bank, tmp_path):
        bank.furnish()
        done, answers = tmp_path / "done", []
        slow = threading.Thread(target=lambda: answers.append(bank.call("wait", file=str(done))))
        slow.start()
        assert eventually(lambda: bank.witness.exists() and bank.starts())
        bank.secrets.put(ACME, "api-key", OTHER, by="ann")
        bank.call("tell")
        done.touch()
        slow.join(LONG)
        assert answers[0]["pid"] == bank.starts()[0]["pid"]
        assert not any(form in json.dumps(answers, ensure_ascii=False) for form in forms(KEY))

    def test_is_refused_with_the_next_call_once_its_secret_is_removed(self, bank):
        bank.furnish()
        bank.call("tell")
        bank.secrets.remove(ACME, "api-key", by="ann")
        with pytest.raises(ToolFailure, match="does not have"):
            bank.call("tell")

    def test_that_was_removed_and_put_again_has_the_new_value(self, bank):
        bank.furnish()
        bank.call("tell")
        bank.secrets.remove(ACME, "api-key", by="ann")
        bank.secrets.put(ACME, "api-key", OTHER, by="ann")
        bank.call("tell")
        assert bank.keys() == [digest(KEY), digest(OTHER)]

    def test_leaves_no_more_than_so_many_running_for_nobody(self, bank, monkeypatch):
        monkeypatch.setattr(toolhost, "TENANT_SERVERS", 2)
        for tenant in ("a-1", "a-2", "a-3"):
            bank.furnish(tenant)
            bank.call("tell", tenant)
        assert [place.tenant for place in bank.host._sessions] == ["a-2", "a-3"]


class TestWhatSuchAServerSays:
    def test_passes_on_without_the_values_however_they_are_written(self, bank):
        bank.furnish()
        answer = bank.call("tell")
        text = json.dumps(answer, ensure_ascii=False)
        for value in (KEY, PIN):
            assert [form for form in forms(value) if form in text] == []
        told = answer["SECRET_KEY"]
        assert told["plain"] == f"<{GONE}>"
        assert told[GONE] == "in a key"
        assert told["list"] == [{"deep": [GONE]}]
        assert (told["harmless"], told["number"]) == ("kept as it is", 7)
        assert answer["SECRET_PIN"]["number"] == GONE

    def test_in_text_is_hidden_too(self, bank):
        bank.furnish()
        assert bank.call("write") == {"text": f"It is {GONE} {GONE}!"}

    @pytest.mark.parametrize(
        ("tool", "reason"), [("fail", "tool_error"), ("protest", "protocol_error"), ("lie", "invalid_result")]
    )
    def test_in_an_error_is_hidden_in_all_that_a_traceback_shows(self, bank, tool, reason):
        bank.furnish()
        with pytest.raises(ToolFailure) as failure:
            bank.call(tool)
        shown = failure.value.detail + "".join(traceback.format_exception(failure.value))
        assert failure.value.reason == reason
        assert not any(value in shown for value in (KEY, PIN))

    def test_on_its_standard_error_is_hidden(self, bank, capfd):
        bank.furnish()
        bank.call("print")
        said = ""

        def printed():
            nonlocal said
            said += capfd.readouterr().err
            return "printed all" in said

        assert eventually(printed)
        assert f"using {GONE} {GONE}" in said
        assert "was left out" in said
        assert not any(value in said for value in (KEY, PIN))

    def test_of_another_tenant_s_value_is_not_looked_at(self, bank):
        bank.furnish()
        bank.furnish(ELSE, OTHER)
        bank.call("tell", ELSE)
        assert "SECRET_KEY" in bank.call("tell")


class TestOfASecret:
    def test_nothing_is_kept_of_a_call_and_a_missing_one_is_told_in_the_journal(self, bank, sealer):
        bench = InMemoryBench()
        with opened(bench, sealer) as work:
            bank.furnish(work.rows("plan", work.submit().plan_id).tenant)
            gate = work.gate(registry=bank.registry, host=bank.host)
            claimed = work.claim()
            result = gate.call(claimed, "tell", {}, occurrence=0)
            with pytest.raises(CallFailed):
                gate.call(claimed, "fail", {}, occurrence=0)
            bank.secrets.remove(claimed.plan.tenant, "pin", by="ann")
            with pytest.raises(CallFailed, match="orchestrator secrets put pin"):
                gate.call(claimed, "write", {}, occurrence=0)
            kept = str(vars(work.store)) + str(result)
            calls = {call.tool: call for call in work.rows("calls", claimed.ref.plan_id)}
            assert not any(form in kept for value in (KEY, PIN) for form in forms(value))
            assert GONE in kept
            assert calls["write"].state is CallState.FAILED
            assert "needs the secret pin" in calls["write"].error
        bench.close()


class TestAVeil:
    @given(st.text(min_size=8, max_size=80), st.binary(max_size=5), st.binary(max_size=5))
    def test_hides_a_value_in_base64_whatever_stands_around_it(self, value, before, behind):
        try:
            data = value.encode()
        except UnicodeEncodeError:
            return
        hidden = Veil([value]).text(base64.b64encode(before + data + behind).decode())
        assert GONE in hidden or not value.strip()

    @given(st.text(min_size=8, max_size=80), st.text(max_size=20), st.text(max_size=20))
    def test_hides_a_value_in_any_text_and_leaves_what_is_around_it(self, value, before, behind):
        try:
            (before + value + behind).encode()
        except UnicodeEncodeError:
            return
        assert value not in Veil([value]).text(before + value + behind).replace(GONE, "")

    def test_hides_the_lines_of_a_long_value_and_a_value_without_its_white_space(self):
        key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nBAQEFAASCBKcwggSjAgEAAo\n-----END KEY-----\n"
        veil = Veil([key, "a-token-with-a-newline\n"])
        shown = veil.text("MIIEvQIBADANBgkqhkiG9w0 and a-token-with-a-newline")
        assert shown == f"{GONE} and {GONE}"

    def test_without_values_changes_nothing(self):
        content = {"a": ["b"]}
        assert Veil().of(content) is content
        assert not Veil()

    def test_does_not_show_itself(self):
        assert KEY not in repr(Veil([KEY]))

    def test_over_what_is_printed_ends_with_the_printer(self):
        out = io.StringIO()
        printed = Printed(Veil([KEY]), out)
        print(f"one {KEY}\npassword=hunter2", file=printed.pen, flush=True)
        printed.close()
        assert out.getvalue() == f"one {GONE}\npassword={GONE}\n"
        assert not printed._thread.is_alive()
