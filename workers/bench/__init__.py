"""Measures what a step costs here, next to the least that any such system must do on the same machine, in the same run.

    embedded   no servers: conductor, relay, broker in memory and worker in one process, and a Postgres of its own
    w1         throughput, and processor time by kind of process: plans of eight steps that think nothing
    w2         recovery: how long nothing happens after every process, or one of two workers, was killed
    w3         submissions a second
    w4         how long one plan takes while nothing else happens

w1 to w4 run a fleet: processes of their own, on a Postgres and a RabbitMQ that must be empty. Compare ratios, not
seconds: machines differ, and are noisy.
"""

from __future__ import annotations

from typing import Final

STEPS: Final = 8
"""Steps of a plan that is measured: router, planner, one question, keeper, generator, critic, judge, synthesiser."""

RESULT_BYTES: Final = 1024
"""Size of each step's result."""
