"""An audit that only grows, signed checkpoints of its chains, and a chain for each tenant."""

from alembic import op

revision = "0007"
down_revision = "0006"

CHANGES = """
CREATE TABLE ledger (
    chain uuid PRIMARY KEY,
    tenant text NOT NULL UNIQUE,
    count integer NOT NULL DEFAULT 0,
    head bytea NOT NULL DEFAULT ''
);

CREATE TABLE checkpoint (
    number integer PRIMARY KEY,
    at timestamptz NOT NULL,
    key_id text NOT NULL,
    line bytea NOT NULL
);

CREATE TABLE checkpointed (
    chain uuid PRIMARY KEY,
    number integer NOT NULL,
    count integer NOT NULL,
    head bytea NOT NULL,
    fold bytea NOT NULL
);

CREATE FUNCTION only_grows() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% of % is refused, since it only grows', TG_OP, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege'; END $$;

CREATE TRIGGER only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION only_grows();
ALTER TABLE audit ENABLE ALWAYS TRIGGER only_grows;

CREATE TRIGGER only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoint
    FOR EACH STATEMENT EXECUTE FUNCTION only_grows();
ALTER TABLE checkpoint ENABLE ALWAYS TRIGGER only_grows;
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Plans are never migrated away; restore a backup instead.")
