"""Ballots: one row for each round in which a plan's draft was criticised and judged, kept apart by tenant."""

from alembic import op

revision = "0011"
down_revision = "0009"

OF_PLAN = (
    "(SELECT p.tenant FROM plan AS p WHERE p.plan_id = ballot.plan_id)"
    " = NULLIF(current_setting('app.tenant', true), '')"
)

# no row says that a draft was accepted which the rules of its round do not accept
CHANGES = f"""
CREATE TABLE ballot (
    plan_id uuid NOT NULL REFERENCES plan,
    round integer NOT NULL CHECK (round BETWEEN 0 AND 32767),
    draft text NOT NULL,
    objections integer NOT NULL CHECK (objections >= 0),
    verdict text NOT NULL CHECK (verdict IN ('accept', 'revise', 'reject')),
    confidence double precision NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    threshold double precision NOT NULL CHECK (threshold BETWEEN 0.6 AND 0.95),
    decided text NOT NULL CHECK (decided IN ('accepted', 'revise', 'needs_review')),
    why text CHECK (why IN ('rejected', 'no_progress', 'rounds', 'budget')),
    generator integer NOT NULL,
    critic integer NOT NULL,
    judge integer NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (plan_id, round),
    CONSTRAINT accepted_by_the_rules
        CHECK (decided <> 'accepted' OR (verdict = 'accept' AND objections = 0 AND confidence >= threshold)),
    CONSTRAINT reason_if_it_needs_review CHECK ((decided = 'needs_review') = (why IS NOT NULL))
);
ALTER TABLE ballot ENABLE ROW LEVEL SECURITY;
ALTER TABLE ballot FORCE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON ballot TO orchestrator_tenant USING ({OF_PLAN});
CREATE POLICY of_fleet ON ballot TO orchestrator_fleet USING (true);
GRANT SELECT, INSERT ON ballot TO orchestrator_tenant;
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Plans are never migrated away; restore a backup instead.")
