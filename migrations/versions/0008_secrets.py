"""Secrets: encrypted values by tenant, name and version, and the wrapped data keys that they are encrypted with."""

from alembic import op

revision = "0008"
down_revision = "0007"

CHANGES = """
CREATE TABLE data_key (
    tenant text PRIMARY KEY,
    wrapped bytea NOT NULL,
    master text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE secret (
    tenant text NOT NULL,
    name text NOT NULL,
    versions integer NOT NULL DEFAULT 0 CHECK (versions >= 0),
    PRIMARY KEY (tenant, name)
);

CREATE TABLE secret_version (
    tenant text NOT NULL,
    name text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    state text NOT NULL CHECK (state IN ('pending', 'current', 'previous')),
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    PRIMARY KEY (tenant, name, version),
    FOREIGN KEY (tenant, name) REFERENCES secret
);
CREATE UNIQUE INDEX secret_version_current ON secret_version (tenant, name) WHERE state = 'current';
CREATE UNIQUE INDEX secret_version_pending ON secret_version (tenant, name) WHERE state = 'pending';
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Secrets are never migrated away; restore a backup instead.")
