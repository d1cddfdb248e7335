"""Plans, steps, the journal, evidence, people's decisions, and the audit."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE SEQUENCE worker_number AS integer CYCLE;

CREATE TABLE plan (
    plan_id         uuid        PRIMARY KEY,
    tenant          text        NOT NULL,
    goal            text        NOT NULL CHECK (goal <> '' AND octet_length(goal) <= 16384),
    depth           smallint    NOT NULL CHECK (depth BETWEEN 1 AND 5),
    state           text        NOT NULL CHECK (state IN ('queued', 'running', 'waiting_approval', 'succeeded',
                                                          'failed', 'dead_lettered', 'rejected', 'cancelled')),
    partial         boolean     NOT NULL DEFAULT false,
    reason          text,
    requester       text        NOT NULL,
    sources         jsonb       NOT NULL,
    metadata        jsonb       NOT NULL,
    priority        smallint    NOT NULL,
    idempotency_key text,
    fingerprint     text        NOT NULL,
    budget_steps    bigint      NOT NULL CHECK (budget_steps >= 8),
    budget_calls    bigint      NOT NULL CHECK (budget_calls >= 0),
    budget_tokens   bigint      NOT NULL CHECK (budget_tokens >= 0),
    budget_uusd     bigint      NOT NULL CHECK (budget_uusd >= 0),
    budget_s        bigint      NOT NULL CHECK (budget_s >= 1),
    spent_steps     bigint      NOT NULL DEFAULT 0,
    spent_calls     bigint      NOT NULL DEFAULT 0,
    spent_tokens    bigint      NOT NULL DEFAULT 0,
    spent_uusd      bigint      NOT NULL DEFAULT 0,
    step_count      integer     NOT NULL DEFAULT 0,
    event_count     integer     NOT NULL DEFAULT 0,
    audit_count     integer     NOT NULL DEFAULT 0,
    audit_head      bytea       NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL,
    deadline        timestamptz NOT NULL,
    finished_at     timestamptz,
    UNIQUE (tenant, idempotency_key),
    CONSTRAINT budget_of_steps_holds CHECK (spent_steps BETWEEN 0 AND budget_steps),
    CONSTRAINT budget_of_calls_holds CHECK (spent_calls BETWEEN 0 AND budget_calls),
    CONSTRAINT finished_when_it_ended CHECK (
        (finished_at IS NULL) = (state IN ('queued', 'running', 'waiting_approval')))
) WITH (fillfactor = 70);
CREATE INDEX plan_newest ON plan (tenant, created_at DESC);

CREATE TABLE step (
    plan_id      uuid        NOT NULL REFERENCES plan ON DELETE CASCADE,
    number       integer     NOT NULL CHECK (number > 0),
    agent        text        NOT NULL,
    phase        text        NOT NULL CHECK (phase IN ('observe', 'orient', 'decide', 'act')),
    state        text        NOT NULL CHECK (state IN ('pending', 'ready', 'running', 'waiting_approval', 'retrying',
                                                       'succeeded', 'failed', 'dead', 'rejected', 'cancelled',
                                                       'skipped')),
    round        integer     NOT NULL CHECK (round >= 0),
    brief        jsonb       NOT NULL,
    attempt      integer     NOT NULL DEFAULT 0,
    max_attempts integer     NOT NULL CHECK (max_attempts > 0),
    claim        integer     NOT NULL DEFAULT 0,
    holder       integer,
    leased_until timestamptz,
    run_after    timestamptz,
    offered_at   timestamptz NOT NULL,
    verdict      text,
    follow_ups   jsonb       NOT NULL DEFAULT '[]',
    result       jsonb       NOT NULL DEFAULT '{}',
    reason       text,
    settled      boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (plan_id, number),
    CONSTRAINT held_while_it_runs CHECK (
        (state = 'running') = (holder IS NOT NULL) AND (holder IS NULL) = (leased_until IS NULL)),
    CONSTRAINT attempts_are_counted CHECK (attempt BETWEEN 0 AND max_attempts AND claim >= attempt),
    CONSTRAINT due_while_it_waits CHECK (state <> 'retrying' OR run_after IS NOT NULL),
    CONSTRAINT a_verdict_when_it_succeeded CHECK ((state = 'succeeded') = (verdict IS NOT NULL)),
    CONSTRAINT settled_when_it_ended CHECK (NOT settled OR state IN ('succeeded', 'skipped'))
) WITH (fillfactor = 70);
CREATE INDEX step_running ON step (leased_until) WHERE state = 'running';
CREATE INDEX step_retrying ON step (run_after) WHERE state = 'retrying';
CREATE INDEX step_unheard ON step (offered_at)
    WHERE state = 'ready' OR (state IN ('succeeded', 'skipped') AND NOT settled);

CREATE TABLE call (
    ordinal        bigint      GENERATED ALWAYS AS IDENTITY,
    plan_id        uuid        NOT NULL,
    step           integer     NOT NULL,
    key            text        NOT NULL,
    occurrence     integer     NOT NULL CHECK (occurrence >= 0),
    tool           text        NOT NULL,
    semantics      text        NOT NULL CHECK (semantics IN ('idempotent', 'keyed', 'at_most_once')),
    state          text        NOT NULL CHECK (state IN ('intended', 'done', 'failed', 'unknown')),
    claim          integer     NOT NULL,
    arguments      jsonb       NOT NULL,
    result         jsonb,
    evidence       text,
    error          text,
    tokens         bigint      NOT NULL,
    cost_uusd      bigint      NOT NULL,
    repeat_allowed boolean     NOT NULL DEFAULT false,
    intended_at    timestamptz NOT NULL,
    finished_at    timestamptz,
    PRIMARY KEY (plan_id, step, key, occurrence),
    FOREIGN KEY (plan_id, step) REFERENCES step ON DELETE CASCADE,
    CONSTRAINT finished_when_known CHECK ((finished_at IS NULL) = (state = 'intended')),
    CONSTRAINT an_error_when_it_failed CHECK (state <> 'failed' OR error IS NOT NULL)
);

CREATE TABLE event (
    plan_id uuid        NOT NULL REFERENCES plan ON DELETE CASCADE,
    number  integer     NOT NULL CHECK (number > 0),
    at      timestamptz NOT NULL,
    kind    text        NOT NULL,
    body    jsonb       NOT NULL,
    PRIMARY KEY (plan_id, number)
);

CREATE TABLE evidence (
    tenant        text        NOT NULL,
    sha256        text        NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    text          text        NOT NULL,
    locator       text        NOT NULL,
    title         text        NOT NULL,
    media_type    text        NOT NULL,
    origin_sha256 text        NOT NULL,
    stored_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant, sha256)
);

CREATE TABLE fact (
    plan_id       uuid             NOT NULL,
    step          integer          NOT NULL,
    number        integer          NOT NULL CHECK (number > 0),
    tenant        text             NOT NULL,
    quote         text             NOT NULL CHECK (quote <> ''),
    evidence      text             NOT NULL,
    start_at      integer          NOT NULL CHECK (start_at >= 0),
    end_at        integer          NOT NULL,
    locator       text             NOT NULL,
    title         text             NOT NULL,
    heading       text[]           NOT NULL,
    origin_sha256 text             NOT NULL,
    question      text             NOT NULL,
    score         double precision NOT NULL,
    PRIMARY KEY (plan_id, step, number),
    FOREIGN KEY (plan_id, step) REFERENCES step ON DELETE CASCADE,
    FOREIGN KEY (tenant, evidence) REFERENCES evidence,
    CONSTRAINT a_span_is_as_long_as_its_quote CHECK (end_at - start_at = char_length(quote))
);

CREATE TABLE report (
    plan_id    uuid        PRIMARY KEY REFERENCES plan ON DELETE CASCADE,
    body       jsonb       NOT NULL,
    written_at timestamptz NOT NULL
);

CREATE TABLE approval (
    approval_id uuid        PRIMARY KEY,
    plan_id     uuid        NOT NULL,
    step        integer     NOT NULL,
    category    text        NOT NULL,
    roles       text[]      NOT NULL CHECK (cardinality(roles) > 0),
    question    text        NOT NULL,
    args_digest text        NOT NULL,
    requester   text        NOT NULL,
    state       text        NOT NULL CHECK (state IN ('pending', 'approved', 'rejected', 'expired', 'cancelled')),
    asked_at    timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    decided_at  timestamptz,
    decided_by  text,
    comment     text        NOT NULL DEFAULT '',
    FOREIGN KEY (plan_id, step) REFERENCES step ON DELETE CASCADE,
    CONSTRAINT decided_once CHECK ((state = 'pending') = (decided_at IS NULL)
                               AND (decided_at IS NULL) = (decided_by IS NULL)),
    CONSTRAINT never_by_the_requester CHECK (state IN ('expired', 'cancelled')
                                          OR decided_by IS DISTINCT FROM requester)
);
CREATE INDEX approval_pending ON approval (expires_at) WHERE state = 'pending';
CREATE INDEX approval_of_plan ON approval (plan_id);

CREATE TABLE dead_letter (
    letter_id uuid        PRIMARY KEY,
    plan_id   uuid        REFERENCES plan ON DELETE CASCADE,
    step      integer,
    reason    text        NOT NULL CHECK (reason <> ''),
    detail    text        NOT NULL,
    attempts  integer     NOT NULL,
    state     text        NOT NULL CHECK (state IN ('open', 'retried', 'discarded')),
    at        timestamptz NOT NULL,
    closed_at timestamptz,
    CONSTRAINT closed_when_not_open CHECK ((state = 'open') = (closed_at IS NULL))
);
CREATE INDEX dead_letter_newest ON dead_letter (at DESC);
CREATE INDEX dead_letter_of_plan ON dead_letter (plan_id);

CREATE TABLE audit (
    chain  uuid    NOT NULL,
    number integer NOT NULL CHECK (number > 0),
    kind   text    NOT NULL,
    body   bytea   NOT NULL,
    prev   bytea   NOT NULL,
    mac    bytea   NOT NULL,
    key_id text    NOT NULL,
    PRIMARY KEY (chain, number)
);

CREATE TABLE outbox (
    number  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic   text        NOT NULL CHECK (topic IN ('plan.steps', 'plan.completions', 'plan.dead')),
    plan_id uuid        NOT NULL,
    step    integer     NOT NULL,
    put_at  timestamptz NOT NULL
);

CREATE TABLE schedule (
    schedule_id uuid        PRIMARY KEY,
    tenant      text        NOT NULL,
    name        text        NOT NULL,
    cron        text        NOT NULL,
    timezone    text        NOT NULL DEFAULT 'UTC',
    request     jsonb       NOT NULL,
    misfire     text        NOT NULL DEFAULT 'once' CHECK (misfire IN ('skip', 'once', 'all')),
    overlap     text        NOT NULL DEFAULT 'skip' CHECK (overlap IN ('skip', 'queue', 'cancel')),
    paused      boolean     NOT NULL DEFAULT false,
    next_at     timestamptz,
    created_at  timestamptz NOT NULL,
    UNIQUE (tenant, name)
);
CREATE INDEX schedule_next ON schedule (next_at) WHERE NOT paused;

CREATE TABLE firing (
    schedule_id uuid        NOT NULL REFERENCES schedule ON DELETE CASCADE,
    due_at      timestamptz NOT NULL,
    fired_at    timestamptz NOT NULL,
    outcome     text        NOT NULL,
    plan_id     uuid        REFERENCES plan ON DELETE SET NULL,
    PRIMARY KEY (schedule_id, due_at)
);
"""


def upgrade() -> None:
    for statement in filter(str.strip, TABLES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Plans are never migrated away; restore a backup instead.")
