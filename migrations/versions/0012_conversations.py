"""Conversations and their turns, which belong to one person of one tenant; they are forgotten as a whole."""

from alembic import op

revision = "0012"
down_revision = "0011"

TENANT = "NULLIF(current_setting('app.tenant', true), '')"
OWN = f"tenant = {TENANT}"

CHANGES = """
CREATE TABLE conversation (
    conversation_id uuid PRIMARY KEY,
    tenant text NOT NULL,
    owner text NOT NULL,
    created_at timestamptz NOT NULL,
    turns integer NOT NULL DEFAULT 0 CHECK (turns >= 0),
    last_plan_id uuid REFERENCES plan (plan_id)
);
CREATE INDEX conversation_newest ON conversation (tenant, owner, created_at DESC, conversation_id);

CREATE TABLE turn (
    conversation_id uuid NOT NULL REFERENCES conversation (conversation_id) ON DELETE CASCADE,
    number integer NOT NULL CHECK (number > 0),
    tenant text NOT NULL,
    owner text NOT NULL,
    role text NOT NULL CHECK (role IN ('user', 'assistant')),
    content text NOT NULL,
    route text CHECK (route IN ('casual', 'follow_up', 'revise', 'deeper', 'new_topic')),
    goal text NOT NULL DEFAULT '',
    plan_id uuid REFERENCES plan (plan_id),
    answer jsonb,
    idempotency_key text,
    fingerprint text NOT NULL DEFAULT '',
    at timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, number),
    CHECK ((role = 'assistant') = (route IS NOT NULL)),
    CHECK (role = 'assistant' OR (plan_id IS NULL AND answer IS NULL)),
    CHECK (role = 'user' OR plan_id IS NOT NULL OR answer IS NOT NULL)
);
CREATE UNIQUE INDEX turn_key ON turn (tenant, owner, idempotency_key) WHERE idempotency_key IS NOT NULL;
"""


def _of_plan(table: str, column: str) -> str:
    # foreign keys see every row, so a key must not lead to another tenant's
    found = f"(SELECT p.tenant FROM plan AS p WHERE p.plan_id = {table}.{column})"
    return f"({column} IS NULL OR {found} = {TENANT})"


IN_OWN = (
    f"(SELECT c.tenant FROM conversation AS c WHERE c.conversation_id = turn.conversation_id) = {TENANT}"
)

TABLES = (
    (
        "conversation",
        "SELECT, INSERT, UPDATE, DELETE",
        f"{OWN} AND {_of_plan('conversation', 'last_plan_id')}",
    ),
    # its turns go with a conversation, and never alone
    ("turn", "SELECT, INSERT, UPDATE", f"{OWN} AND {IN_OWN} AND {_of_plan('turn', 'plan_id')}"),
)


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)
    for table, privileges, writable in TABLES:
        for statement in (
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY of_tenant ON {table} TO orchestrator_tenant USING ({OWN}) WITH CHECK ({writable})",
            f"CREATE POLICY of_fleet ON {table} TO orchestrator_fleet USING (true)",
            f"GRANT {privileges} ON {table} TO orchestrator_tenant",
        ):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Conversations are never migrated away; restore a backup instead.")
