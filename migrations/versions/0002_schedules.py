"""What a schedule remembers of its plans, and why a tick made none."""

from alembic import op

revision = "0002"
down_revision = "0001"

CHANGES = """
ALTER TABLE schedule ADD COLUMN last_plan_id uuid;

ALTER TABLE firing
    ADD COLUMN reason text,
    ADD COLUMN key text,
    ADD CONSTRAINT firing_outcome_check CHECK (outcome IN ('fired', 'queued', 'skipped_misfire', 'skipped_overlap',
                                                           'failed')),
    ADD CONSTRAINT a_plan_only_when_it_fired CHECK (plan_id IS NULL OR outcome = 'fired'),
    ADD CONSTRAINT a_reason_when_it_did_not_fire CHECK (reason IS NOT NULL OR outcome IN ('fired', 'queued')),
    ADD CONSTRAINT firing_schedule_id_key_key UNIQUE (schedule_id, key);
CREATE INDEX firing_queued ON firing (schedule_id, due_at) WHERE outcome = 'queued';
CREATE INDEX firing_of_plan ON firing (plan_id) WHERE plan_id IS NOT NULL;
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Plans are never migrated away; restore a backup instead.")
