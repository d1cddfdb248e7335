"""Who may ask: API keys and sessions, of whose secrets only a keyed digest is kept."""

from alembic import op

revision = "0004"
down_revision = "0003"

CHANGES = """
CREATE TABLE api_key (
    key_id text PRIMARY KEY CHECK (key_id ~ '^[a-z0-9]{8}$'),
    tenant text NOT NULL,
    name text NOT NULL,
    roles text[] NOT NULL DEFAULT '{}',
    scopes text[] NOT NULL DEFAULT '{}',
    digest bytea NOT NULL CHECK (length(digest) = 32),
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    revoked_by text,
    last_used_at timestamptz,
    CONSTRAINT who_revoked_it CHECK ((revoked_at IS NULL) = (revoked_by IS NULL))
);
CREATE INDEX api_key_listed ON api_key (tenant, created_at);

CREATE TABLE session (
    session_id text PRIMARY KEY CHECK (session_id ~ '^[a-z0-9]{8}$'),
    key_id text REFERENCES api_key ON DELETE CASCADE,
    tenant text NOT NULL,
    name text NOT NULL,
    roles text[] NOT NULL DEFAULT '{}',
    scopes text[] NOT NULL DEFAULT '{}',
    digest bytea NOT NULL CHECK (length(digest) = 32),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz
);
CREATE INDEX session_expiry ON session (expires_at);
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Plans are never migrated away; restore a backup instead.")
