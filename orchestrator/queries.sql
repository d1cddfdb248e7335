-- Every query, named. `now` is the database's clock unless a test sets it.

-- name: read_clock
-- The time of this transaction.
SELECT COALESCE(%(now)s::timestamptz, now()) AS now;

-- name: confine
-- Begin a transaction that sees and writes the rows of one tenant only; all in one journey.
BEGIN;
SET LOCAL ROLE orchestrator_tenant;
SELECT set_config('app.tenant', %(tenant)s, true);

-- name: confinement
-- Who this transaction acts as, whether that keeps it from any row, and the tables of which it sees what it must not.
  WITH granted AS MATERIALIZED (
           SELECT c.oid, c.relname, c.relrowsecurity AND c.relforcerowsecurity AS secured,
                  has_table_privilege(c.oid, 'SELECT') AND c.relkind IN ('r', 'p') AS readable,
                  LEAST(100, 6400 * 8192.0 / GREATEST(pg_relation_size(c.oid), 1)) AS part
             FROM pg_class AS c
            WHERE c.relnamespace = 'public'::regnamespace
              AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
              AND has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'))
SELECT current_user::text AS role,
       (SELECT rolsuper OR rolbypassrls OR pg_has_role(oid, 'orchestrator_fleet', 'MEMBER')
          FROM pg_roles
         WHERE rolname = current_user) AS free,
       ARRAY(SELECT relname::text
               FROM granted
              WHERE CASE WHEN NOT secured THEN true
                         WHEN NOT readable THEN false
                         -- the one way for a query to look into tables that it finds; a part of a large one will do
                         ELSE query_to_xml(format('SELECT FROM public.%%I TABLESAMPLE SYSTEM (%%s) LIMIT 1',
                                                  relname, part), false, true, '')::text LIKE '%%<row%%'
                    END
              ORDER BY relname) AS exposed;

-- name: add_plan
-- Write a queued plan, or return no row if the tenant has used the key before.
INSERT INTO plan (plan_id, tenant, goal, depth, state, requester, sources, metadata, priority, idempotency_key,
                  fingerprint, budget_steps, budget_calls, budget_tokens, budget_uusd, budget_s, created_at, deadline)
VALUES (%(plan_id)s, %(tenant)s, %(goal)s, %(depth)s, 'queued', %(requester)s, %(sources)s, %(metadata)s,
        %(priority)s, %(key)s, %(fingerprint)s, %(budget_steps)s, %(budget_calls)s, %(budget_tokens)s,
        %(budget_uusd)s, %(budget_s)s, COALESCE(%(now)s::timestamptz, now()), %(deadline)s)
    ON CONFLICT (tenant, idempotency_key) DO NOTHING
RETURNING plan_id;

-- name: plan_of_key
-- The plan that a tenant's idempotency key made.
SELECT plan_id::text, fingerprint
  FROM plan
 WHERE tenant = %(tenant)s
   AND idempotency_key = %(key)s;

-- name: lock_plan
-- One plan, held until the transaction ends, and the time.
SELECT *, COALESCE(%(now)s::timestamptz, now()) AS now
  FROM plan
 WHERE plan_id = %(plan_id)s
   FOR NO KEY UPDATE;

-- name: lock_free_plans
-- Those of some plans that nobody holds, held until the transaction ends.
SELECT *, COALESCE(%(now)s::timestamptz, now()) AS now
  FROM plan
 WHERE plan_id = ANY(%(plan_ids)s::uuid[])
 ORDER BY plan_id
   FOR NO KEY UPDATE SKIP LOCKED;

-- name: lock_step
-- One plan, held until the transaction ends, with one of its steps, and the time.
SELECT p.*, COALESCE(%(now)s::timestamptz, now()) AS now, s.plan_id AS s_plan_id,
       s.number AS s_number, s.agent AS s_agent, s.phase AS s_phase, s.state AS s_state, s.round AS s_round,
       s.brief AS s_brief, s.attempt AS s_attempt, s.max_attempts AS s_max_attempts, s.claim AS s_claim,
       s.holder AS s_holder, s.leased_until AS s_leased_until, s.run_after AS s_run_after,
       s.offered_at AS s_offered_at, s.verdict AS s_verdict, s.follow_ups AS s_follow_ups,
       s.reason AS s_reason, s.settled AS s_settled
  FROM plan AS p
  JOIN step AS s ON s.plan_id = p.plan_id AND s.number = %(number)s
 WHERE p.plan_id = %(plan_id)s
   FOR NO KEY UPDATE OF p;

-- name: plan
-- One plan as it is.
SELECT *
  FROM plan
 WHERE plan_id = %(plan_id)s;

-- name: plans
-- The newest plans first, from behind the one that was submitted then under that id.
SELECT *
  FROM plan
 WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
   AND (%(state)s::text IS NULL OR state = %(state)s)
   AND (%(behind_at)s::timestamptz IS NULL
        OR created_at < %(behind_at)s
        OR (created_at = %(behind_at)s AND plan_id > %(behind_id)s::uuid))
 ORDER BY created_at DESC, plan_id
 LIMIT %(limit)s;

-- name: tally
-- What is there, in numbers: plans by state, open dead letters, running steps, what is told outside, stops, the outbox.
SELECT (SELECT COALESCE(jsonb_object_agg(p.state, p.plans), '{}')
          FROM (SELECT state, count(*) AS plans FROM plan GROUP BY state) p) AS plans,
       (SELECT count(*) FROM dead_letter WHERE state = 'open') AS dead_letters,
       (SELECT count(*)
          FROM plan AS p
          JOIN step AS s USING (plan_id)
         WHERE p.finished_at IS NULL
           AND s.state = 'running') AS running_steps,
       (SELECT COALESCE(jsonb_object_agg(n.state, n.told), '{}')
          FROM (SELECT state, count(*) AS told FROM notification GROUP BY state) n) AS notifications,
       (SELECT COALESCE(EXTRACT(EPOCH FROM COALESCE(%(now)s::timestamptz, now()) - min(made_at)), 0)::float8
          FROM notification
         WHERE state = 'waiting') AS untold_s,
       (SELECT count(*) FROM stop) AS stops,
       count(*) AS waiting_messages,
       COALESCE(EXTRACT(EPOCH FROM COALESCE(%(now)s::timestamptz, now()) - min(put_at)), 0)::float8 AS waiting_s
  FROM outbox;

-- name: move_plan
-- Make one named move, if the plan is where the move begins.
UPDATE plan
   SET state       = %(after)s,
       reason      = %(reason)s,
       partial     = partial OR COALESCE(%(partial)s, false),
       finished_at = CASE WHEN %(ended)s THEN COALESCE(%(now)s::timestamptz, now()) END
 WHERE plan_id = %(plan_id)s
   AND state = ANY(%(before)s)
RETURNING plan_id;

-- name: write_down
-- Write what a transaction has gathered about its locked plans: counters, steps, events and messages.
  WITH counted AS (
UPDATE plan AS p
   SET step_count   = p.step_count + d.steps,
       event_count  = p.event_count + d.events,
       audit_count  = p.audit_count + d.audits,
       audit_head   = COALESCE(decode(d.head, 'hex'), p.audit_head),
       partial      = p.partial OR d.partial,
       spent_steps  = p.spent_steps + d.spent_steps,
       spent_calls  = p.spent_calls + d.spent_calls,
       spent_tokens = p.spent_tokens + d.spent_tokens,
       spent_uusd   = p.spent_uusd + d.spent_uusd
  FROM jsonb_to_recordset(%(plans)s)
       AS d (plan_id uuid, steps integer, events integer, audits integer, head text, partial boolean,
             spent_steps bigint, spent_calls bigint, spent_tokens bigint, spent_uusd bigint)
 WHERE p.plan_id = d.plan_id),
       planned AS (
INSERT INTO step (plan_id, number, agent, phase, state, round, brief, max_attempts, offered_at)
SELECT s.plan_id, s.number, s.agent, s.phase, 'ready', s.round, s.brief, s.max_attempts,
       COALESCE(%(now)s::timestamptz, now())
  FROM jsonb_to_recordset(%(steps)s)
       AS s (plan_id uuid, number integer, agent text, phase text, round integer, brief jsonb,
             max_attempts integer)),
       told AS (
INSERT INTO event (plan_id, number, at, kind, body)
SELECT e.plan_id, e.number, COALESCE(%(now)s::timestamptz, now()), e.kind, e.body
  FROM jsonb_to_recordset(%(events)s) AS e (plan_id uuid, number integer, kind text, body jsonb))
INSERT INTO outbox (topic, plan_id, step, tenant, priority, put_at)
SELECT m.topic, m.plan_id, m.step, COALESCE(p.tenant, ''), COALESCE(p.priority, 0),
       COALESCE(%(now)s::timestamptz, now())
  FROM jsonb_to_recordset(%(messages)s) AS m (at integer, topic text, plan_id uuid, step integer)
  LEFT JOIN LATERAL (SELECT tenant, priority
                       FROM plan
                      WHERE plan_id = m.plan_id
                        AND m.topic = 'plan.steps'
                      LIMIT 1) AS p ON true
 ORDER BY m.at;

-- name: seal
-- Append records to their chains.
INSERT INTO audit (chain, number, kind, body, prev, mac, key_id)
SELECT a.chain, a.number, a.kind, a.body, a.prev, a.mac, a.key_id
  FROM unnest(%(chains)s::uuid[], %(numbers)s::integer[], %(kinds)s::text[], %(bodies)s::bytea[],
              %(prevs)s::bytea[], %(macs)s::bytea[], %(key_ids)s::text[])
       AS a (chain, number, kind, body, prev, mac, key_id);

-- name: step
-- One step as it is.
SELECT s.*, o.result
  FROM step AS s
  LEFT JOIN outcome AS o ON o.plan_id = s.plan_id AND o.step = s.number
 WHERE s.plan_id = %(plan_id)s
   AND s.number = %(number)s;

-- name: steps
-- All steps of a plan by number.
SELECT s.*, o.result
  FROM step AS s
  LEFT JOIN outcome AS o ON o.plan_id = s.plan_id AND o.step = s.number
 WHERE s.plan_id = %(plan_id)s
 ORDER BY s.number;

-- name: claim_steps
-- Give those steps that are ready and due to one holder, and start their plans where they are the first.
  WITH queued AS MATERIALIZED (
           SELECT plan_id, event_count
             FROM plan
            WHERE plan_id = ANY(%(plan_ids)s::uuid[])
              AND state = 'queued'
              FOR NO KEY UPDATE SKIP LOCKED),
       named AS MATERIALIZED (
           SELECT n.plan_id, n.number
             FROM (SELECT set_config('lock_timeout', COALESCE(%(patience)s, current_setting('lock_timeout')), true)) AS patience
            CROSS JOIN unnest(%(plan_ids)s::uuid[], %(numbers)s::integer[]) AS n (plan_id, number)),
       claimed AS (
UPDATE step AS s
   SET state        = 'running',
       attempt      = s.attempt + 1,
       claim        = s.claim + 1,
       holder       = %(holder)s,
       leased_until = COALESCE(%(now)s::timestamptz, now()) + %(lease)s::interval,
       run_after    = NULL
  FROM named
  JOIN plan AS p ON p.plan_id = named.plan_id
 WHERE s.plan_id = named.plan_id
   AND s.number = named.number
   AND s.state = 'ready'
   AND s.attempt < s.max_attempts
   AND (NOT %(first)s
        OR (s.claim = 0
            AND NOT EXISTS (SELECT FROM tenant AS t WHERE t.tenant = p.tenant AND t.max_running IS NOT NULL)))
   AND (s.run_after IS NULL OR s.run_after <= COALESCE(%(now)s::timestamptz, now()))
   AND (p.state IN ('running', 'waiting_approval') OR p.plan_id IN (SELECT plan_id FROM queued))
   AND (s.agent NOT IN ('researcher', 'code-generator') OR p.deadline > COALESCE(%(now)s::timestamptz, now()))
RETURNING p.*, s.plan_id AS s_plan_id, s.number AS s_number, s.agent AS s_agent, s.phase AS s_phase,
       s.state AS s_state, s.round AS s_round, s.brief AS s_brief, s.attempt AS s_attempt,
       s.max_attempts AS s_max_attempts, s.claim AS s_claim, s.holder AS s_holder,
       s.leased_until AS s_leased_until, s.run_after AS s_run_after, s.offered_at AS s_offered_at,
       s.verdict AS s_verdict, s.follow_ups AS s_follow_ups, s.reason AS s_reason, s.settled AS s_settled),
       started AS (
UPDATE plan AS p
   SET state       = 'running',
       event_count = queued.event_count + 1
  FROM queued, claimed
 WHERE p.plan_id = queued.plan_id
   AND claimed.plan_id = queued.plan_id),
       told AS (
INSERT INTO event (plan_id, number, at, kind, body)
SELECT DISTINCT queued.plan_id, queued.event_count + 1, COALESCE(%(now)s::timestamptz, now()), 'plan.started', '{}'::jsonb
  FROM queued
  JOIN claimed USING (plan_id))
SELECT claimed.*, queued.event_count AS started_behind
  FROM claimed
  LEFT JOIN queued USING (plan_id);

-- name: renew_step
-- Extend the lease of a running step, if the claim is still the current one.
UPDATE step
   SET leased_until = COALESCE(%(now)s::timestamptz, now()) + %(lease)s::interval
 WHERE plan_id = %(plan_id)s
   AND number = %(number)s
   AND state = 'running'
   AND claim = %(claim)s
RETURNING number;

-- name: move_step
-- Make one named move, if the step is where the move begins and the claim, where given, is the current one.
UPDATE step
   SET state        = %(after)s,
       holder       = NULL,
       leased_until = NULL,
       attempt      = CASE WHEN %(reset_attempts)s THEN 0
                           WHEN %(return_attempt)s THEN attempt - 1
                           ELSE attempt
                      END,
       run_after    = COALESCE(%(now)s::timestamptz, now()) + %(delay)s::interval,
       offered_at   = CASE WHEN %(after)s::text IN ('ready', 'succeeded', 'skipped')
                           THEN COALESCE(%(now)s::timestamptz, now())
                           ELSE offered_at
                      END,
       verdict      = COALESCE(%(verdict)s, verdict),
       follow_ups   = COALESCE(%(follow_ups)s, follow_ups),
       reason       = %(reason)s
 WHERE plan_id = %(plan_id)s
   AND number = %(number)s
   AND state = ANY(%(before)s)
   AND (%(claim)s::integer IS NULL OR claim = %(claim)s)
RETURNING number;

-- name: complete_steps
-- Write what running steps came to, say so and ring for what follows, where the claim is the current one.
  WITH came AS MATERIALIZED (
           SELECT c.*, row_number() OVER (PARTITION BY c.plan_id ORDER BY c.number) AS nth, count(*) OVER (PARTITION BY c.plan_id) AS events
             FROM (SELECT set_config('lock_timeout', COALESCE(%(patience)s, current_setting('lock_timeout')), true)) AS patience
            CROSS JOIN (SELECT *
                          FROM jsonb_to_recordset(%(completions)s)
                               AS r (plan_id uuid, number integer, claim integer, verdict text, follow_ups jsonb,
                                     result jsonb, told jsonb)
                         LIMIT %(number)s) AS c  -- tells the planner that they are few
            CROSS JOIN LATERAL (SELECT
                                  FROM step AS s
                                 WHERE s.plan_id = c.plan_id
                                   AND s.number = c.number
                                   AND s.state = 'running'
                                   AND s.claim = c.claim
                                 LIMIT 1) AS current),
       counted AS (  -- locks the plans; where a step is lost meanwhile, dividing by nothing makes all of it fail
UPDATE plan AS p
   SET event_count = p.event_count + came.events
  FROM came
 WHERE came.nth = 1
   AND p.plan_id = came.plan_id
RETURNING p.plan_id, p.event_count - came.events AS behind),
       moved AS (
UPDATE step AS s
   SET state        = 'succeeded',
       holder       = NULL,
       leased_until = NULL,
       offered_at   = COALESCE(%(now)s::timestamptz, now()),
       verdict      = came.verdict,
       follow_ups   = came.follow_ups,
       reason       = NULL
  FROM came
 WHERE s.plan_id = came.plan_id
   AND s.number = came.number
   AND s.state = 'running'
   AND s.claim = came.claim
RETURNING s.plan_id, s.number),
       kept AS (
INSERT INTO outcome (plan_id, step, result)
SELECT came.plan_id, came.number, came.result
  FROM came
 WHERE came.result <> '{}'),
       told AS (
INSERT INTO event (plan_id, number, at, kind, body)
SELECT came.plan_id, counted.behind + came.nth, COALESCE(%(now)s::timestamptz, now()), 'step.succeeded', came.told
  FROM came
  JOIN counted USING (plan_id)),
       rung AS (
INSERT INTO outbox (topic, plan_id, step, put_at)
SELECT 'plan.completions', moved.plan_id, moved.number, COALESCE(%(now)s::timestamptz, now())
  FROM moved)
SELECT came.plan_id::text, came.number,
       (counted.behind + came.nth) / ((SELECT count(*) FROM moved) = (SELECT count(*) FROM came))::integer AS event_count
  FROM came
  JOIN counted USING (plan_id);

-- name: lock_plans
-- Some plans, held until the transaction ends; locked in one order, so that nobody waits in a circle.
SELECT *, COALESCE(%(now)s::timestamptz, now()) AS now
  FROM plan
 WHERE plan_id = ANY(%(plan_ids)s::uuid[])
 ORDER BY plan_id
   FOR NO KEY UPDATE;

-- name: mark_settled
-- Say that what follows these finished steps has been decided; those for which it had not been before.
-- What a judge or a synthesiser came to decides, and comes along; nobody looks at the results of the others here.
UPDATE step AS s
   SET settled = true
  FROM unnest(%(plan_ids)s::uuid[], %(numbers)s::integer[]) AS named (plan_id, number)
 WHERE s.plan_id = named.plan_id
   AND s.number = named.number
   AND s.state IN ('succeeded', 'skipped')
   AND NOT s.settled
RETURNING s.*,
          CASE WHEN s.agent IN ('judge', 'synthesiser')
               THEN (SELECT o.result FROM outcome AS o WHERE o.plan_id = s.plan_id AND o.step = s.number)
          END AS result;

-- name: copy_step
-- Write a step of another plan, as ended and settled there, or ready to be done again.
  WITH kept AS (
INSERT INTO outcome (plan_id, step, result)
SELECT %(plan_id)s, %(number)s, %(result)s
 WHERE %(result)s::jsonb <> '{}')
INSERT INTO step (plan_id, number, agent, phase, state, round, brief, attempt, max_attempts, claim, offered_at,
                  verdict, follow_ups, reason, settled)
VALUES (%(plan_id)s, %(number)s, %(agent)s, %(phase)s, %(state)s, %(round)s, %(brief)s, %(attempt)s, %(max_attempts)s,
        %(claim)s, COALESCE(%(now)s::timestamptz, now()), %(verdict)s, %(follow_ups)s, %(reason)s, %(settled)s);

-- name: events
-- A plan's events by number, after one.
SELECT plan_id::text, number, at, kind, body
  FROM event
 WHERE plan_id = %(plan_id)s
   AND number > %(after)s
 ORDER BY number
 LIMIT %(limit)s;

-- name: audit
-- A chain by number.
SELECT chain::text, number, kind, body, prev, mac, key_id
  FROM audit
 WHERE chain = %(chain)s
 ORDER BY number;

-- name: one_snapshot
-- Let everything that this transaction reads be of one moment.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: checkpoint_turn
-- Take the turn to make a checkpoint until this transaction ends, unless somebody has it.
SELECT pg_try_advisory_xact_lock(%(lock)s) AS taken;

-- name: newest_checkpoint
-- The newest checkpoint, and when it was made.
SELECT at, line
  FROM checkpoint
 ORDER BY number DESC
 LIMIT 1;

-- name: checkpoint_lines
-- Checkpoints behind a number, in order.
SELECT line
  FROM checkpoint
 WHERE number > %(after)s
 ORDER BY number
 LIMIT %(limit)s;

-- name: grown
-- Chains that differ from their last leaf: as they are, the leaf, and the seal of the record that it is about.
WITH changed AS (
SELECT COALESCE(h.chain, c.chain) AS chain, COALESCE(h.count, 0) AS count, COALESCE(h.head, '') AS head,
       c.count AS leaf_count, c.head AS leaf_head, c.fold AS leaf_fold
  FROM (SELECT plan_id AS chain, audit_count AS count, audit_head AS head FROM plan
         UNION ALL
        SELECT chain, count, head FROM ledger) AS h
  FULL JOIN checkpointed AS c ON c.chain = h.chain
 WHERE h.count IS DISTINCT FROM COALESCE(c.count, 0)
    OR (c.chain IS NOT NULL AND h.head IS DISTINCT FROM c.head)
 ORDER BY 1
 LIMIT %(limit)s)
SELECT n.chain::text, n.count, n.head, n.leaf_count, n.leaf_head, n.leaf_fold, a.mac AS seal_there
  FROM changed AS n
  LEFT JOIN audit AS a ON a.chain = n.chain AND a.number = n.leaf_count
 ORDER BY n.chain;

-- name: records_between
-- The records of each chain behind a number.
SELECT a.chain::text, a.number, a.kind, a.body, a.prev, a.mac, a.key_id
  FROM unnest(%(chains)s::uuid[], %(behind)s::integer[]) AS c (chain, behind)
  JOIN audit AS a ON a.chain = c.chain AND a.number > c.behind
 ORDER BY a.chain, a.number;

-- name: add_checkpoint
-- Keep a checkpoint, and remember its leaves as the last of their chains.
WITH kept AS (
INSERT INTO checkpoint (number, at, key_id, line)
VALUES (%(number)s, %(at)s, %(key_id)s, %(line)s))
INSERT INTO checkpointed (chain, number, count, head, fold)
SELECT l.chain, %(number)s, l.count, l.head, l.fold
  FROM unnest(%(chains)s::uuid[], %(counts)s::integer[], %(heads)s::bytea[], %(folds)s::bytea[])
       AS l (chain, count, head, fold)
    ON CONFLICT (chain) DO UPDATE
   SET number = EXCLUDED.number,
       count  = EXCLUDED.count,
       head   = EXCLUDED.head,
       fold   = EXCLUDED.fold;

-- name: heads
-- Chains above an id, as plans and ledgers remember them.
SELECT chain::text, count, head
  FROM (SELECT plan_id AS chain, audit_count AS count, audit_head AS head
          FROM plan
         WHERE %(after)s::uuid IS NULL OR plan_id > %(after)s
         UNION ALL
        SELECT chain, count, head
          FROM ledger
         WHERE %(after)s::uuid IS NULL OR chain > %(after)s) AS h
 ORDER BY h.chain
 LIMIT %(limit)s;

-- name: head
-- One chain, as its plan or ledger remembers it.
SELECT plan_id::text AS chain, audit_count AS count, audit_head AS head
  FROM plan
 WHERE plan_id = %(chain)s
 UNION ALL
SELECT chain::text, count, head
  FROM ledger
 WHERE chain = %(chain)s;

-- name: strays
-- Chains of records that no plan and no ledger remembers.
SELECT DISTINCT a.chain::text AS chain
  FROM audit AS a
 WHERE NOT EXISTS (SELECT FROM plan WHERE plan_id = a.chain)
   AND NOT EXISTS (SELECT FROM ledger AS l WHERE l.chain = a.chain);

-- name: begin_ledger
-- Let a tenant have a chain of its own, unless it has one.
INSERT INTO ledger (chain, tenant)
VALUES (%(chain)s, %(tenant)s)
    ON CONFLICT DO NOTHING;

-- name: lock_ledger
-- A tenant's chain, held until the transaction ends.
SELECT chain::text, count, head
  FROM ledger
 WHERE tenant = %(tenant)s
   FOR UPDATE;

-- name: grow_ledger
-- Remember the record that was appended to a tenant's chain.
UPDATE ledger
   SET count = count + 1,
       head  = %(head)s
 WHERE chain = %(chain)s
   AND count = %(number)s - 1
RETURNING count;

-- name: audit_page
-- Records of a chain below a number, the newest first.
SELECT chain::text, number, kind, body, prev, mac, key_id
  FROM audit
 WHERE chain = %(chain)s
   AND number < %(before)s
 ORDER BY number DESC
 LIMIT %(limit)s;

-- name: take_outbox
-- Remove the oldest messages; those for steps only while they are few and no tenant is limited. Another relay takes others.
  WITH crowd AS MATERIALIZED (
           SELECT (SELECT count(*) > %(room)s
                     FROM (SELECT FROM outbox WHERE topic = 'plan.steps' LIMIT %(room)s + 1) AS few)
                  OR EXISTS (SELECT FROM tenant WHERE max_running IS NOT NULL) AS crowded),
       oldest AS MATERIALIZED (
           SELECT number
             FROM outbox
            WHERE topic <> 'plan.steps'
               OR NOT (SELECT crowded FROM crowd)
            ORDER BY number
              FOR UPDATE SKIP LOCKED
            LIMIT %(limit)s)
DELETE FROM outbox AS o
 USING oldest
 WHERE o.number = oldest.number
RETURNING o.number, o.topic, o.plan_id::text, o.step, o.priority;

-- name: waiting
-- The tenants with messages for steps in the outbox, for one relay at a time; how many, and how many more may run.
  WITH RECURSIVE alone AS MATERIALIZED (
           SELECT pg_try_advisory_xact_lock(%(lock)s::bigint) AS held),
       waits (tenant) AS (
         (SELECT tenant FROM outbox WHERE topic = 'plan.steps' ORDER BY tenant LIMIT 1)
          UNION ALL
         SELECT (SELECT o.tenant
                   FROM outbox AS o
                  WHERE o.topic = 'plan.steps'
                    AND o.tenant > waits.tenant
                  ORDER BY o.tenant
                  LIMIT 1)
           FROM waits
          WHERE waits.tenant IS NOT NULL)
SELECT w.tenant, COALESCE(t.weight, 1)::float8 AS weight, COALESCE(t.served, 0) AS served,
       (SELECT count(*)
          FROM (SELECT FROM outbox AS o
                 WHERE o.topic = 'plan.steps'
                   AND o.tenant = w.tenant
                 LIMIT %(room)s) AS few) AS messages,
       t.max_running - CASE WHEN t.max_running IS NOT NULL
                            THEN (SELECT count(*)
                                    FROM plan AS p
                                    JOIN step AS s USING (plan_id)
                                   WHERE p.tenant = w.tenant
                                     AND p.finished_at IS NULL
                                     AND p.state IN ('running', 'waiting_approval')
                                     AND s.state = 'running')
                       END AS free
  FROM alone
  JOIN waits AS w ON alone.held AND w.tenant IS NOT NULL
  LEFT JOIN tenant AS t ON t.tenant = w.tenant;

-- name: take_shares
-- Remove so many messages for steps of each tenant, its urgent plans first, and set the tenants' clocks.
  WITH shares AS MATERIALIZED (
           SELECT *
             FROM unnest(%(tenants)s::text[], %(numbers)s::integer[], %(served)s::float8[])
                  AS s (tenant, messages, served)),
       counted AS (
INSERT INTO tenant (tenant, served)
SELECT tenant, served
  FROM shares
 ORDER BY tenant
    ON CONFLICT (tenant) DO UPDATE
   SET served = excluded.served),
       turn AS MATERIALIZED (
           SELECT chosen.number
             FROM shares
            CROSS JOIN LATERAL (SELECT o.number
                                  FROM outbox AS o
                                 WHERE o.topic = 'plan.steps'
                                   AND o.tenant = shares.tenant
                                 ORDER BY o.priority DESC, o.number
                                 LIMIT shares.messages
                                   FOR UPDATE SKIP LOCKED) AS chosen)
DELETE FROM outbox AS o
 USING turn
 WHERE o.number = turn.number
RETURNING o.number, o.topic, o.plan_id::text, o.step, o.priority;

-- name: limit_of
-- How many steps of a limited tenant may run at once, held until the transaction ends.
SELECT max_running
  FROM tenant
 WHERE tenant = %(tenant)s
   AND max_running IS NOT NULL
   FOR UPDATE;

-- name: running_of
-- How many steps of a tenant run.
SELECT count(*) AS running
  FROM plan AS p
  JOIN step AS s USING (plan_id)
 WHERE p.tenant = %(tenant)s
   AND p.finished_at IS NULL
   AND p.state IN ('running', 'waiting_approval')
   AND s.state = 'running';

-- name: tenants
-- What is set for each tenant that differs from the rest.
SELECT tenant, weight::float8 AS weight, max_running
  FROM tenant
 WHERE weight <> 1
    OR max_running IS NOT NULL
 ORDER BY tenant;

-- name: put_tenant
-- Set a tenant's weight and limit.
INSERT INTO tenant (tenant, weight, max_running)
VALUES (%(tenant)s, %(weight)s, %(max_running)s)
    ON CONFLICT (tenant) DO UPDATE
   SET weight      = excluded.weight,
       max_running = excluded.max_running;

-- name: stops
-- What is stopped for a tenant, its own stops and those that hold everywhere, or for anybody; the oldest first.
SELECT *
  FROM stop
 WHERE (%(tenant)s::text IS NULL OR tenant IN ('', %(tenant)s))
 ORDER BY set_at, tenant, target;

-- name: put_stop
-- Stop a target for a tenant, or everywhere where the tenant is empty; a later reason takes an earlier one's place.
INSERT INTO stop (tenant, target, reason, set_by, set_at)
VALUES (%(tenant)s, %(target)s, %(reason)s, %(by)s, COALESCE(%(now)s::timestamptz, now()))
    ON CONFLICT (tenant, target) DO UPDATE
   SET reason = excluded.reason,
       set_by = excluded.set_by,
       set_at = excluded.set_at;

-- name: remove_stop
-- Lift a stop, and say what it was; no row if there is none.
DELETE FROM stop
 WHERE tenant = %(tenant)s
   AND target = %(target)s
RETURNING *;

-- name: add_fact
-- Write a fact; its evidence must be stored for the same tenant.
INSERT INTO fact (plan_id, step, number, tenant, quote, evidence, start_at, end_at, locator, title, heading,
                  origin_sha256, question, score)
SELECT plan_id, %(step)s, %(number)s, tenant, %(quote)s, %(evidence)s, %(start)s, %(end)s, %(locator)s, %(title)s,
       %(heading)s, %(origin_sha256)s, %(question)s, %(score)s
  FROM plan
 WHERE plan_id = %(plan_id)s;

-- name: facts
-- A plan's facts by step and number.
SELECT *
  FROM fact
 WHERE plan_id = %(plan_id)s
 ORDER BY step, number;

-- name: cast_ballots
-- Write what rounds of consensus came to; a plan has one ballot for each round.
INSERT INTO ballot (plan_id, round, draft, objections, verdict, confidence, threshold, decided, why, generator,
                    critic, judge, at)
SELECT b.plan_id, b.round, b.draft, b.objections, b.verdict, b.confidence, b.threshold, b.decided, b.why, b.generator,
       b.critic, b.judge, COALESCE(%(now)s::timestamptz, now())
  FROM jsonb_to_recordset(%(ballots)s)
       AS b (plan_id uuid, round integer, draft text, objections integer, verdict text, confidence double precision,
             threshold double precision, decided text, why text, generator integer, critic integer, judge integer);

-- name: ballots
-- A plan's ballots by round.
SELECT *
  FROM ballot
 WHERE plan_id = %(plan_id)s
 ORDER BY round;

-- name: related_facts
-- Facts of a tenant's latest plans that ended with an answer, those with the most of the words first, each place once.
-- Plans that called one of the tools `without`, or began as a fork of another plan, are passed by. Only facts that hold
-- one of the words at all, which is cheap to tell, are taken apart into words.
  WITH ended AS (
       SELECT p.plan_id, p.finished_at
         FROM plan AS p
         JOIN report AS r ON r.plan_id = p.plan_id
        WHERE p.tenant = %(tenant)s
          AND p.state = 'succeeded'
          AND r.body ->> 'verdict' = 'answered'
          AND NOT EXISTS (SELECT 1 FROM call AS c WHERE c.plan_id = p.plan_id AND c.tool = ANY(%(without)s))
          AND NOT EXISTS (SELECT 1 FROM event AS e
                           WHERE e.plan_id = p.plan_id AND e.number = 1 AND e.kind = 'plan.forked')
        ORDER BY p.created_at DESC, p.plan_id
        LIMIT %(plans)s
       ),
       counted AS (
       SELECT f.*, ended.finished_at,
              (SELECT count(*) FROM unnest(%(words)s::text[]) AS word WHERE word = ANY(lexed.lexemes)) AS words
         FROM ended
         JOIN fact AS f ON f.plan_id = ended.plan_id
        CROSS JOIN LATERAL (
              SELECT tsvector_to_array(to_tsvector('simple', f.quote || ' ' || f.question)) AS lexemes
              OFFSET 0
              ) AS lexed
        WHERE f.tenant = %(tenant)s
          AND lower(f.quote || ' ' || f.question)
              LIKE ANY(ARRAY(SELECT '%%' || word || '%%' FROM unnest(%(words)s::text[]) AS word))
       ),
       placed AS (
       SELECT DISTINCT ON (evidence, start_at, end_at) *
         FROM counted
        WHERE words >= %(least)s
        ORDER BY evidence, start_at, end_at, words DESC, finished_at DESC, plan_id, step, number
       )
SELECT *
  FROM placed
 ORDER BY words DESC, finished_at DESC, plan_id, step, number
 LIMIT %(limit)s;

-- name: put_evidence
-- Store a source once per tenant and digest.
INSERT INTO evidence (tenant, sha256, text, locator, title, media_type, origin_sha256, stored_at)
VALUES (%(tenant)s, %(sha256)s, %(text)s, %(locator)s, %(title)s, %(media_type)s, %(origin_sha256)s,
        COALESCE(%(now)s::timestamptz, now()))
    ON CONFLICT (tenant, sha256) DO NOTHING;

-- name: evidence
-- One stored source.
SELECT sha256, text, locator, title, media_type, origin_sha256
  FROM evidence
 WHERE tenant = %(tenant)s
   AND sha256 = %(sha256)s;

-- name: put_report
-- Store a plan's report; one that was written again after a replay replaces it.
INSERT INTO report (plan_id, body, written_at)
VALUES (%(plan_id)s, %(body)s, COALESCE(%(now)s::timestamptz, now()))
    ON CONFLICT (plan_id) DO UPDATE
   SET body       = excluded.body,
       written_at = excluded.written_at;

-- name: report
-- A plan's report.
SELECT body
  FROM report
 WHERE plan_id = %(plan_id)s;

-- name: call
-- One journalled call.
SELECT *
  FROM call
 WHERE plan_id = %(plan_id)s
   AND step = %(step)s
   AND key = %(key)s
   AND occurrence = %(occurrence)s;

-- name: calls
-- A plan's calls in the order in which they were first intended.
SELECT *
  FROM call
 WHERE plan_id = %(plan_id)s
 ORDER BY ordinal;

-- name: put_call
-- Intend a call, or intend it again under a newer claim; a call that is done stays done.
INSERT INTO call (plan_id, step, key, occurrence, tool, semantics, state, claim, arguments, tokens, cost_uusd,
                  intended_at)
VALUES (%(plan_id)s, %(step)s, %(key)s, %(occurrence)s, %(tool)s, %(semantics)s, 'intended', %(claim)s,
        %(arguments)s, %(tokens)s, %(cost_uusd)s, COALESCE(%(now)s::timestamptz, now()))
    ON CONFLICT (plan_id, step, key, occurrence) DO UPDATE
   SET state          = 'intended',
       claim          = excluded.claim,
       result         = NULL,
       evidence       = NULL,
       error          = NULL,
       tokens         = excluded.tokens,
       cost_uusd      = excluded.cost_uusd,
       repeat_allowed = false,
       intended_at    = excluded.intended_at,
       finished_at    = NULL
 WHERE call.state <> 'done';

-- name: finish_call
-- Record how an intended call ended, if this claim intended it.
UPDATE call
   SET state       = %(state)s,
       result      = %(result)s,
       evidence    = %(evidence)s,
       error       = %(error)s,
       tokens      = COALESCE(%(tokens)s, tokens),
       cost_uusd   = COALESCE(%(cost_uusd)s, cost_uusd),
       finished_at = COALESCE(%(now)s::timestamptz, now())
 WHERE plan_id = %(plan_id)s
   AND step = %(step)s
   AND key = %(key)s
   AND occurrence = %(occurrence)s
   AND state = 'intended'
   AND claim = %(claim)s
RETURNING key;

-- name: orphan_calls
-- Nobody knows what became of these calls.
UPDATE call
   SET state       = 'unknown',
       finished_at = COALESCE(%(now)s::timestamptz, now())
 WHERE plan_id = %(plan_id)s
   AND step = %(step)s
   AND state = 'intended'
RETURNING *;

-- name: allow_repeat
-- A human said that a step's unknown calls of one key may be made once more.
UPDATE call
   SET repeat_allowed = true
 WHERE plan_id = %(plan_id)s
   AND step = %(step)s
   AND key = %(key)s
   AND state = 'unknown';

-- name: add_approval
-- Ask for a human decision.
INSERT INTO approval (approval_id, plan_id, step, category, roles, question, args_digest, requester, state, asked_at,
                      expires_at, chain)
VALUES (%(approval_id)s, %(plan_id)s, %(step)s, %(category)s, %(roles)s, %(question)s, %(args_digest)s,
        %(requester)s, 'pending', COALESCE(%(now)s::timestamptz, now()), %(expires_at)s, %(chain)s);

-- name: approval
-- One approval.
SELECT *
  FROM approval
 WHERE approval_id = %(approval_id)s;

-- name: approvals
-- Approvals, oldest first; of a role those that it may decide now.
SELECT a.*
  FROM approval AS a
 WHERE (%(state)s::text IS NULL OR a.state = %(state)s)
   AND (%(plan_id)s::uuid IS NULL OR a.plan_id = %(plan_id)s)
   AND (%(step)s::integer IS NULL OR a.step = %(step)s)
   AND (%(category)s::text IS NULL OR a.category = %(category)s)
   AND (%(role)s::text IS NULL OR (a.state = 'pending' AND %(role)s = ANY (a.roles)))
 ORDER BY a.asked_at, a.approval_id
 LIMIT %(limit)s::bigint;

-- name: approvals_of_tenant
-- Those of one tenant, found from its plans: asked of each approval, a crowd of another's would be looked up row by row.
SELECT a.*
  FROM plan AS p
  JOIN approval AS a USING (plan_id)
 WHERE p.tenant = %(tenant)s
   AND (%(state)s::text IS NULL OR a.state = %(state)s)
   AND (%(plan_id)s::uuid IS NULL OR p.plan_id = %(plan_id)s)
   AND (%(step)s::integer IS NULL OR a.step = %(step)s)
   AND (%(category)s::text IS NULL OR a.category = %(category)s)
   AND (%(role)s::text IS NULL OR (a.state = 'pending' AND %(role)s = ANY (a.roles)))
 ORDER BY a.asked_at, a.approval_id
 LIMIT %(limit)s::bigint;

-- name: decide
-- Decide a pending approval once; a human must do it before it expires.
UPDATE approval
   SET state       = %(state)s,
       decided_by  = %(by)s,
       comment     = %(comment)s,
       holds_until = COALESCE(%(now)s::timestamptz, now()) + %(holds)s::interval,
       decided_at  = COALESCE(%(now)s::timestamptz, now())
 WHERE approval_id = %(approval_id)s
   AND state = 'pending'
   AND (%(version)s::integer IS NULL OR version = %(version)s)
   AND (expires_at > COALESCE(%(now)s::timestamptz, now()) OR %(state)s::text IN ('expired', 'cancelled'))
RETURNING approval_id;

-- name: advance
-- Let others decide a pending approval, once: what was decided of it stands, and it did not expire meanwhile.
UPDATE approval
   SET stage      = %(stage)s,
       level      = %(level)s,
       roles      = %(roles)s,
       expires_at = %(expires_at)s,
       version    = version + 1
 WHERE approval_id = %(approval_id)s
   AND state = 'pending'
   AND version = %(version)s
   AND (expires_at > COALESCE(%(now)s::timestamptz, now())) = %(in_time)s
RETURNING approval_id;

-- name: add_ruling
-- Record what one person decided.
INSERT INTO ruling (approval_id, number, person, role, stage, seat, decision, comment, at)
VALUES (%(approval_id)s, %(number)s, %(person)s, %(role)s, %(stage)s, %(seat)s, %(decision)s, %(comment)s,
        COALESCE(%(now)s::timestamptz, now()));

-- name: rulings
-- What people decided about an approval, in that order.
SELECT *
  FROM ruling
 WHERE approval_id = %(approval_id)s
 ORDER BY number;

-- name: extend
-- Give a plan more time: that which it spent waiting for people.
UPDATE plan
   SET deadline = deadline + %(more)s::interval
 WHERE plan_id = %(plan_id)s
   AND finished_at IS NULL;

-- name: add_notification
-- Write what is to be told outside.
INSERT INTO notification (notification_id, approval_id, kind, body, due_at, made_at)
VALUES (%(notification_id)s, %(approval_id)s, %(kind)s, %(body)s, COALESCE(%(now)s::timestamptz, now()),
        COALESCE(%(now)s::timestamptz, now()));

-- name: take_notification
-- Give the oldest notification that is due to one sender, who has until it is due again; the attempt counts at once.
  WITH due AS (
           SELECT notification_id
             FROM notification
            WHERE state = 'waiting'
              AND due_at <= COALESCE(%(now)s::timestamptz, now())
            ORDER BY due_at
              FOR UPDATE SKIP LOCKED
            LIMIT 1)
UPDATE notification AS n
   SET attempts = attempts + 1,
       due_at   = COALESCE(%(now)s::timestamptz, now()) + %(within)s::interval
  FROM due
 WHERE n.notification_id = due.notification_id
RETURNING n.*;

-- name: end_notification
-- Say that a notification was delivered or given up on, unless another attempt has begun.
UPDATE notification
   SET state    = %(state)s,
       error    = %(error)s,
       ended_at = COALESCE(%(now)s::timestamptz, now())
 WHERE notification_id = %(notification_id)s
   AND state = 'waiting'
   AND (attempts = %(attempts)s OR %(state)s::text = 'delivered')
RETURNING notification_id;

-- name: postpone_notification
-- Try a notification again later, unless another attempt has begun.
UPDATE notification
   SET due_at = COALESCE(%(now)s::timestamptz, now()) + %(delay)s::interval,
       error  = %(error)s
 WHERE notification_id = %(notification_id)s
   AND state = 'waiting'
   AND attempts = %(attempts)s
RETURNING notification_id;

-- name: revive_notification
-- Let a notification that was given up on be sent again, with as many attempts as at first.
UPDATE notification
   SET state    = 'waiting',
       attempts = 0,
       due_at   = COALESCE(%(now)s::timestamptz, now()),
       ended_at = NULL
 WHERE notification_id = %(notification_id)s
   AND state = 'given_up'
RETURNING notification_id;

-- name: notification
-- One notification.
SELECT *
  FROM notification
 WHERE notification_id = %(notification_id)s;

-- name: notifications
-- What was to be told about an approval, or is in a state, the oldest first.
SELECT n.*
  FROM notification AS n
 WHERE (%(approval_id)s::uuid IS NULL OR n.approval_id = %(approval_id)s)
   AND (%(state)s::text IS NULL OR n.state = %(state)s)
 ORDER BY n.made_at, n.notification_id
 LIMIT %(limit)s::bigint;

-- name: notifications_of_tenant
-- Those about approvals of one tenant's plans, found from these, as with approvals.
SELECT n.*
  FROM plan AS p
  JOIN approval AS a USING (plan_id)
  JOIN notification AS n USING (approval_id)
 WHERE p.tenant = %(tenant)s
   AND (%(approval_id)s::uuid IS NULL OR a.approval_id = %(approval_id)s)
   AND (%(state)s::text IS NULL OR n.state = %(state)s)
 ORDER BY n.made_at, n.notification_id
 LIMIT %(limit)s::bigint;

-- name: add_dead_letter
-- List what was given up on.
INSERT INTO dead_letter (letter_id, plan_id, step, reason, detail, attempts, state, at)
VALUES (%(letter_id)s, %(plan_id)s, %(step)s, %(reason)s, %(detail)s, %(attempts)s, 'open', %(at)s);

-- name: dead_letter
-- One dead letter.
SELECT *
  FROM dead_letter
 WHERE letter_id = %(letter_id)s;

-- name: dead_letters
-- Dead letters, newest first, from behind the one of that time and id.
SELECT d.*
  FROM dead_letter AS d
  LEFT JOIN plan AS p USING (plan_id)
 WHERE (%(state)s::text IS NULL OR d.state = %(state)s)
   AND (%(plan_id)s::uuid IS NULL OR d.plan_id = %(plan_id)s)
   AND (%(reason)s::text IS NULL OR d.reason = %(reason)s)
   AND (%(tenant)s::text IS NULL OR p.tenant = %(tenant)s)
   AND (%(older_than)s::interval IS NULL
        OR d.at <= COALESCE(%(now)s::timestamptz, now()) - %(older_than)s::interval)
   AND (%(newer_than)s::interval IS NULL
        OR d.at > COALESCE(%(now)s::timestamptz, now()) - %(newer_than)s::interval)
   AND (%(behind_at)s::timestamptz IS NULL
        OR d.at < %(behind_at)s
        OR (d.at = %(behind_at)s AND d.letter_id > %(behind_id)s::uuid))
 ORDER BY d.at DESC, d.letter_id
 LIMIT %(limit)s::bigint;

-- name: close_dead_letter
-- Mark an open letter as retried or discarded.
UPDATE dead_letter
   SET state     = %(state)s,
       closed_at = COALESCE(%(now)s::timestamptz, now())
 WHERE letter_id = %(letter_id)s
   AND state = 'open'
RETURNING letter_id;

-- name: due
-- Retrying steps whose time has come, or whose plan's time is up.
SELECT s.plan_id::text, s.number
  FROM plan AS p
  JOIN step AS s USING (plan_id)
 WHERE p.finished_at IS NULL
   AND s.state = 'retrying'
   AND LEAST(s.run_after, p.deadline) <= COALESCE(%(now)s::timestamptz, now())
 ORDER BY s.run_after
 LIMIT %(limit)s;

-- name: lapsed
-- Running steps whose lease has ended, or whose holder no longer has its lock: a dead worker shows at once.
  WITH alive AS MATERIALIZED (
           SELECT l.objid
             FROM pg_locks AS l
            WHERE l.locktype = 'advisory'
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND l.classid = %(alive_class)s::bigint::oid
              AND l.objsubid = 2
              AND l.granted)
SELECT s.plan_id::text, s.number
  FROM plan AS p
  JOIN step AS s USING (plan_id)
 WHERE s.state = 'running'
   AND (CASE WHEN %(plan_id)s::uuid IS NULL THEN p.finished_at IS NULL
             ELSE s.plan_id = %(plan_id)s AND s.number = %(number)s
        END)
   AND (s.leased_until <= COALESCE(%(now)s::timestamptz, now())
        OR NOT EXISTS (SELECT FROM alive WHERE alive.objid = s.holder::bigint::oid))
 ORDER BY s.leased_until
 LIMIT %(limit)s;

-- name: unheard
-- Steps that are ready or unsettled, for which no message waits and nobody answered, marked as offered again.
  WITH waiting AS MATERIALIZED (
           SELECT s.plan_id, s.number
             FROM plan AS p
             JOIN step AS s USING (plan_id)
            WHERE p.finished_at IS NULL
              AND (s.state = 'ready' OR (s.state IN ('succeeded', 'skipped') AND NOT s.settled))
              AND (s.run_after IS NULL OR s.run_after <= COALESCE(%(now)s::timestamptz, now()))
              AND (s.offered_at <= COALESCE(%(now)s::timestamptz, now()) - %(older_than)s::interval
                   OR s.offered_at < s.run_after)
              AND NOT EXISTS (SELECT FROM outbox AS o WHERE o.plan_id = s.plan_id AND o.step = s.number)
            ORDER BY s.offered_at
              FOR UPDATE OF s SKIP LOCKED
            LIMIT %(limit)s)
UPDATE step AS s
   SET offered_at = COALESCE(%(now)s::timestamptz, now())
  FROM waiting
 WHERE s.plan_id = waiting.plan_id
   AND s.number = waiting.number
RETURNING s.plan_id::text, s.number, s.state;

-- name: expired_approvals
-- Pending approvals past their expiry.
SELECT *
  FROM approval
 WHERE state = 'pending'
   AND expires_at <= COALESCE(%(now)s::timestamptz, now())
 ORDER BY expires_at
 LIMIT %(limit)s;

-- name: next_worker
-- A number for a worker to hold as its lock.
SELECT nextval('worker_number') AS holder;

-- name: hold_alive
-- Prove to be alive for as long as this session lasts.
SELECT pg_try_advisory_lock(%(alive_class)s::integer, %(holder)s::integer) AS held;

-- name: workers
-- How many workers prove to be alive.
SELECT count(*) AS workers
  FROM pg_locks AS l
 WHERE l.locktype = 'advisory'
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.classid = %(alive_class)s::bigint::oid
   AND l.objsubid = 2
   AND l.granted;

-- name: add_schedule
-- Write a schedule, or return no row if the tenant has one of that name.
INSERT INTO schedule (schedule_id, tenant, name, cron, timezone, request, misfire, overlap, paused, next_at,
                      last_plan_id, created_at)
VALUES (%(schedule_id)s, %(tenant)s, %(name)s, %(cron)s, %(timezone)s, %(request)s, %(misfire)s, %(overlap)s,
        %(paused)s, %(next_at)s, %(last_plan_id)s, COALESCE(%(now)s::timestamptz, now()))
    ON CONFLICT (tenant, name) DO NOTHING
RETURNING schedule_id;

-- name: schedule
-- A tenant's schedule of that name or id.
SELECT *
  FROM schedule
 WHERE tenant = %(tenant)s
   AND (name = %(name)s OR schedule_id::text = %(name)s)
 ORDER BY name = %(name)s DESC
 LIMIT 1;

-- name: lock_schedule
-- A tenant's schedule of that name or id, held until the transaction ends.
SELECT *
  FROM schedule
 WHERE tenant = %(tenant)s
   AND (name = %(name)s OR schedule_id::text = %(name)s)
 ORDER BY name = %(name)s DESC
 LIMIT 1
   FOR UPDATE;

-- name: schedules
-- All schedules by name.
SELECT *
  FROM schedule
 WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
 ORDER BY tenant, name;

-- name: write_schedule
-- Write what may change about a schedule that this transaction holds.
UPDATE schedule
   SET cron         = %(cron)s,
       timezone     = %(timezone)s,
       request      = %(request)s,
       misfire      = %(misfire)s,
       overlap      = %(overlap)s,
       paused       = %(paused)s,
       next_at      = %(next_at)s,
       last_plan_id = %(last_plan_id)s
 WHERE schedule_id = %(schedule_id)s;

-- name: remove_schedule
-- Remove a schedule with its firings.
DELETE FROM schedule
 WHERE schedule_id = %(schedule_id)s
RETURNING schedule_id;

-- name: take_schedule
-- One schedule that is due, or has a tick waiting for a plan that has ended; another replica takes another one.
SELECT s.*
  FROM schedule AS s
 WHERE NOT s.paused
   AND (s.next_at <= COALESCE(%(now)s::timestamptz, now())
        OR (EXISTS (SELECT FROM firing AS f WHERE f.schedule_id = s.schedule_id AND f.outcome = 'queued')
            AND NOT EXISTS (SELECT
                              FROM plan AS p
                             WHERE p.plan_id = s.last_plan_id
                               AND p.finished_at IS NULL)))
 ORDER BY s.next_at, s.schedule_id
 LIMIT 1
   FOR UPDATE OF s SKIP LOCKED;

-- name: next_tick_at
-- When the next schedule is due.
SELECT min(next_at) AS next_at
  FROM schedule
 WHERE NOT paused;

-- name: add_firing
-- Write what became of a tick, or return no row if the tick or its key is written already.
INSERT INTO firing (schedule_id, due_at, fired_at, outcome, plan_id, reason, key)
VALUES (%(schedule_id)s, %(due_at)s, %(fired_at)s, %(outcome)s, %(plan_id)s, %(reason)s, %(key)s)
    ON CONFLICT DO NOTHING
RETURNING due_at;

-- name: firing
-- The firing under a key, or that of a tick.
SELECT *
  FROM firing
 WHERE schedule_id = %(schedule_id)s
   AND (due_at = %(due_at)s OR key = %(key)s::text)
 ORDER BY key = %(key)s::text DESC NULLS LAST
 LIMIT 1;

-- name: end_firing
-- Say what became of a queued tick.
UPDATE firing
   SET outcome  = %(outcome)s,
       plan_id  = %(plan_id)s,
       reason   = %(reason)s,
       fired_at = COALESCE(%(now)s::timestamptz, now())
 WHERE schedule_id = %(schedule_id)s
   AND due_at = %(due_at)s
   AND outcome = 'queued'
RETURNING due_at;

-- name: firings
-- A schedule's firings, the newest tick first.
SELECT *
  FROM firing
 WHERE schedule_id = %(schedule_id)s
   AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)
 ORDER BY due_at DESC
 LIMIT %(limit)s;

-- name: lock_secret
-- How many versions a secret has had; the row is made if it is not there, and held.
INSERT INTO secret (tenant, name)
VALUES (%(tenant)s, %(name)s)
    ON CONFLICT (tenant, name) DO UPDATE
   SET versions = secret.versions
RETURNING versions;

-- name: secret_versions
-- The versions of one secret, or of all of a tenant's, by name and number.
SELECT tenant, name, version, state, sealed, created_at, created_by
  FROM secret_version
 WHERE tenant = %(tenant)s
   AND (%(name)s::text IS NULL OR name = %(name)s)
 ORDER BY name COLLATE "C", version;

-- name: add_secret_version
-- Write the next version of a secret, or return no row if it is not the next.
  WITH counted AS (
           UPDATE secret
              SET versions = %(version)s
            WHERE tenant   = %(tenant)s
              AND name     = %(name)s
              AND versions = %(version)s - 1
        RETURNING tenant, name
       )
INSERT INTO secret_version (tenant, name, version, state, sealed, created_at, created_by)
SELECT tenant, name, %(version)s, %(state)s, %(sealed)s, %(created_at)s, %(created_by)s
  FROM counted
RETURNING version;

-- name: move_secret
-- Move a version of a secret to another state, or return no row if it is not in the one that it was in.
UPDATE secret_version
   SET state   = %(to)s
 WHERE tenant  = %(tenant)s
   AND name    = %(name)s
   AND version = %(version)s
   AND state   = %(was)s
RETURNING version;

-- name: remove_secret_version
-- Remove a version of a secret; its number stays used.
DELETE FROM secret_version
 WHERE tenant  = %(tenant)s
   AND name    = %(name)s
   AND version = %(version)s
RETURNING version;

-- name: data_key
-- A tenant's data key, as it is wrapped.
SELECT tenant, wrapped, master
  FROM data_key
 WHERE tenant = %(tenant)s;

-- name: data_keys
-- All data keys by tenant, held so that nobody else wraps them meanwhile.
SELECT tenant, wrapped, master
  FROM data_key
 ORDER BY tenant
   FOR UPDATE;

-- name: add_data_key
-- Write a tenant's first data key; if it has one, that one stays.
INSERT INTO data_key (tenant, wrapped, master, created_at)
VALUES (%(tenant)s, %(wrapped)s, %(master)s, COALESCE(%(now)s::timestamptz, now()))
    ON CONFLICT (tenant) DO NOTHING;

-- name: rewrap_data_key
-- Replace how a data key is wrapped, or return no row if it is not wrapped under that master key any more.
UPDATE data_key
   SET wrapped = %(wrapped)s,
       master  = %(master)s
 WHERE tenant  = %(tenant)s
   AND master  = %(was)s
RETURNING tenant;

-- name: add_key
-- Write a new API key, or return no row if its id is taken; of its secret only the digest.
INSERT INTO api_key (key_id, tenant, name, roles, scopes, digest, created_at, created_by, expires_at)
VALUES (%(key_id)s, %(tenant)s, %(name)s, %(roles)s, %(scopes)s, %(digest)s,
        COALESCE(%(now)s::timestamptz, now()), %(created_by)s,
        LEAST(%(until)s::timestamptz, COALESCE(%(now)s::timestamptz, now()) + %(lasts)s::interval))
    ON CONFLICT DO NOTHING
RETURNING *;

-- name: api_key
-- An API key by its id, whatever became of it.
SELECT *
  FROM api_key
 WHERE key_id = %(key_id)s;

-- name: lock_key
-- An API key, held against whoever else would change it.
SELECT *
  FROM api_key
 WHERE key_id = %(key_id)s
   FOR UPDATE;

-- name: api_keys
-- The API keys of a tenant or of all, the oldest first.
SELECT *
  FROM api_key
 WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
 ORDER BY created_at, key_id;

-- name: usable_key
-- An API key that may be used now: neither revoked nor expired.
SELECT *
  FROM api_key
 WHERE key_id = %(key_id)s
   AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > COALESCE(%(now)s::timestamptz, now()));

-- name: touch_key
-- Note that a key was used, at most once a minute: a row version for each request would be too many.
UPDATE api_key
   SET last_used_at = COALESCE(%(now)s::timestamptz, now())
 WHERE key_id = %(key_id)s
   AND (last_used_at IS NULL
        OR last_used_at < COALESCE(%(now)s::timestamptz, now()) - interval '1 minute');

-- name: end_key_soon
-- Let a key expire after some time, unless it does so sooner.
UPDATE api_key
   SET expires_at = LEAST(expires_at, COALESCE(%(now)s::timestamptz, now()) + %(after)s::interval)
 WHERE key_id = %(key_id)s
   AND revoked_at IS NULL
RETURNING *;

-- name: revoke_key
-- Revoke a key for ever, or return no row if it is revoked already.
UPDATE api_key
   SET revoked_at = COALESCE(%(now)s::timestamptz, now()),
       revoked_by = %(by)s
 WHERE key_id = %(key_id)s
   AND revoked_at IS NULL
RETURNING *;

-- name: add_session
-- Write a session that ends at the first of two times, or return no row if its id is taken.
INSERT INTO session (session_id, key_id, tenant, name, roles, scopes, digest, created_at, expires_at)
VALUES (%(session_id)s, %(key_id)s, %(tenant)s, %(name)s, %(roles)s, %(scopes)s, %(digest)s,
        COALESCE(%(now)s::timestamptz, now()),
        LEAST(%(until)s::timestamptz, COALESCE(%(now)s::timestamptz, now()) + %(lasts)s::interval))
    ON CONFLICT DO NOTHING
RETURNING *;

-- name: usable_session
-- A session that may be used now; one that a key opened ends with its key.
SELECT s.*
  FROM session AS s
  LEFT JOIN api_key AS k
         ON k.key_id = s.key_id
 WHERE s.session_id = %(session_id)s
   AND s.ended_at IS NULL
   AND s.expires_at > COALESCE(%(now)s::timestamptz, now())
   AND (s.key_id IS NULL
        OR (k.revoked_at IS NULL
            AND (k.expires_at IS NULL OR k.expires_at > COALESCE(%(now)s::timestamptz, now()))));

-- name: end_session
-- End a session, or return no row if it has ended already.
UPDATE session
   SET ended_at = COALESCE(%(now)s::timestamptz, now())
 WHERE session_id = %(session_id)s
   AND ended_at IS NULL
RETURNING session_id;

-- name: forget_sessions
-- Remove sessions that ended or expired more than a day ago.
DELETE
  FROM session
 WHERE expires_at < COALESCE(%(now)s::timestamptz, now()) - interval '1 day';

-- name: add_conversation
-- Write a conversation that has no turns yet.
INSERT INTO conversation (conversation_id, tenant, owner, created_at)
VALUES (%(conversation_id)s, %(tenant)s, %(owner)s, COALESCE(%(now)s::timestamptz, now()));

-- name: conversation
-- One conversation, if it is this owner's.
SELECT conversation_id::text, tenant, owner, created_at, turns, last_plan_id::text
  FROM conversation
 WHERE conversation_id = %(conversation_id)s
   AND tenant = %(tenant)s
   AND owner = %(owner)s;

-- name: lock_conversation
-- One conversation, if it is this owner's, held until the transaction ends.
SELECT conversation_id::text, tenant, owner, created_at, turns, last_plan_id::text
  FROM conversation
 WHERE conversation_id = %(conversation_id)s
   AND tenant = %(tenant)s
   AND owner = %(owner)s
   FOR NO KEY UPDATE;

-- name: conversations
-- An owner's conversations, those begun last first, from behind the one that was begun then under that id.
SELECT conversation_id::text, tenant, owner, created_at, turns, last_plan_id::text
  FROM conversation
 WHERE tenant = %(tenant)s
   AND owner = %(owner)s
   AND (%(behind_at)s::timestamptz IS NULL
        OR created_at < %(behind_at)s
        OR (created_at = %(behind_at)s AND conversation_id > %(behind_id)s::uuid))
 ORDER BY created_at DESC, conversation_id
 LIMIT %(limit)s;

-- name: silent_conversations
-- Conversations in which nothing was said since then, those begun first first, held until the transaction ends; one whose plan goes on is not silent.
SELECT c.conversation_id::text
  FROM conversation AS c
 WHERE c.created_at <= COALESCE(%(now)s::timestamptz, now()) - %(kept)s
   AND NOT EXISTS (
       SELECT FROM turn AS t
         LEFT JOIN plan AS p USING (plan_id)
        WHERE t.conversation_id = c.conversation_id
          AND (t.at > COALESCE(%(now)s::timestamptz, now()) - %(kept)s OR (t.plan_id IS NOT NULL AND p.finished_at IS NULL)))
 ORDER BY c.created_at, c.conversation_id
 LIMIT %(limit)s
   FOR UPDATE OF c SKIP LOCKED;

-- name: forget_conversations
-- Remove those of these conversations, which are held, that are still silent: another may have spoken before they were held.
DELETE
  FROM conversation AS c
 WHERE c.conversation_id = ANY(%(conversation_ids)s::uuid[])
   AND NOT EXISTS (
       SELECT FROM turn AS t
        WHERE t.conversation_id = c.conversation_id
          AND t.at > COALESCE(%(now)s::timestamptz, now()) - %(kept)s)
RETURNING conversation_id::text, tenant, owner, created_at, turns, last_plan_id::text;

-- name: remove_conversation
-- Remove a conversation and its turns, if it is this owner's.
DELETE
  FROM conversation
 WHERE conversation_id = %(conversation_id)s
   AND tenant = %(tenant)s
   AND owner = %(owner)s
RETURNING conversation_id;

-- name: add_turn
-- Write a turn, or return no row if its owner has used its key before.
INSERT INTO turn (conversation_id, number, tenant, owner, role, content, route, goal, plan_id, answer, idempotency_key,
                  fingerprint, at)
VALUES (%(conversation_id)s, %(number)s, %(tenant)s, %(owner)s, %(role)s, %(content)s, %(route)s, %(goal)s, %(plan_id)s,
        %(answer)s, %(key)s, %(fingerprint)s, COALESCE(%(now)s::timestamptz, now()))
    ON CONFLICT (tenant, owner, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING number;

-- name: grow_conversation
-- Count the turns that were written, and note the plan that the conversation now speaks about, if it is another.
UPDATE conversation
   SET turns        = %(turns)s,
       last_plan_id = COALESCE(%(plan_id)s, last_plan_id)
 WHERE conversation_id = %(conversation_id)s
   AND turns = %(turns)s - 2
RETURNING conversation_id;

-- name: turn_of_key
-- The message that an owner's idempotency key made.
SELECT conversation_id::text, number, fingerprint
  FROM turn
 WHERE tenant = %(tenant)s
   AND owner = %(owner)s
   AND idempotency_key = %(key)s;

-- name: turns
-- Turns of a conversation by number, from behind one of them.
SELECT conversation_id::text, number, role, content, at, route, goal, plan_id::text, answer
  FROM turn
 WHERE conversation_id = %(conversation_id)s
   AND number > %(after)s
 ORDER BY number
 LIMIT %(limit)s;

-- name: answer_turn
-- Give a turn its answer, or return no row if it has one.
UPDATE turn
   SET content = %(content)s,
       answer  = %(answer)s,
       at      = COALESCE(%(now)s::timestamptz, now())
 WHERE conversation_id = %(conversation_id)s
   AND number = %(number)s
   AND role = 'assistant'
   AND answer IS NULL
RETURNING number;
