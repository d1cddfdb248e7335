"""Steps that are cheap to move: no index on what changes, results beside them, and an outbox that a crash may empty."""

from alembic import op

revision = "0003"
down_revision = "0002"

CHANGES = """
CREATE TABLE outcome (
    plan_id uuid NOT NULL,
    step integer NOT NULL,
    result jsonb NOT NULL,
    PRIMARY KEY (plan_id, step)
);
INSERT INTO outcome (plan_id, step, result) SELECT plan_id, number, result FROM step WHERE result <> '{}';
ALTER TABLE step DROP COLUMN result;
ALTER TABLE step SET (fillfactor = 50);
ALTER TABLE plan SET (fillfactor = 50);

DROP INDEX step_retrying;
DROP INDEX step_running;
DROP INDEX step_unheard;
CREATE INDEX plan_alive ON plan (tenant) WHERE finished_at IS NULL;

ALTER TABLE event DROP CONSTRAINT event_plan_id_fkey;

ALTER TABLE outbox
    ADD COLUMN tenant text NOT NULL DEFAULT '',
    ADD COLUMN priority smallint NOT NULL DEFAULT 0;
ALTER TABLE outbox SET UNLOGGED;
CREATE INDEX outbox_turn ON outbox (tenant, priority DESC, number) WHERE topic = 'plan.steps';

CREATE TABLE tenant (
    tenant text PRIMARY KEY,
    weight real NOT NULL DEFAULT 1 CHECK (weight > 0),
    max_running integer CHECK (max_running > 0),
    served double precision NOT NULL DEFAULT 0
);
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Plans are never migrated away; restore a backup instead.")
