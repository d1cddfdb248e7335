"""The Celery app that Flower looks through: the fleet's broker and nothing to run.

    celery -A workers.flower_app flower --address=127.0.0.1

Flower sees the workers that were started with `--events`, and their messages: `args` names plan and step.
"""

from __future__ import annotations

from orchestrator import settings
from workers import celery_app

app = celery_app.make(settings.load().broker_url, {}, events=True)
