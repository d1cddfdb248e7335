"""Stands where no model is configured: it says so, and says nothing else."""

from __future__ import annotations

from workers.toolhost.models.port import ABSENT, NOTHING, Answer, Asked, Failed


class Extractive:
    """No model: agents choose and quote by rules, and whoever asks all the same is told."""

    def complete(self, asked: Asked) -> Answer:  # noqa: ARG002 - nobody reads it
        """Raise `Failed`."""
        raise Failed(
            ABSENT,
            "There is no language model here; docs/how-to/language-model.md says how to name one.",
            NOTHING,
        )
