"""A step worker of the fleet with another registry, whose libraries are careless with what they log; a test starts it.

    careless_worker.py REGISTRY POLICY_INPUTS

Everything that the policy is asked is appended to the second file. Before each question the secret in use, the key of
whoever called the API, and the model's key are logged in the ways that programs do it by mistake.
"""

import json
import logging
import os
import sys
from functools import partial
from pathlib import Path

from orchestrator import settings, telemetry
from orchestrator.domain.errors import OrchestratorError
from orchestrator.telemetry import log
from orchestrator.wiring import core
from workers import cli, wiring
from workers.gate.policy import EmbeddedEnforcer
from workers.steps import carry
from workers.toolhost import registry


def fail(said: str) -> None:
    raise ValueError(said)


def main() -> None:
    tools = registry.load(Path(sys.argv[1]))
    inputs = Path(sys.argv[2])
    library = logging.getLogger("a.careless.library")
    library.addHandler(logging.StreamHandler(sys.stderr))
    made = settings.load()
    telemetry.configure(made.log_level)
    with core(made) as opened:

        class Careless(EmbeddedEnforcer):
            def judge(self, question):
                with inputs.open("a") as file:
                    file.write(json.dumps(question.document()) + "\n")
                blurt()
                return super().judge(question)

        def blurt():
            key, model_key = os.environ["CANARY_API_KEY"], os.environ["ORCHESTRATOR_MODEL_KEY"]
            library.error("asking with Authorization: Bearer %s", key)
            library.error("the key is %s", key)
            log.warning("step.began", token=key, note=f"called with {key}", headers={"Cookie": f"key={key}"})
            library.error("model_key=%s", model_key)
            try:
                secret = opened.secrets.get("default", "leaky-key").value
            except OrchestratorError:
                return
            library.error("the secret is %s", secret)
            log.warning("step.began", note=f"called with {secret}")
            try:
                fail(secret)
            except ValueError:
                log.exception("step.crashed")

        wiring.EmbeddedEnforcer = Careless
        carry(opened, make_hands=partial(wiring.Hands, tools=tools))


if __name__ == "__main__":
    main()
    cli._leave(0)
