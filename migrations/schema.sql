-- What the migrations make of an empty database. Written by `python scripts/schema.py --write`.

CREATE SEQUENCE worker_number AS integer START 1 INCREMENT 1 MINVALUE 1 MAXVALUE 2147483647 CYCLE;

CREATE TABLE api_key (
    key_id text NOT NULL,
    tenant text NOT NULL,
    name text NOT NULL,
    roles text[] NOT NULL DEFAULT '{}'::text[],
    scopes text[] NOT NULL DEFAULT '{}'::text[],
    digest bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    created_by text NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    revoked_by text,
    last_used_at timestamp with time zone,
    CONSTRAINT api_key_pkey PRIMARY KEY (key_id),
    CONSTRAINT api_key_digest_check CHECK ((length(digest) = 32)),
    CONSTRAINT api_key_key_id_check CHECK ((key_id ~ '^[a-z0-9]{8}$'::text)),
    CONSTRAINT who_revoked_it CHECK (((revoked_at IS NULL) = (revoked_by IS NULL)))
);
CREATE INDEX api_key_listed ON public.api_key USING btree (tenant, created_at);

CREATE TABLE approval (
    approval_id uuid NOT NULL,
    plan_id uuid NOT NULL,
    step integer NOT NULL,
    category text NOT NULL,
    roles text[] NOT NULL,
    question text NOT NULL,
    args_digest text NOT NULL,
    requester text NOT NULL,
    state text NOT NULL,
    asked_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    decided_by text,
    comment text NOT NULL DEFAULT ''::text,
    chain jsonb,
    stage integer NOT NULL DEFAULT 1,
    level integer NOT NULL DEFAULT 0,
    version integer NOT NULL DEFAULT 0,
    holds_until timestamp with time zone,
    CONSTRAINT approval_pkey PRIMARY KEY (approval_id),
    CONSTRAINT approval_plan_id_step_fkey FOREIGN KEY (plan_id, step) REFERENCES step(plan_id, number) ON DELETE CASCADE,
    CONSTRAINT approval_level_check CHECK ((level >= 0)),
    CONSTRAINT approval_roles_check CHECK ((cardinality(roles) > 0)),
    CONSTRAINT approval_stage_check CHECK ((stage > 0)),
    CONSTRAINT approval_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'approved'::text, 'rejected'::text, 'expired'::text, 'cancelled'::text]))),
    CONSTRAINT approval_version_check CHECK ((version >= 0)),
    CONSTRAINT decided_once CHECK ((((state = 'pending'::text) = (decided_at IS NULL)) AND ((decided_at IS NULL) = (decided_by IS NULL)))),
    CONSTRAINT holds_when_approved CHECK (((holds_until IS NULL) OR (state = 'approved'::text))),
    CONSTRAINT never_by_the_requester CHECK (((state = ANY (ARRAY['expired'::text, 'cancelled'::text])) OR (decided_by IS DISTINCT FROM requester)))
);
CREATE INDEX approval_of_plan ON public.approval USING btree (plan_id);
CREATE INDEX approval_pending ON public.approval USING btree (expires_at) WHERE (state = 'pending'::text);
ALTER TABLE approval ENABLE ROW LEVEL SECURITY;
ALTER TABLE approval FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON approval TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON approval TO orchestrator_tenant
    USING ((( SELECT p.tenant FROM plan p WHERE (p.plan_id = approval.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT, UPDATE ON approval TO orchestrator_tenant;

CREATE TABLE audit (
    chain uuid NOT NULL,
    number integer NOT NULL,
    kind text NOT NULL,
    body bytea NOT NULL,
    prev bytea NOT NULL,
    mac bytea NOT NULL,
    key_id text NOT NULL,
    CONSTRAINT audit_pkey PRIMARY KEY (chain, number),
    CONSTRAINT audit_number_check CHECK ((number > 0))
);
CREATE TRIGGER only_grows BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit FOR EACH STATEMENT EXECUTE FUNCTION only_grows(); -- always
ALTER TABLE audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON audit TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON audit TO orchestrator_tenant
    USING (((( SELECT p.tenant FROM plan p WHERE (p.plan_id = audit.chain)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)) OR (( SELECT l.tenant FROM ledger l WHERE (l.chain = audit.chain)) = NULLIF(current_setting('app.tenant'::text, true), ''::text))));
GRANT INSERT, SELECT ON audit TO orchestrator_tenant;

CREATE TABLE ballot (
    plan_id uuid NOT NULL,
    round integer NOT NULL,
    draft text NOT NULL,
    objections integer NOT NULL,
    verdict text NOT NULL,
    confidence double precision NOT NULL,
    threshold double precision NOT NULL,
    decided text NOT NULL,
    why text,
    generator integer NOT NULL,
    critic integer NOT NULL,
    judge integer NOT NULL,
    at timestamp with time zone NOT NULL,
    CONSTRAINT ballot_pkey PRIMARY KEY (plan_id, round),
    CONSTRAINT ballot_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES plan(plan_id),
    CONSTRAINT accepted_by_the_rules CHECK (((decided <> 'accepted'::text) OR ((verdict = 'accept'::text) AND (objections = 0) AND (confidence >= threshold)))),
    CONSTRAINT ballot_confidence_check CHECK (((confidence >= (0)::double precision) AND (confidence <= (1)::double precision))),
    CONSTRAINT ballot_decided_check CHECK ((decided = ANY (ARRAY['accepted'::text, 'revise'::text, 'needs_review'::text]))),
    CONSTRAINT ballot_objections_check CHECK ((objections >= 0)),
    CONSTRAINT ballot_round_check CHECK (((round >= 0) AND (round <= 32767))),
    CONSTRAINT ballot_threshold_check CHECK (((threshold >= (0.6)::double precision) AND (threshold <= (0.95)::double precision))),
    CONSTRAINT ballot_verdict_check CHECK ((verdict = ANY (ARRAY['accept'::text, 'revise'::text, 'reject'::text]))),
    CONSTRAINT ballot_why_check CHECK ((why = ANY (ARRAY['rejected'::text, 'no_progress'::text, 'rounds'::text, 'budget'::text]))),
    CONSTRAINT reason_if_it_needs_review CHECK (((decided = 'needs_review'::text) = (why IS NOT NULL)))
);
ALTER TABLE ballot ENABLE ROW LEVEL SECURITY;
ALTER TABLE ballot FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON ballot TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON ballot TO orchestrator_tenant
    USING ((( SELECT p.tenant FROM plan p WHERE (p.plan_id = ballot.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT ON ballot TO orchestrator_tenant;

CREATE TABLE call (
    ordinal bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    plan_id uuid NOT NULL,
    step integer NOT NULL,
    key text NOT NULL,
    occurrence integer NOT NULL,
    tool text NOT NULL,
    semantics text NOT NULL,
    state text NOT NULL,
    claim integer NOT NULL,
    arguments jsonb NOT NULL,
    result jsonb,
    evidence text,
    error text,
    tokens bigint NOT NULL,
    cost_uusd bigint NOT NULL,
    repeat_allowed boolean NOT NULL DEFAULT false,
    intended_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT call_pkey PRIMARY KEY (plan_id, step, key, occurrence),
    CONSTRAINT call_plan_id_step_fkey FOREIGN KEY (plan_id, step) REFERENCES step(plan_id, number) ON DELETE CASCADE,
    CONSTRAINT an_error_when_it_failed CHECK (((state <> 'failed'::text) OR (error IS NOT NULL))),
    CONSTRAINT call_occurrence_check CHECK ((occurrence >= 0)),
    CONSTRAINT call_semantics_check CHECK ((semantics = ANY (ARRAY['idempotent'::text, 'keyed'::text, 'at_most_once'::text]))),
    CONSTRAINT call_state_check CHECK ((state = ANY (ARRAY['intended'::text, 'done'::text, 'failed'::text, 'unknown'::text]))),
    CONSTRAINT finished_when_known CHECK (((finished_at IS NULL) = (state = 'intended'::text)))
);
ALTER TABLE call ENABLE ROW LEVEL SECURITY;
ALTER TABLE call FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON call TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON call TO orchestrator_tenant
    USING ((( SELECT p.tenant FROM plan p WHERE (p.plan_id = call.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT, UPDATE ON call TO orchestrator_tenant;

CREATE TABLE checkpoint (
    number integer NOT NULL,
    at timestamp with time zone NOT NULL,
    key_id text NOT NULL,
    line bytea NOT NULL,
    CONSTRAINT checkpoint_pkey PRIMARY KEY (number)
);
CREATE TRIGGER only_grows BEFORE DELETE OR UPDATE OR TRUNCATE ON public.checkpoint FOR EACH STATEMENT EXECUTE FUNCTION only_grows(); -- always

CREATE TABLE checkpointed (
    chain uuid NOT NULL,
    number integer NOT NULL,
    count integer NOT NULL,
    head bytea NOT NULL,
    fold bytea NOT NULL,
    CONSTRAINT checkpointed_pkey PRIMARY KEY (chain)
);

CREATE TABLE conversation (
    conversation_id uuid NOT NULL,
    tenant text NOT NULL,
    owner text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    turns integer NOT NULL DEFAULT 0,
    last_plan_id uuid,
    CONSTRAINT conversation_pkey PRIMARY KEY (conversation_id),
    CONSTRAINT conversation_last_plan_id_fkey FOREIGN KEY (last_plan_id) REFERENCES plan(plan_id),
    CONSTRAINT conversation_turns_check CHECK ((turns >= 0))
);
CREATE INDEX conversation_newest ON public.conversation USING btree (tenant, owner, created_at DESC, conversation_id);
ALTER TABLE conversation ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversation FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON conversation TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON conversation TO orchestrator_tenant
    USING ((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)))
    WITH CHECK (((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)) AND ((last_plan_id IS NULL) OR (( SELECT p.tenant FROM plan p WHERE (p.plan_id = conversation.last_plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)))));
GRANT DELETE, INSERT, SELECT, UPDATE ON conversation TO orchestrator_tenant;

CREATE TABLE data_key (
    tenant text NOT NULL,
    wrapped bytea NOT NULL,
    master text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT data_key_pkey PRIMARY KEY (tenant)
);

CREATE TABLE dead_letter (
    letter_id uuid NOT NULL,
    plan_id uuid,
    step integer,
    reason text NOT NULL,
    detail text NOT NULL,
    attempts integer NOT NULL,
    state text NOT NULL,
    at timestamp with time zone NOT NULL,
    closed_at timestamp with time zone,
    CONSTRAINT dead_letter_pkey PRIMARY KEY (letter_id),
    CONSTRAINT dead_letter_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES plan(plan_id) ON DELETE CASCADE,
    CONSTRAINT closed_when_not_open CHECK (((state = 'open'::text) = (closed_at IS NULL))),
    CONSTRAINT dead_letter_reason_check CHECK ((reason <> ''::text)),
    CONSTRAINT dead_letter_state_check CHECK ((state = ANY (ARRAY['open'::text, 'retried'::text, 'discarded'::text])))
);
CREATE INDEX dead_letter_newest ON public.dead_letter USING btree (at DESC);
CREATE INDEX dead_letter_of_plan ON public.dead_letter USING btree (plan_id);
ALTER TABLE dead_letter ENABLE ROW LEVEL SECURITY;
ALTER TABLE dead_letter FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON dead_letter TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON dead_letter TO orchestrator_tenant
    USING ((( SELECT p.tenant FROM plan p WHERE (p.plan_id = dead_letter.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT, UPDATE ON dead_letter TO orchestrator_tenant;

CREATE TABLE event (
    plan_id uuid NOT NULL,
    number integer NOT NULL,
    at timestamp with time zone NOT NULL,
    kind text NOT NULL,
    body jsonb NOT NULL,
    CONSTRAINT event_pkey PRIMARY KEY (plan_id, number),
    CONSTRAINT event_number_check CHECK ((number > 0))
);
ALTER TABLE event ENABLE ROW LEVEL SECURITY;
ALTER TABLE event FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON event TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON event TO orchestrator_tenant
    USING ((( SELECT p.tenant FROM plan p WHERE (p.plan_id = event.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT ON event TO orchestrator_tenant;

CREATE TABLE evidence (
    tenant text NOT NULL,
    sha256 text NOT NULL,
    text text NOT NULL,
    locator text NOT NULL,
    title text NOT NULL,
    media_type text NOT NULL,
    origin_sha256 text NOT NULL,
    stored_at timestamp with time zone NOT NULL,
    CONSTRAINT evidence_pkey PRIMARY KEY (tenant, sha256),
    CONSTRAINT evidence_sha256_check CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text))
);
ALTER TABLE evidence ENABLE ROW LEVEL SECURITY;
ALTER TABLE evidence FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON evidence TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON evidence TO orchestrator_tenant
    USING ((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT ON evidence TO orchestrator_tenant;

CREATE TABLE fact (
    plan_id uuid NOT NULL,
    step integer NOT NULL,
    number integer NOT NULL,
    tenant text NOT NULL,
    quote text NOT NULL,
    evidence text NOT NULL,
    start_at integer NOT NULL,
    end_at integer NOT NULL,
    locator text NOT NULL,
    title text NOT NULL,
    heading text[] NOT NULL,
    origin_sha256 text NOT NULL,
    question text NOT NULL,
    score double precision NOT NULL,
    CONSTRAINT fact_pkey PRIMARY KEY (plan_id, step, number),
    CONSTRAINT fact_plan_id_step_fkey FOREIGN KEY (plan_id, step) REFERENCES step(plan_id, number) ON DELETE CASCADE,
    CONSTRAINT fact_tenant_evidence_fkey FOREIGN KEY (tenant, evidence) REFERENCES evidence(tenant, sha256),
    CONSTRAINT a_span_is_as_long_as_its_quote CHECK (((end_at - start_at) = char_length(quote))),
    CONSTRAINT fact_number_check CHECK ((number > 0)),
    CONSTRAINT fact_quote_check CHECK ((quote <> ''::text)),
    CONSTRAINT fact_start_at_check CHECK ((start_at >= 0))
);
ALTER TABLE fact ENABLE ROW LEVEL SECURITY;
ALTER TABLE fact FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON fact TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON fact TO orchestrator_tenant
    USING ((( SELECT p.tenant FROM plan p WHERE (p.plan_id = fact.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)))
    WITH CHECK (((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)) AND (( SELECT p.tenant FROM plan p WHERE (p.plan_id = fact.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text))));
GRANT INSERT, SELECT ON fact TO orchestrator_tenant;

CREATE TABLE firing (
    schedule_id uuid NOT NULL,
    due_at timestamp with time zone NOT NULL,
    fired_at timestamp with time zone NOT NULL,
    outcome text NOT NULL,
    plan_id uuid,
    reason text,
    key text,
    CONSTRAINT firing_pkey PRIMARY KEY (schedule_id, due_at),
    CONSTRAINT firing_schedule_id_key_key UNIQUE (schedule_id, key),
    CONSTRAINT firing_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES plan(plan_id) ON DELETE SET NULL,
    CONSTRAINT firing_schedule_id_fkey FOREIGN KEY (schedule_id) REFERENCES schedule(schedule_id) ON DELETE CASCADE,
    CONSTRAINT a_plan_only_when_it_fired CHECK (((plan_id IS NULL) OR (outcome = 'fired'::text))),
    CONSTRAINT a_reason_when_it_did_not_fire CHECK (((reason IS NOT NULL) OR (outcome = ANY (ARRAY['fired'::text, 'queued'::text])))),
    CONSTRAINT firing_outcome_check CHECK ((outcome = ANY (ARRAY['fired'::text, 'queued'::text, 'skipped_misfire'::text, 'skipped_overlap'::text, 'failed'::text])))
);
CREATE INDEX firing_of_plan ON public.firing USING btree (plan_id) WHERE (plan_id IS NOT NULL);
CREATE INDEX firing_queued ON public.firing USING btree (schedule_id, due_at) WHERE (outcome = 'queued'::text);
ALTER TABLE firing ENABLE ROW LEVEL SECURITY;
ALTER TABLE firing FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON firing TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON firing TO orchestrator_tenant
    USING ((( SELECT s.tenant FROM schedule s WHERE (s.schedule_id = firing.schedule_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)))
    WITH CHECK (((( SELECT s.tenant FROM schedule s WHERE (s.schedule_id = firing.schedule_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)) AND ((plan_id IS NULL) OR (( SELECT p.tenant FROM plan p WHERE (p.plan_id = firing.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)))));
GRANT INSERT, SELECT, UPDATE ON firing TO orchestrator_tenant;

CREATE TABLE ledger (
    chain uuid NOT NULL,
    tenant text NOT NULL,
    count integer NOT NULL DEFAULT 0,
    head bytea NOT NULL DEFAULT '\x'::bytea,
    CONSTRAINT ledger_pkey PRIMARY KEY (chain),
    CONSTRAINT ledger_tenant_key UNIQUE (tenant)
);
ALTER TABLE ledger ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON ledger TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON ledger TO orchestrator_tenant
    USING ((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT, UPDATE ON ledger TO orchestrator_tenant;

CREATE TABLE notification (
    notification_id uuid NOT NULL,
    approval_id uuid NOT NULL,
    kind text NOT NULL,
    body jsonb NOT NULL,
    state text NOT NULL DEFAULT 'waiting'::text,
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamp with time zone NOT NULL,
    made_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    error text,
    CONSTRAINT notification_pkey PRIMARY KEY (notification_id),
    CONSTRAINT notification_approval_id_fkey FOREIGN KEY (approval_id) REFERENCES approval(approval_id) ON DELETE CASCADE,
    CONSTRAINT ended_when_not_waiting CHECK (((state = 'waiting'::text) = (ended_at IS NULL))),
    CONSTRAINT notification_attempts_check CHECK ((attempts >= 0)),
    CONSTRAINT notification_kind_check CHECK ((kind <> ''::text)),
    CONSTRAINT notification_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'delivered'::text, 'given_up'::text])))
);
CREATE INDEX notification_of_approval ON public.notification USING btree (approval_id);
CREATE INDEX notification_waiting ON public.notification USING btree (due_at) WHERE (state = 'waiting'::text);
ALTER TABLE notification ENABLE ROW LEVEL SECURITY;
ALTER TABLE notification FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON notification TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON notification TO orchestrator_tenant
    USING ((( SELECT p.tenant FROM (approval a JOIN plan p ON ((p.plan_id = a.plan_id))) WHERE (a.approval_id = notification.approval_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT ON notification TO orchestrator_tenant;

CREATE TABLE outbox (
    number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    topic text NOT NULL,
    plan_id uuid NOT NULL,
    step integer NOT NULL,
    put_at timestamp with time zone NOT NULL,
    tenant text NOT NULL DEFAULT ''::text,
    priority smallint NOT NULL DEFAULT 0,
    CONSTRAINT outbox_pkey PRIMARY KEY (number),
    CONSTRAINT outbox_topic_check CHECK ((topic = ANY (ARRAY['plan.steps'::text, 'plan.completions'::text, 'plan.dead'::text])))
);
CREATE INDEX outbox_turn ON public.outbox USING btree (tenant, priority DESC, number) WHERE (topic = 'plan.steps'::text);
ALTER TABLE outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON outbox TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON outbox TO orchestrator_tenant
    USING (false)
    WITH CHECK ((((tenant = ''::text) OR (tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text))) AND (( SELECT p.tenant FROM plan p WHERE (p.plan_id = outbox.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text))));
GRANT INSERT ON outbox TO orchestrator_tenant;

CREATE TABLE outcome (
    plan_id uuid NOT NULL,
    step integer NOT NULL,
    result jsonb NOT NULL,
    CONSTRAINT outcome_pkey PRIMARY KEY (plan_id, step)
);
ALTER TABLE outcome ENABLE ROW LEVEL SECURITY;
ALTER TABLE outcome FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON outcome TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON outcome TO orchestrator_tenant
    USING ((( SELECT p.tenant FROM plan p WHERE (p.plan_id = outcome.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT ON outcome TO orchestrator_tenant;

CREATE TABLE plan (
    plan_id uuid NOT NULL,
    tenant text NOT NULL,
    goal text NOT NULL,
    depth smallint NOT NULL,
    state text NOT NULL,
    partial boolean NOT NULL DEFAULT false,
    reason text,
    requester text NOT NULL,
    sources jsonb NOT NULL,
    metadata jsonb NOT NULL,
    priority smallint NOT NULL,
    idempotency_key text,
    fingerprint text NOT NULL,
    budget_steps bigint NOT NULL,
    budget_calls bigint NOT NULL,
    budget_tokens bigint NOT NULL,
    budget_uusd bigint NOT NULL,
    budget_s bigint NOT NULL,
    spent_steps bigint NOT NULL DEFAULT 0,
    spent_calls bigint NOT NULL DEFAULT 0,
    spent_tokens bigint NOT NULL DEFAULT 0,
    spent_uusd bigint NOT NULL DEFAULT 0,
    step_count integer NOT NULL DEFAULT 0,
    event_count integer NOT NULL DEFAULT 0,
    audit_count integer NOT NULL DEFAULT 0,
    audit_head bytea NOT NULL DEFAULT '\x'::bytea,
    created_at timestamp with time zone NOT NULL,
    deadline timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT plan_pkey PRIMARY KEY (plan_id),
    CONSTRAINT plan_tenant_idempotency_key_key UNIQUE (tenant, idempotency_key),
    CONSTRAINT budget_of_calls_holds CHECK (((spent_calls >= 0) AND (spent_calls <= budget_calls))),
    CONSTRAINT budget_of_steps_holds CHECK (((spent_steps >= 0) AND (spent_steps <= budget_steps))),
    CONSTRAINT finished_when_it_ended CHECK (((finished_at IS NULL) = (state = ANY (ARRAY['queued'::text, 'running'::text, 'waiting_approval'::text])))),
    CONSTRAINT plan_budget_calls_check CHECK ((budget_calls >= 0)),
    CONSTRAINT plan_budget_s_check CHECK ((budget_s >= 1)),
    CONSTRAINT plan_budget_steps_check CHECK ((budget_steps >= 8)),
    CONSTRAINT plan_budget_tokens_check CHECK ((budget_tokens >= 0)),
    CONSTRAINT plan_budget_uusd_check CHECK ((budget_uusd >= 0)),
    CONSTRAINT plan_depth_check CHECK (((depth >= 1) AND (depth <= 5))),
    CONSTRAINT plan_goal_check CHECK (((goal <> ''::text) AND (octet_length(goal) <= 16384))),
    CONSTRAINT plan_state_check CHECK ((state = ANY (ARRAY['queued'::text, 'running'::text, 'waiting_approval'::text, 'succeeded'::text, 'failed'::text, 'dead_lettered'::text, 'rejected'::text, 'cancelled'::text])))
) WITH (fillfactor=50);
CREATE INDEX plan_alive ON public.plan USING btree (tenant) WHERE (finished_at IS NULL);
CREATE INDEX plan_newest ON public.plan USING btree (tenant, created_at DESC);
ALTER TABLE plan ENABLE ROW LEVEL SECURITY;
ALTER TABLE plan FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON plan TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON plan TO orchestrator_tenant
    USING ((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT, UPDATE ON plan TO orchestrator_tenant;

CREATE TABLE report (
    plan_id uuid NOT NULL,
    body jsonb NOT NULL,
    written_at timestamp with time zone NOT NULL,
    CONSTRAINT report_pkey PRIMARY KEY (plan_id),
    CONSTRAINT report_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES plan(plan_id) ON DELETE CASCADE
);
ALTER TABLE report ENABLE ROW LEVEL SECURITY;
ALTER TABLE report FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON report TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON report TO orchestrator_tenant
    USING ((( SELECT p.tenant FROM plan p WHERE (p.plan_id = report.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT SELECT ON report TO orchestrator_tenant;

CREATE TABLE ruling (
    approval_id uuid NOT NULL,
    number integer NOT NULL,
    person text NOT NULL,
    role text NOT NULL,
    stage integer NOT NULL,
    seat integer NOT NULL,
    decision text NOT NULL,
    comment text NOT NULL DEFAULT ''::text,
    at timestamp with time zone NOT NULL,
    CONSTRAINT ruling_pkey PRIMARY KEY (approval_id, number),
    CONSTRAINT a_seat_is_filled_once UNIQUE (approval_id, stage, seat),
    CONSTRAINT nobody_decides_twice UNIQUE (approval_id, person),
    CONSTRAINT ruling_approval_id_fkey FOREIGN KEY (approval_id) REFERENCES approval(approval_id) ON DELETE CASCADE,
    CONSTRAINT ruling_decision_check CHECK ((decision = ANY (ARRAY['approved'::text, 'rejected'::text]))),
    CONSTRAINT ruling_number_check CHECK ((number > 0)),
    CONSTRAINT ruling_seat_check CHECK ((seat > 0)),
    CONSTRAINT ruling_stage_check CHECK ((stage > 0))
);
ALTER TABLE ruling ENABLE ROW LEVEL SECURITY;
ALTER TABLE ruling FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON ruling TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON ruling TO orchestrator_tenant
    USING ((( SELECT p.tenant FROM (approval a JOIN plan p ON ((p.plan_id = a.plan_id))) WHERE (a.approval_id = ruling.approval_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT ON ruling TO orchestrator_tenant;

CREATE TABLE schedule (
    schedule_id uuid NOT NULL,
    tenant text NOT NULL,
    name text NOT NULL,
    cron text NOT NULL,
    timezone text NOT NULL DEFAULT 'UTC'::text,
    request jsonb NOT NULL,
    misfire text NOT NULL DEFAULT 'once'::text,
    overlap text NOT NULL DEFAULT 'skip'::text,
    paused boolean NOT NULL DEFAULT false,
    next_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    last_plan_id uuid,
    CONSTRAINT schedule_pkey PRIMARY KEY (schedule_id),
    CONSTRAINT schedule_tenant_name_key UNIQUE (tenant, name),
    CONSTRAINT schedule_misfire_check CHECK ((misfire = ANY (ARRAY['skip'::text, 'once'::text, 'all'::text]))),
    CONSTRAINT schedule_overlap_check CHECK ((overlap = ANY (ARRAY['skip'::text, 'queue'::text, 'cancel'::text])))
);
CREATE INDEX schedule_next ON public.schedule USING btree (next_at) WHERE (NOT paused);
ALTER TABLE schedule ENABLE ROW LEVEL SECURITY;
ALTER TABLE schedule FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON schedule TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON schedule TO orchestrator_tenant
    USING ((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT DELETE, INSERT, SELECT, UPDATE ON schedule TO orchestrator_tenant;

CREATE TABLE secret (
    tenant text NOT NULL,
    name text NOT NULL,
    versions integer NOT NULL DEFAULT 0,
    CONSTRAINT secret_pkey PRIMARY KEY (tenant, name),
    CONSTRAINT secret_versions_check CHECK ((versions >= 0))
);

CREATE TABLE secret_version (
    tenant text NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    state text NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    created_by text NOT NULL,
    CONSTRAINT secret_version_pkey PRIMARY KEY (tenant, name, version),
    CONSTRAINT secret_version_tenant_name_fkey FOREIGN KEY (tenant, name) REFERENCES secret(tenant, name),
    CONSTRAINT secret_version_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'current'::text, 'previous'::text]))),
    CONSTRAINT secret_version_version_check CHECK ((version > 0))
);
CREATE UNIQUE INDEX secret_version_current ON public.secret_version USING btree (tenant, name) WHERE (state = 'current'::text);
CREATE UNIQUE INDEX secret_version_pending ON public.secret_version USING btree (tenant, name) WHERE (state = 'pending'::text);

CREATE TABLE session (
    session_id text NOT NULL,
    key_id text,
    tenant text NOT NULL,
    name text NOT NULL,
    roles text[] NOT NULL DEFAULT '{}'::text[],
    scopes text[] NOT NULL DEFAULT '{}'::text[],
    digest bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT session_pkey PRIMARY KEY (session_id),
    CONSTRAINT session_key_id_fkey FOREIGN KEY (key_id) REFERENCES api_key(key_id) ON DELETE CASCADE,
    CONSTRAINT session_digest_check CHECK ((length(digest) = 32)),
    CONSTRAINT session_session_id_check CHECK ((session_id ~ '^[a-z0-9]{8}$'::text))
);
CREATE INDEX session_expiry ON public.session USING btree (expires_at);

CREATE TABLE step (
    plan_id uuid NOT NULL,
    number integer NOT NULL,
    agent text NOT NULL,
    phase text NOT NULL,
    state text NOT NULL,
    round integer NOT NULL,
    brief jsonb NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL,
    claim integer NOT NULL DEFAULT 0,
    holder integer,
    leased_until timestamp with time zone,
    run_after timestamp with time zone,
    offered_at timestamp with time zone NOT NULL,
    verdict text,
    follow_ups jsonb NOT NULL DEFAULT '[]'::jsonb,
    reason text,
    settled boolean NOT NULL DEFAULT false,
    CONSTRAINT step_pkey PRIMARY KEY (plan_id, number),
    CONSTRAINT step_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES plan(plan_id) ON DELETE CASCADE,
    CONSTRAINT a_verdict_when_it_succeeded CHECK (((state = 'succeeded'::text) = (verdict IS NOT NULL))),
    CONSTRAINT attempts_are_counted CHECK ((((attempt >= 0) AND (attempt <= max_attempts)) AND (claim >= attempt))),
    CONSTRAINT due_while_it_waits CHECK (((state <> 'retrying'::text) OR (run_after IS NOT NULL))),
    CONSTRAINT held_while_it_runs CHECK ((((state = 'running'::text) = (holder IS NOT NULL)) AND ((holder IS NULL) = (leased_until IS NULL)))),
    CONSTRAINT settled_when_it_ended CHECK (((NOT settled) OR (state = ANY (ARRAY['succeeded'::text, 'skipped'::text])))),
    CONSTRAINT step_max_attempts_check CHECK ((max_attempts > 0)),
    CONSTRAINT step_number_check CHECK ((number > 0)),
    CONSTRAINT step_phase_check CHECK ((phase = ANY (ARRAY['observe'::text, 'orient'::text, 'decide'::text, 'act'::text]))),
    CONSTRAINT step_round_check CHECK ((round >= 0)),
    CONSTRAINT step_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'ready'::text, 'running'::text, 'waiting_approval'::text, 'retrying'::text, 'succeeded'::text, 'failed'::text, 'dead'::text, 'rejected'::text, 'cancelled'::text, 'skipped'::text])))
) WITH (fillfactor=50);
ALTER TABLE step ENABLE ROW LEVEL SECURITY;
ALTER TABLE step FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON step TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON step TO orchestrator_tenant
    USING ((( SELECT p.tenant FROM plan p WHERE (p.plan_id = step.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT INSERT, SELECT, UPDATE ON step TO orchestrator_tenant;

CREATE TABLE stop (
    tenant text NOT NULL,
    target text NOT NULL,
    reason text NOT NULL,
    set_by text NOT NULL,
    set_at timestamp with time zone NOT NULL,
    CONSTRAINT stop_pkey PRIMARY KEY (tenant, target),
    CONSTRAINT stop_reason_check CHECK ((reason <> ''::text)),
    CONSTRAINT stop_set_by_check CHECK ((set_by <> ''::text)),
    CONSTRAINT stop_target_check CHECK ((target ~ '^(all|(tenant|tool|agent|plan):[A-Za-z0-9 ._@+=-]{1,200})$'::text))
);
ALTER TABLE stop ENABLE ROW LEVEL SECURITY;
ALTER TABLE stop FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON stop TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON stop TO orchestrator_tenant
    USING ((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)))
    WITH CHECK ((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT DELETE, INSERT, SELECT, UPDATE ON stop TO orchestrator_tenant;

CREATE TABLE tenant (
    tenant text NOT NULL,
    weight real NOT NULL DEFAULT 1,
    max_running integer,
    served double precision NOT NULL DEFAULT 0,
    CONSTRAINT tenant_pkey PRIMARY KEY (tenant),
    CONSTRAINT tenant_max_running_check CHECK ((max_running > 0)),
    CONSTRAINT tenant_weight_check CHECK ((weight > (0)::double precision))
);
ALTER TABLE tenant ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON tenant TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON tenant TO orchestrator_tenant
    USING ((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)));
GRANT SELECT ON tenant TO orchestrator_tenant;

CREATE TABLE turn (
    conversation_id uuid NOT NULL,
    number integer NOT NULL,
    tenant text NOT NULL,
    owner text NOT NULL,
    role text NOT NULL,
    content text NOT NULL,
    route text,
    goal text NOT NULL DEFAULT ''::text,
    plan_id uuid,
    answer jsonb,
    idempotency_key text,
    fingerprint text NOT NULL DEFAULT ''::text,
    at timestamp with time zone NOT NULL,
    CONSTRAINT turn_pkey PRIMARY KEY (conversation_id, number),
    CONSTRAINT turn_conversation_id_fkey FOREIGN KEY (conversation_id) REFERENCES conversation(conversation_id) ON DELETE CASCADE,
    CONSTRAINT turn_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES plan(plan_id),
    CONSTRAINT turn_check CHECK (((role = 'assistant'::text) = (route IS NOT NULL))),
    CONSTRAINT turn_check1 CHECK (((role = 'assistant'::text) OR ((plan_id IS NULL) AND (answer IS NULL)))),
    CONSTRAINT turn_check2 CHECK (((role = 'user'::text) OR (plan_id IS NOT NULL) OR (answer IS NOT NULL))),
    CONSTRAINT turn_number_check CHECK ((number > 0)),
    CONSTRAINT turn_role_check CHECK ((role = ANY (ARRAY['user'::text, 'assistant'::text]))),
    CONSTRAINT turn_route_check CHECK ((route = ANY (ARRAY['casual'::text, 'follow_up'::text, 'revise'::text, 'deeper'::text, 'new_topic'::text])))
);
CREATE UNIQUE INDEX turn_key ON public.turn USING btree (tenant, owner, idempotency_key) WHERE (idempotency_key IS NOT NULL);
ALTER TABLE turn ENABLE ROW LEVEL SECURITY;
ALTER TABLE turn FORCE ROW LEVEL SECURITY;
CREATE POLICY of_fleet ON turn TO orchestrator_fleet
    USING (true);
CREATE POLICY of_tenant ON turn TO orchestrator_tenant
    USING ((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)))
    WITH CHECK (((tenant = NULLIF(current_setting('app.tenant'::text, true), ''::text)) AND (( SELECT c.tenant FROM conversation c WHERE (c.conversation_id = turn.conversation_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)) AND ((plan_id IS NULL) OR (( SELECT p.tenant FROM plan p WHERE (p.plan_id = turn.plan_id)) = NULLIF(current_setting('app.tenant'::text, true), ''::text)))));
GRANT INSERT, SELECT, UPDATE ON turn TO orchestrator_tenant;
