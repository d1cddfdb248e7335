"""The kill switch as rows: whose they are is their tenant's, and nobody's but the fleet's where that is empty.

A tenant may besides send again what its webhook was not told, and change nothing else of a notification.
"""

from alembic import op

revision = "0014"
down_revision = "0012"

OWN = "tenant = NULLIF(current_setting('app.tenant', true), '')"

CHANGES = (
    """
    CREATE TABLE stop (
        tenant text NOT NULL,
        target text NOT NULL CHECK (target ~ '^(all|(tenant|tool|agent|plan):[A-Za-z0-9 ._@+=-]{1,200})$'),
        reason text NOT NULL CHECK (reason <> ''),
        set_by text NOT NULL CHECK (set_by <> ''),
        set_at timestamptz NOT NULL,
        PRIMARY KEY (tenant, target)
    )
    """,
    "ALTER TABLE stop ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE stop FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY of_tenant ON stop TO orchestrator_tenant USING ({OWN}) WITH CHECK ({OWN})",
    "CREATE POLICY of_fleet ON stop TO orchestrator_fleet USING (true)",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON stop TO orchestrator_tenant",
    "GRANT UPDATE (state, attempts, due_at, ended_at) ON notification TO orchestrator_tenant",
)


def upgrade() -> None:
    for statement in CHANGES:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Plans are never migrated away; restore a backup instead.")
