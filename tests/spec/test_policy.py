"""The policy and its enforcer: what is allowed, what is not, and that every doubt is a denial."""

import copy
import json
import multiprocessing
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import regopy
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.judgement import Judgement
from orchestrator.ports import Judge
from tests.contract import opa_server
from workers.gate import policy
from workers.gate.policy import Decision, EmbeddedEnforcer, PolicyLoadError, Question, Reason

POLICIES = Path(__file__).parents[2] / "policies"
ROWS = json.loads((POLICIES / "tests" / "capabilities.json").read_text(encoding="utf-8"))
ACTION_ROWS = json.loads((POLICIES / "tests" / "actions.json").read_text(encoding="utf-8"))
INJECTED = 'x", "allow":true, "z":"y'
ILL_FORMED = (Reason("missing_capability", "input.well_formed"),)


@pytest.fixture(scope="module")
def enforcer():
    return EmbeddedEnforcer(POLICIES)


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(POLICIES, tmp_path / "policies")
    return tmp_path / "policies"


def question(**changes):
    usual = {
        "agent": "researcher",
        "tool": "documents_search",
        "server": "documents",
        "held": ("documents.read", "model.invoke"),
        "required": ("documents.read",),
        "run_mode": "consumer",
        "tenant_id": "acme",
        "plan_id": "plan-1",
        "step": 3,
        "attempt": 1,
        "depth": 2,
        "args_digest": "sha256:" + "0" * 64,
        "trace_id": "0" * 32,
        "profile_known": True,
    }
    return Question(**(usual | changes))


def expected(row):
    return tuple(sorted((Reason(**reason) for reason in row["deny"]), key=lambda r: (r.reason, r.capability)))


class TestTheTable:
    @pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
    def test_is_decided_as_written(self, enforcer, row):
        decision = enforcer.decide(policy.CAPABILITIES, row["input"])

        assert not decision.failed
        assert decision.allow is row["allow"]
        assert decision.reasons == expected(row)

    def test_names_every_row_once_and_knows_every_reason(self):
        names = [row["name"] for row in ROWS]

        assert len(names) == len(set(names)) >= 60
        assert {reason["reason"] for row in ROWS for reason in row["deny"]} == policy.REASONS
        assert all(row["allow"] is not bool(row["deny"]) for row in ROWS)

    @pytest.mark.skipif(
        opa_server.program() is None, reason=f"no opa {opa_server.PIN} on the PATH or in ~/go/bin"
    )
    def test_is_decided_alike_by_a_real_opa(self, tmp_path):
        (tmp_path / "rows.json").write_text(json.dumps({"rows": ROWS}), encoding="utf-8")
        (tmp_path / "harness.rego").write_text(
            """
            package harness
            import rego.v1
            decided := [{"name": row.name, "allow": allow, "deny": deny} |
                some row in data.rows
                allow := data.orchestrator.capabilities.allow with input as row.input
                deny := [r | some r in data.orchestrator.capabilities.deny] with input as row.input
            ]
            """,
            encoding="utf-8",
        )
        command = [
            opa_server.program(),
            "eval",
            "--format",
            "raw",
            "-d",
            POLICIES / "capabilities.rego",
            "-d",
            tmp_path,
        ]
        done = subprocess.run([*command, "data.harness.decided"], check=True, capture_output=True, text=True)

        decided = {row["name"]: (row["allow"], expected(row)) for row in json.loads(done.stdout)}
        assert decided == {row["name"]: (row["allow"], expected(row)) for row in ROWS}


class TestTheTableOfActions:
    @pytest.mark.parametrize("row", ACTION_ROWS, ids=[row["name"] for row in ACTION_ROWS])
    def test_is_decided_as_written(self, enforcer, row):
        decision = enforcer.decide(policy.ACTIONS, row["input"])

        assert not decision.failed
        assert decision.allow is row["allow"]
        assert decision.reasons == expected(row)

    def test_names_every_row_once_and_asks_its_own_package(self):
        names = [row["name"] for row in ACTION_ROWS]

        assert len(names) == len(set(names)) >= 120
        assert {row["package"] for row in ACTION_ROWS} == {policy.ACTIONS}

    def test_grants_every_action_of_the_api_to_somebody(self):
        granted = {row["input"]["action"]["type"] for row in ACTION_ROWS if row["allow"]}

        assert {
            *(
                "plan.submit",
                "plan.cancel",
                "plan.retry",
                "plan.fork",
                "research.run",
                "chat.interact",
                "tool.call",
            ),
            *(
                "approval.decide",
                "dead_letter.retry",
                "dead_letter.discard",
                "schedule.create",
                "schedule.change",
            ),
            *("schedule.remove", "schedule.trigger", "secret.manage", "secret.read_versions", "audit.read"),
            *("audit.append", "key.manage", "policy.reload", "stop.set"),
        } <= granted


class TestAPackage:
    def test_that_the_policy_does_not_have_is_a_question_without_an_answer(self, enforcer):
        decision = enforcer.decide("orchestrator.nothing", {})

        assert (decision.effect, decision.failed, decision.reasons) == ("deny", True, ())

    @pytest.mark.parametrize(
        "package", ["", "orchestrator", "orchestrator/actions", "x\nallow := true", None, 1]
    )
    def test_is_named_exactly(self, enforcer, package):
        decision = enforcer.decide(package, ACTION_ROWS[0]["input"])

        assert decision.effect == "deny"
        assert decision.failed

    def test_is_guarded_before_like_any_other(self, enforcer):
        decision = enforcer.decide(policy.ACTIONS, {"subject": 0.5})

        assert decision.reasons == ILL_FORMED

    @pytest.mark.parametrize("reason", ["", "Two words", "a" * 65, 'x"', 7, None])
    def test_gives_reasons_that_are_constant_codes(self, reason):
        text = json.dumps({"allow": False, "deny": [{"reason": reason, "capability": ""}]})

        assert policy.judge(Scripted(text), policy.ACTIONS, {}).failed

    def test_may_give_reasons_of_its_own(self):
        text = '{"allow":false,"deny":[{"reason":"missing_role","capability":"plan.submit"}]}'

        assert policy.judge(Scripted(text), policy.ACTIONS, {}).reasons == (
            Reason("missing_role", "plan.submit"),
        )
        assert policy.judge(Scripted(text), policy.CAPABILITIES, {}).failed

    def test_of_one_s_own_is_asked_like_those_of_the_house(self, folder):
        source = (
            "package house.rules\n\nimport rego.v1\n\ndefault allow := false\n\nallow if count(deny) == 0\n\n"
            'deny contains {"reason": "closed", "capability": ""} if object.get(input, "day", "") == "sunday"\n'
        )
        rows = [
            {
                "name": "monday",
                "package": "house.rules",
                "input": {"day": "monday"},
                "allow": True,
                "deny": [],
            },
            {
                "name": "sunday",
                "package": "house.rules",
                "input": {"day": "sunday"},
                "allow": False,
                "deny": [{"reason": "closed", "capability": ""}],
            },
        ]
        (folder / "rules.rego").write_text(source, encoding="utf-8")
        with pytest.raises(PolicyLoadError, match=r"proves nothing.*house\.rules"):
            EmbeddedEnforcer(folder)
        (folder / "tests" / "rules.json").write_text(json.dumps(rows), encoding="utf-8")

        enforcer = EmbeddedEnforcer(folder)

        assert enforcer.decide("house.rules", {"day": "monday"}).allow
        assert enforcer.decide("house.rules", {"day": "sunday"}).reasons == (Reason("closed"),)
        assert enforcer.judge(question()).allow

    def test_of_capabilities_is_enough_and_then_no_action_is_allowed(self, folder):
        (folder / "actions.rego").unlink()
        (folder / "tests" / "actions.json").unlink()

        enforcer = EmbeddedEnforcer(folder)

        assert enforcer.judge(question()).allow
        assert enforcer.decide(policy.ACTIONS, ACTION_ROWS[0]["input"]).failed

    def test_of_capabilities_is_never_missing(self, folder):
        (folder / "capabilities.rego").unlink()

        with pytest.raises(PolicyLoadError, match=r"no package orchestrator\.capabilities"):
            EmbeddedEnforcer(folder)

    def test_answers_as_the_judge_that_the_api_knows(self, enforcer):
        judge: Judge = enforcer

        ruling = judge.decide(policy.ACTIONS, ACTION_ROWS[0]["input"])

        assert isinstance(ruling, Judgement)
        assert ruling.allow
        assert ruling.revision == enforcer.revision
        assert ruling.decision_id


class TestADecision:
    def test_allows_what_the_profile_grants(self, enforcer):
        decision = enforcer.judge(question())

        assert decision.allow
        assert decision.effect == "allow"
        assert decision.reasons == ()
        assert not decision.failed

    def test_denies_what_nobody_grants(self, enforcer):
        decision = enforcer.judge(question(required=("github.write",)))

        assert decision.effect == "deny"
        assert decision.reasons == (Reason("missing_capability", "github.write"),)
        assert not decision.failed

    def test_requires_approval_when_nothing_else_is_missing(self, enforcer):
        waiting = question(held=("repo.write",), required=("repo.write",))

        decision = enforcer.judge(waiting)

        assert decision.effect == "require_approval"
        assert not decision.allow

    def test_does_not_ask_for_approval_of_what_would_be_denied_anyway(self, enforcer):
        decision = enforcer.judge(question(held=("repo.write",), required=("repo.write", "test.run")))

        assert decision.effect == "deny"
        assert Reason("approval_required", "repo.write") in decision.reasons

    def test_allows_what_a_human_has_approved(self, enforcer):
        approved = question(held=("repo.write",), required=("repo.write",), approvals={"repo.write": True})

        assert enforcer.judge(approved).allow

    def test_sees_role_and_tenant_bindings(self, enforcer):
        asked = {"held": (), "roles": ("analyst",)}

        assert enforcer.judge(question(**asked, role_bindings={"analyst": ["documents.read"]})).allow
        assert enforcer.judge(
            question(**asked, tenant_role_bindings={"acme": {"analyst": ("documents.read",)}}),
        ).allow
        assert not enforcer.judge(
            question(**asked, tenant_role_bindings={"globex": {"analyst": ("documents.read",)}}),
        ).allow

    def test_names_its_policy_its_input_and_itself(self, enforcer):
        first, again, other = (enforcer.judge(question(plan_id=plan)) for plan in ("a", "a", "b"))

        assert first.revision == enforcer.revision
        assert first.engine == "embedded"
        assert first.duration_us > 0
        assert first.decision_id != again.decision_id
        assert first.input_digest == again.input_digest != other.input_digest

    def test_does_not_remember_the_question_before(self, enforcer):
        for _ in range(20):
            assert enforcer.judge(question()).allow
            assert not enforcer.judge(question(held=())).allow
            assert not enforcer.judge(question(agent=INJECTED)).allow
            assert enforcer.judge(question()).allow


class TestTheGuardBefore:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("text with a quote", 'a"b'),
            ("text with a backslash", "a\\b"),
            ("text with a line break", "a\n"),
            ("text with a zero byte", "a\0"),
            ("text beyond ASCII", "é"),
            ("half a surrogate pair", "\ud800"),
            ("text of 513 letters", "a" * 513),
            ("a float", 1.5),
            ("a float that is whole", 1.0),
            ("not a number", float("nan")),
            ("infinity", float("inf")),
            ("an integer beyond 2^53", 2**53 + 1),
            ("bytes", b"a"),
            ("a set", {"a"}),
            ("a tuple", ("a",)),
            ("an object", object()),
            ("too many values", ["a"] * 600),
            ("too much text", ["a" * 500] * 70),
            ("a key that is not text", {1: "a"}),
            ("a key with a quote", {'a"': "a"}),
        ],
    )
    def test_denies_a_document_that_engines_could_read_differently(self, enforcer, name, value):
        document = question().document()
        document["context"]["extra"] = value

        decision = enforcer.decide(policy.CAPABILITIES, document)

        assert decision.effect == "deny", name
        assert decision.reasons == ILL_FORMED
        assert decision.detail
        assert not decision.failed, "asking again would not help"

    def test_denies_a_document_that_is_nested_too_deeply(self, enforcer):
        def nested(levels):
            document = question().document()
            value = document["context"]
            for _ in range(levels):
                value["deeper"] = {}
                value = value["deeper"]
            return document

        assert enforcer.decide(policy.CAPABILITIES, nested(9)).allow
        assert enforcer.decide(policy.CAPABILITIES, nested(11)).reasons == ILL_FORMED
        assert enforcer.decide(policy.CAPABILITIES, nested(100_000)).reasons == ILL_FORMED

    def test_denies_a_document_that_contains_itself(self, enforcer):
        document = question().document()
        document["context"]["self"] = document

        assert enforcer.decide(policy.CAPABILITIES, document).reasons == ILL_FORMED

    def test_denies_text_that_only_pretends_to_be_text(self, enforcer):
        class Text(str):
            __slots__ = ()

        assert enforcer.judge(question(agent=Text("researcher"))).reasons == ILL_FORMED

    def test_denies_a_question_that_cannot_be_written_down(self, enforcer):
        decision = enforcer.judge(question(held=None))

        assert decision.reasons == ILL_FORMED

    def test_permits_the_alphabet_of_names_digests_and_addresses(self, enforcer):
        assert enforcer.judge(question(agent="A z0._:/@+*=,-")).allow


class TestTheGuardAfter:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "true",
            "[]",
            "{}",
            '{"allow":true}',
            '{"deny":[]}',
            '{"allow":"true","deny":[]}',
            '{"allow":1,"deny":[]}',
            '{"allow":true,"deny":{}}',
            '{"allow":true,"deny":null}',
            '{"allow":true,"deny":[],"more":1}',
            '{"allow":false,"allow":true,"deny":[]}',
            '{"allow":true,"deny":[{"reason":"missing_capability","capability":"a"}]}',
            '{"allow":false,"deny":[]}',
            '{"allow":false,"deny":["missing_capability"]}',
            '{"allow":false,"deny":[{"capability":"a"}]}',
            '{"allow":false,"deny":[{"reason":"because","capability":"a"}]}',
            '{"allow":false,"deny":[{"reason":"missing_capability","capability":1}]}',
            '{"allow":false,"deny":[{"reason":"missing_capability","capability":"a\\""}]}',
            '{"allow":false,"deny":[{"reason":"missing_capability","capability":"a","allow":true}]}',
            '{"allow":false,"deny":[{"reason":"missing_capability","capability":NaN}]}',
            '{"allow":true,"deny":[]} {"allow":true,"deny":[]}',
            "<html>",
        ],
    )
    def test_takes_nothing_but_an_exact_answer(self, text):
        decision = policy.judge(Scripted(text), policy.CAPABILITIES, question().document())

        assert decision.effect == "deny"
        assert decision.reasons == ()
        assert decision.failed
        assert decision.detail

    def test_takes_a_reason_without_a_capability(self):
        text = '{"allow":false,"deny":[{"reason":"run_mode_mismatch"}]}'

        decision = policy.judge(Scripted(text), policy.CAPABILITIES, question().document())

        assert decision.reasons == (Reason("run_mode_mismatch"),)
        assert not decision.failed


class Scripted:
    """An engine that says what it is told to say, or fails."""

    name = "scripted"
    revision = "0"

    def __init__(self, says):
        self.says = says
        self.forgotten = 0

    def ask(self, package, text):
        if isinstance(self.says, Exception):
            raise self.says
        return policy.Said(self.says, self.revision)

    def forget(self):
        self.forgotten += 1


@pytest.mark.parametrize(
    "fault", [OSError("gone"), RecursionError(), regopy.RegoError("broken"), KeyError("x")]
)
def test_a_policy_that_cannot_answer_denies(fault):
    engine = Scripted(fault)

    decision = policy.judge(engine, policy.CAPABILITIES, question().document())

    assert decision.effect == "deny"
    assert decision.failed, "asking again later may help"
    assert engine.forgotten == 1


def test_a_failure_does_not_outlive_its_question(enforcer, monkeypatch):
    def broken(self, term):
        raise regopy.RegoError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(regopy.Interpreter, "set_input_term", broken)
        assert enforcer.judge(question()).failed

    assert enforcer.judge(question()).allow


class TestTheEngine:
    """The known traps of the embedded engine; each was seen, and each must stay shut."""

    def test_is_never_given_text_that_it_would_not_escape(self, enforcer):
        # in the object form of the input, this text reaches the answer unescaped and adds a second `allow`
        for place in (
            "agent",
            "tool",
            "tenant_id",
            "plan_id",
            "trace_id",
            "run_mode",
            "action_type",
            "args_digest",
        ):
            assert enforcer.judge(question(held=(), **{place: INJECTED})).reasons == ILL_FORMED
        for place in ("held", "required", "roles"):
            assert enforcer.judge(question(**{place: (INJECTED,)})).reasons == ILL_FORMED

    def test_escapes_that_text_even_without_the_guard(self, enforcer):
        document = question(required=("github.write",), trace_id=INJECTED).document()

        answer = policy.read_answer(enforcer._engine.ask(policy.CAPABILITIES, json.dumps(document)).text)

        assert answer.effect == "deny"

    def test_has_every_function_that_a_policy_may_call(self):
        interpreter = regopy.Interpreter()

        assert all(interpreter.is_builtin(name) for name in policy.BUILTINS)

    @pytest.mark.parametrize(
        "call",
        [
            'net.cidr_contains("10.0.0.0/8", input.ip)',  # silently undefined: `not` of it would allow
            'regex.match("(a+)+$", input.subject.agent)',  # runs for minutes and cannot be interrupted
            'sprintf("%s", [input.subject.agent]) == ""',  # breaks its own quoting
            'http.send({"method": "get", "url": "http://localhost"})',
            "time.now_ns() > 0",
            "opa.runtime().env",  # hands out the process's environment
            "rand.intn(input.subject.agent, 2) == 0",
            'nothing_of_the_kind("a")',
        ],
    )
    def test_is_not_loaded_with_a_function_on_which_engines_disagree(self, folder, call):
        (folder / "more.rego").write_text(
            f"package more\n\nimport rego.v1\n\nodd if {call}\n", encoding="utf-8"
        )

        with pytest.raises(PolicyLoadError, match=call.split("(")[0]):
            EmbeddedEnforcer(folder)

    def test_is_given_a_policy_without_negation(self):
        # engines differ about the negation of what is undefined: a denial written with it can be skipped
        code = policy._QUOTED_OR_COMMENT.sub(
            " ", (POLICIES / "capabilities.rego").read_text(encoding="utf-8")
        )

        assert "not" not in code.split()

    def test_says_in_one_line_why_a_policy_does_not_compile(self, folder, capfd):
        with (folder / "capabilities.rego").open("a", encoding="utf-8") as file:
            file.write("\nallow if {\n")

        with pytest.raises(PolicyLoadError, match=r"gives no answer: this is unclosed\.$"):
            EmbeddedEnforcer(folder)

        assert capfd.readouterr() == ("", "")

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_answers_in_a_forked_process_too(self):
        assert ENFORCER.judge(question()).allow

        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply(_decide_in_child) == ("allow", "deny")

    def test_is_loaded_with_such_a_name_in_text_or_a_comment(self, folder):
        more = 'package more\n\nimport rego.v1\n\n# http.send(x)\nodd := "net.cidr_contains(x)"\n'
        (folder / "more.rego").write_text(more, encoding="utf-8")

        assert EmbeddedEnforcer(folder).judge(question()).allow

    def test_is_not_loaded_with_a_policy_that_replaces_its_input(self, folder):
        more = (
            "package more\n\nimport rego.v1\n\nodd if data.orchestrator.capabilities.allow with input as {}\n"
        )
        (folder / "more.rego").write_text(more, encoding="utf-8")

        with pytest.raises(PolicyLoadError, match="`with`"):
            EmbeddedEnforcer(folder)

    @pytest.mark.parametrize(
        "source",
        [
            "package orchestrator.capabilities\n\nimport rego.v1\n\nallow if {",
            "this is not rego",
            "package orchestrator.capabilities\n\nimport rego.v1\n\nallow := 1\n",
            "package orchestrator.capabilities\n\nimport rego.v1\n\nallow if deny\n",
            "",
        ],
    )
    def test_is_not_loaded_with_a_policy_that_does_not_compile_or_answer(self, folder, source):
        (folder / "capabilities.rego").write_text(source, encoding="utf-8")

        with pytest.raises(PolicyLoadError, match="policy"):
            EmbeddedEnforcer(folder)

    def test_answers_two_threads_at_once(self, enforcer):
        # one interpreter in two threads ends the process; here each thread has its own
        wrong = []

        def ask(n):
            for i in range(150):
                required = "documents.read" if (i + n) % 2 else f"missing.n{n}i{i}"
                decision = enforcer.judge(question(required=(required,)))
                named = {reason.capability for reason in decision.reasons}
                if named != ({required} if required.startswith("missing") else set()):
                    wrong.append(decision)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    @pytest.mark.parametrize("value", ["x", 1, None, True, [], ["x"]])
    def test_denies_when_a_look_up_meets_something_that_is_not_an_object(self, enforcer, value):
        # engines differ here: one gives the default, another nothing
        document = question().document()
        document["context"]["capabilities"] = {"role_bindings": value, "tenant_role_bindings": value}

        assert enforcer.decide(policy.CAPABILITIES, document).reasons == ILL_FORMED

    def test_answers_the_largest_permitted_question_in_bounded_time(self, enforcer):
        many = tuple(f"capability.n{n}" for n in range(400))

        decision = enforcer.judge(question(required=many))

        assert len(decision.reasons) == 400
        assert decision.duration_us < 5_000_000


def _decide_in_child():
    return ENFORCER.judge(question()).effect, ENFORCER.judge(question(held=())).effect


class TestAPolicyFolder:
    def test_without_policies_is_refused(self, tmp_path):
        with pytest.raises(PolicyLoadError, match="no policy file"):
            EmbeddedEnforcer(tmp_path)

    def test_that_cannot_be_read_is_refused(self, folder):
        (folder / "capabilities.rego").write_bytes(b"\xff\xfe")

        with pytest.raises(PolicyLoadError, match="cannot be read"):
            EmbeddedEnforcer(folder)

    def test_without_a_table_is_refused(self, folder):
        shutil.rmtree(folder / "tests")

        with pytest.raises(PolicyLoadError, match="proves nothing"):
            EmbeddedEnforcer(folder)

    def test_whose_table_never_denies_is_refused(self, folder):
        rows = [row for row in ROWS if row["allow"]]
        (folder / "tests" / "capabilities.json").write_text(json.dumps(rows), encoding="utf-8")
        (folder / "tests" / "calls.json").unlink()

        with pytest.raises(PolicyLoadError, match="proves nothing"):
            EmbeddedEnforcer(folder)

    @pytest.mark.parametrize("table", ["", "{", "1", "[1]", '[{"name": "a"}]', "{}"])
    def test_with_an_unreadable_table_is_refused(self, folder, table):
        (folder / "tests" / "capabilities.json").write_text(table, encoding="utf-8")

        with pytest.raises(PolicyLoadError, match=r"table|proves nothing"):
            EmbeddedEnforcer(folder)

    def test_that_decides_a_row_otherwise_is_refused_by_the_row_s_name(self, folder):
        rows = [*ROWS, {"name": "the odd one", "input": ROWS[0]["input"], "allow": False, "deny": []}]
        (folder / "tests" / "capabilities.json").write_text(json.dumps(rows), encoding="utf-8")

        with pytest.raises(PolicyLoadError, match=r"'the odd one'.*allow instead of deny"):
            EmbeddedEnforcer(folder)

    def test_that_allows_everything_is_refused(self, folder):
        source = "package orchestrator.capabilities\n\nimport rego.v1\n\nallow := true\n\ndeny contains 1 if false\n"
        (folder / "capabilities.rego").write_text(source, encoding="utf-8")

        with pytest.raises(PolicyLoadError, match="otherwise than expected"):
            EmbeddedEnforcer(folder)

    def test_has_the_same_revision_wherever_it_lies(self, folder, enforcer):
        assert EmbeddedEnforcer(folder).revision == enforcer.revision

    def test_has_another_revision_when_one_letter_changes(self, folder, enforcer):
        with (folder / "capabilities.rego").open("a", encoding="utf-8") as file:
            file.write("# a remark\n")

        assert EmbeddedEnforcer(folder).revision != enforcer.revision

    def test_may_hold_tests_that_are_not_policy(self, folder, enforcer):
        (folder / "capabilities_test.rego").write_text("package x_test\n\nimport rego.v1\n", encoding="utf-8")

        assert EmbeddedEnforcer(folder).revision == enforcer.revision


class TestAReload:
    def test_takes_a_changed_policy_into_force(self, folder):
        enforcer = EmbeddedEnforcer(folder)
        before = enforcer.revision
        source = (folder / "capabilities.rego").read_text(encoding="utf-8")
        added = '\ndeny contains {"reason": "missing_capability", "capability": "any"} if input.action.server == "down"\n'
        (folder / "capabilities.rego").write_text(source + added, encoding="utf-8")

        assert enforcer.judge(question(server="down")).allow
        revision = enforcer.reload()

        assert revision == enforcer.revision != before
        assert not enforcer.judge(question(server="down")).allow
        assert enforcer.judge(question()).revision == revision

    @pytest.mark.parametrize("broken", ["syntax", "answer", "call", "gone", "row"])
    def test_keeps_the_old_policy_when_the_new_one_is_broken(self, folder, broken):
        enforcer = EmbeddedEnforcer(folder)
        before = enforcer.revision
        path = folder / "capabilities.rego"
        source = path.read_text(encoding="utf-8")
        match broken:
            case "syntax":
                path.write_text(source + "\nallow if {\n", encoding="utf-8")
            case "answer":
                path.write_text(source + "\nallow if true\n", encoding="utf-8")
            case "call":
                path.write_text(source + '\nodd if regex.match("a", "a")\n', encoding="utf-8")
            case "gone":
                path.unlink()
            case "row":
                (folder / "tests" / "more.json").write_text("[{}]", encoding="utf-8")

        with pytest.raises(PolicyLoadError) as refused:
            enforcer.reload()

        assert enforcer.last_error == str(refused.value)
        assert enforcer.revision == before
        assert enforcer.judge(question()).allow
        assert not enforcer.judge(question(held=())).allow

    def test_starts_the_age_of_the_policy_anew_and_forgets_the_last_error(self, folder):
        enforcer = EmbeddedEnforcer(folder)
        table = folder / "tests" / "more.json"
        table.write_text("[{}]", encoding="utf-8")
        with pytest.raises(PolicyLoadError):
            enforcer.reload()
        enforcer._loaded_at -= 3600
        assert enforcer.last_error
        assert enforcer.age_s >= 3600
        table.unlink()

        enforcer.reload()

        assert enforcer.last_error == ""
        assert 0 <= enforcer.age_s < 3600

    def test_does_not_disturb_decisions_in_other_threads(self, folder):
        enforcer = EmbeddedEnforcer(folder)
        done = threading.Event()
        seen: list[Decision] = []

        def ask():
            while not done.is_set():
                seen.append(enforcer.judge(question()))

        thread = threading.Thread(target=ask)
        thread.start()
        for _ in range(3):
            enforcer.reload()
        done.set()
        thread.join()
        assert seen
        assert all(decision.allow for decision in seen)


# --- properties -------------------------------------------------------------------------------------------------------

ENFORCER = EmbeddedEnforcer(POLICIES)
HELD = "documents.read"
DENIED = "secrets.manage"
ANY_TEXT = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [INJECTED, "", "*", "true", "null", '"', "\\", "\ud800", "data.x", "a" * 600, "any", HELD]
    ),
).filter(lambda text: text != DENIED)


def places(value, path=()):
    """Every path of a document at which text stands, as a value or as a key."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from places(item, (*path, at))


def changed(document, path, text, *, as_key):
    document = copy.deepcopy(document)
    at = document
    for part in path[:-1]:
        at = at[part]
    if as_key and isinstance(at, dict):
        at[text] = at.pop(path[-1])
    else:
        at[path[-1]] = text
    return document


FULL = question(
    required=(HELD, DENIED),
    approval_policy={HELD: "auto"},
    approvals={HELD: True},
    roles=("analyst",),
    role_bindings={"analyst": ["plan.read"]},
    tenant_role_bindings={"acme": {"analyst": ["chat.interact"]}},
).document()
# the required capability itself stays as it is: with another one it is another question
PLACES = [path for path in places(FULL) if path[:2] != ("action", "capabilities")]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), ANY_TEXT, st.booleans()), min_size=1, max_size=3))
def test_no_text_in_any_field_turns_a_denial_into_an_allowance(changes):
    document = FULL
    for path, text, as_key in changes:
        if path in set(places(document)):
            document = changed(document, path, text, as_key=as_key)

    decision = ENFORCER.decide(policy.CAPABILITIES, document)

    assert decision.effect == "deny"
    assert not decision.failed, decision.detail


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_a_required_capability_is_named_exactly_or_the_question_is_malformed(text):
    decision = ENFORCER.judge(question(required=(text,)))

    assert not decision.failed
    assert decision.allow is (text in {HELD, "model.invoke"})
    if not decision.allow and decision.reasons != ILL_FORMED:
        assert {reason.capability for reason in decision.reasons} == {text}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = [("subject", key) for key in FULL["subject"]] + [("action", key) for key in FULL["action"]]
KEYS += [("context", key) for key in FULL["context"]] + [(key,) for key in FULL]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KEYS), JSON)
def test_no_value_of_any_type_turns_a_denial_into_an_allowance(path, value):
    decision = ENFORCER.decide(policy.CAPABILITIES, changed(FULL, path, value, as_key=False))

    assert decision.effect == "deny" or path == ("action", "capabilities")
    assert not decision.failed, decision.detail


DENIED_FOR_A_REASON = [
    row for row in ROWS if row["deny"] and row["deny"][0]["capability"] != "input.well_formed"
]


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_leaving_out_a_key_never_turns_a_denial_into_an_allowance(path):
    for row in DENIED_FOR_A_REASON:
        document = copy.deepcopy(row["input"])
        at = document if len(path) == 1 else document[path[0]]
        at.pop(path[-1], None)

        assert not ENFORCER.decide(policy.CAPABILITIES, document).allow, row["name"]


CAPABILITIES = ["documents.read", "repo.write", "network.egress", "test.run"]
SOME = st.lists(st.sampled_from(CAPABILITIES), max_size=3)
BINDINGS = st.dictionaries(st.sampled_from(["a", "b"]), SOME, max_size=2)


@settings(max_examples=300, deadline=None)
@given(
    held=SOME,
    required=SOME.filter(bool),
    roles=st.lists(st.sampled_from(["a", "b"]), max_size=2),
    everywhere=BINDINGS,
    tenants=st.dictionaries(st.sampled_from(["acme", "globex"]), BINDINGS, max_size=2),
    handling=st.dictionaries(
        st.sampled_from(CAPABILITIES), st.sampled_from(["auto", "deny", "human_approval"])
    ),
    approvals=st.dictionaries(st.sampled_from(CAPABILITIES), st.booleans()),
    known=st.booleans(),
    mode=st.sampled_from(["any", "consumer", "enterprise"]),
)
def test_the_policy_says_what_its_description_says(
    held, required, roles, everywhere, tenants, handling, approvals, known, mode
):
    granted = set(held)
    for role in roles:
        granted |= {*everywhere.get(role, ()), *tenants.get("acme", {}).get(role, ())}
    objections = set()
    if not known:
        objections.add(Reason("agent_profile_missing"))
    if mode == "enterprise":
        objections.add(Reason("run_mode_mismatch"))
    for capability in required:
        handled = handling.get(capability, "auto")
        if capability not in granted or handled == "deny":
            objections.add(Reason("missing_capability", capability))
        elif (
            handled == "human_approval" or capability in {"repo.write", "network.egress"}
        ) and not approvals.get(capability):
            objections.add(Reason("approval_required", capability))

    decision = ENFORCER.judge(
        question(
            held=tuple(held),
            required=tuple(required),
            roles=tuple(roles),
            role_bindings=everywhere,
            tenant_role_bindings=tenants,
            approval_policy=handling,
            approvals=approvals,
            profile_known=known,
            required_run_mode=mode,
        ),
    )

    assert set(decision.reasons) == objections
    assert decision.allow is (not objections)


ROLES = ["viewer", "submitter", "approver", "operator", "tenant_admin", "auditor", "root"]
ACTIONS = ["plan.submit", "plan.read", "approval.decide", "key.manage", "audit.read", "plan.delete"]


@settings(max_examples=200, deadline=None)
@given(
    roles=st.lists(st.sampled_from(ROLES), max_size=3),
    action=st.sampled_from(ACTIONS),
    scopes=st.lists(st.sampled_from([*ACTIONS, "plan.*", "key.*", "*"]), max_size=3),
    of=st.sampled_from(["acme", "globex"]),
)
def test_scopes_narrow_what_roles_grant_and_never_widen_it(roles, action, scopes, of):
    subject = {"name": "ada", "tenant_id": "acme", "roles": roles}
    asked = {"subject": subject, "action": {"type": action, "tenant_id": of}, "context": {}}

    unlimited = ENFORCER.decide(policy.ACTIONS, asked)
    limited = ENFORCER.decide(policy.ACTIONS, asked | {"subject": subject | {"scopes": scopes}})

    covered = not {action, action.split(".")[0] + ".*", "*"}.isdisjoint(scopes)
    assert limited.allow is (unlimited.allow and covered)
    assert set(limited.reasons) >= set(unlimited.reasons)


ACTION = {
    "subject": {"name": "ada", "tenant_id": "acme", "roles": ["viewer"], "scopes": ["plan.*"]},
    "action": {"type": "plan.submit", "tenant_id": "acme"},
    "context": {"trace_id": "t"},
}
ACTION_PLACES = [(part, key) for part in ACTION for key in ACTION[part]] + [(part,) for part in ACTION]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ACTION_PLACES), JSON)
def test_no_value_of_any_type_lets_a_viewer_submit(path, value):
    decision = ENFORCER.decide(policy.ACTIONS, changed(ACTION, path, value, as_key=False))

    assert decision.effect == "deny"
    assert not decision.failed, decision.detail
