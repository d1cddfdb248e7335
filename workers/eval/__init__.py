"""Asks a set of questions of the real pipeline, and measures what came of it next to plain BM25 over the same passages.

    questions.jsonl ─ questions ─▶ gold ─ places in the corpus ─┐
    documents ──────── index ────▶ search ─▶ ranks ─────────────┼─▶ measures ─▶ table
                           ├─────▶ plain BM25 ─▶ ranks ─────────┤
                           └─────▶ lab: a plan for each ─▶ report, calls, cost ┘

The lab runs the minds, the loop, the gate, the policy and the tools that a fleet runs. Only what carries them differs:
a store in memory instead of Postgres, and no broker, so that a thousand plans take minutes.
"""
