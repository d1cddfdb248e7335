"""Approvals by chains of people, each decision a row, and what is told outside about them."""

from alembic import op

revision = "0006"
down_revision = "0004"

CHANGES = """
ALTER TABLE approval
    ADD COLUMN chain jsonb,
    ADD COLUMN stage integer NOT NULL DEFAULT 1 CHECK (stage > 0),
    ADD COLUMN level integer NOT NULL DEFAULT 0 CHECK (level >= 0),
    ADD COLUMN version integer NOT NULL DEFAULT 0 CHECK (version >= 0),
    ADD COLUMN holds_until timestamptz,
    ADD CONSTRAINT holds_when_approved CHECK (holds_until IS NULL OR state = 'approved');

CREATE TABLE ruling (
    approval_id uuid        NOT NULL REFERENCES approval ON DELETE CASCADE,
    number      integer     NOT NULL CHECK (number > 0),
    person      text        NOT NULL,
    role        text        NOT NULL,
    stage       integer     NOT NULL CHECK (stage > 0),
    seat        integer     NOT NULL CHECK (seat > 0),
    decision    text        NOT NULL CHECK (decision IN ('approved', 'rejected')),
    comment     text        NOT NULL DEFAULT '',
    at          timestamptz NOT NULL,
    PRIMARY KEY (approval_id, number),
    CONSTRAINT nobody_decides_twice UNIQUE (approval_id, person),
    CONSTRAINT a_seat_is_filled_once UNIQUE (approval_id, stage, seat)
);

CREATE TABLE notification (
    notification_id uuid        PRIMARY KEY,
    approval_id     uuid        NOT NULL REFERENCES approval ON DELETE CASCADE,
    kind            text        NOT NULL CHECK (kind <> ''),
    body            jsonb       NOT NULL,
    state           text        NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'given_up')),
    attempts        integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    due_at          timestamptz NOT NULL,
    made_at         timestamptz NOT NULL,
    ended_at        timestamptz,
    error           text,
    CONSTRAINT ended_when_not_waiting CHECK ((state = 'waiting') = (ended_at IS NULL))
);
CREATE INDEX notification_waiting ON notification (due_at) WHERE state = 'waiting';
CREATE INDEX notification_of_approval ON notification (approval_id);
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Plans are never migrated away; restore a backup instead.")
