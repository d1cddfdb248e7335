"""Writes what was measured as tables for people: what was found, what was answered, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from workers.eval.baseline import NAMES
from workers.eval.run import Results

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Column names and rows."""

_SYSTEMS: Final = {"search": "", "plan": "plan.", **{name: f"{name}." for name in NAMES}}
_CALLED: Final = {
    "search": "search (ours)",
    "plan": "plan (ours)",
    "bm25": "plain BM25",
    "bm25_headings": "BM25 with headings",
}
_ANSWERS: Final = (
    "contained", "citation_precision", "citation_recall", "unsupported", "abstention", "false_abstention",
    "stale_first", "drift", "sentences", "calls", "tokens", "cost_uusd", "ms",
)  # fmt: skip


def retrieval(results: Results) -> Table:
    """What each search found, for each group of questions, and its ratio to plain BM25."""
    rows = []
    for group, found in _each(results):
        for name, prefix in _SYSTEMS.items():
            if f"{prefix}recall@1" in found:
                rows.append([group, _CALLED[name], *_numbers(found, prefix), _ratio(found, prefix)])
                group = ""
    columns = [
        "questions", "", "span@1", "span@5", "span@10", "MRR", "document@1", "document@5", "MRR", "span@5 × BM25",
    ]  # fmt: skip
    return columns, rows


def answers(results: Results) -> Table:
    """What the reports came to, for each group of questions."""
    listed = list(_each(results))
    shown = [name for name in _ANSWERS if any(name in found for _, found in listed)]
    rows = [[group, *(_number(found.get(name)) for name in shown)] for group, found in listed]
    return ["questions", *(name.replace("_", " ") for name in shown)], rows if shown else []


def _each(results: Results) -> list[tuple[str, Mapping[str, float]]]:
    groups = results.groups()
    listed = list(groups.items()) if len(groups) > 1 else []
    named = [("all", results.all()), *listed]
    return [(f"{name} ({found['questions']:,.0f})", found) for name, found in named]


def _numbers(found: Mapping[str, float], prefix: str) -> list[str]:
    names = ("recall@1", "recall@5", "recall@10", "mrr", "doc_recall@1", "doc_recall@5", "doc_mrr")
    return [_number(found.get(f"{prefix}{name}")) for name in names]


def _ratio(found: Mapping[str, float], prefix: str) -> str:
    base, own = found.get("bm25.recall@5"), found.get(f"{prefix}recall@5")
    return f"{own / base:.2f}" if base and own is not None else ""


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"
