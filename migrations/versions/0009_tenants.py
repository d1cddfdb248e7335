"""Rows that show themselves to their tenant only: row-level security, and the two roles that it knows.

`orchestrator_tenant` is what a transaction for one tenant becomes; it sees the rows of the tenant that `app.tenant`
names, and none where that is not set. `orchestrator_fleet` is a mark: whoever bears it works for all tenants and sees
every row. Neither may log in. Both belong to the whole server, and may have been made for another database before.
"""

from alembic import op
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy.exc import OperationalError

from orchestrator.domain.errors import Misconfigured

revision = "0009"
down_revision = "0008"

TRIES = 60
"""How often all tables are asked for, a second each: longer than anybody may leave a transaction alone."""

ROLES = ("orchestrator_tenant", "orchestrator_fleet")

TENANT = "NULLIF(current_setting('app.tenant', true), '')"  # a setting that has ended is empty, not away
OWN = f"tenant = {TENANT}"
# one value for each row, found by its key: what EXISTS asks for may be answered by reading all plans of the tenant
OF_PLAN = f"(SELECT p.tenant FROM plan AS p WHERE p.plan_id = {{table}}.{{column}}) = {TENANT}"
OF_SCHEDULE = f"(SELECT s.tenant FROM schedule AS s WHERE s.schedule_id = firing.schedule_id) = {TENANT}"
OF_APPROVAL = (
    "(SELECT p.tenant FROM approval AS a JOIN plan AS p ON p.plan_id = a.plan_id"
    f" WHERE a.approval_id = {{table}}.approval_id) = {TENANT}"
)
# a chain is a plan's, or the tenant's own
OF_LEDGER = f"(SELECT l.tenant FROM ledger AS l WHERE l.chain = audit.chain) = {TENANT}"


def _of_plan(table: str, column: str = "plan_id") -> str:
    return OF_PLAN.format(table=table, column=column)


# table, what its tenant may do there, which rows are its own, and which it may write where those are fewer
TABLES = (
    ("plan", "SELECT, INSERT, UPDATE", OWN, None),
    ("step", "SELECT, INSERT, UPDATE", _of_plan("step"), None),
    ("outcome", "SELECT, INSERT", _of_plan("outcome"), None),
    ("event", "SELECT, INSERT", _of_plan("event"), None),
    ("ledger", "SELECT, INSERT, UPDATE", OWN, None),
    ("audit", "SELECT, INSERT", f"({_of_plan('audit', 'chain')} OR {OF_LEDGER})", None),
    ("call", "SELECT, INSERT, UPDATE", _of_plan("call"), None),
    ("report", "SELECT", _of_plan("report"), None),
    ("approval", "SELECT, INSERT, UPDATE", _of_plan("approval"), None),
    ("ruling", "SELECT, INSERT", OF_APPROVAL.format(table="ruling"), None),
    ("notification", "SELECT, INSERT", OF_APPROVAL.format(table="notification"), None),
    # one of no plan belongs to nobody but the operators
    ("dead_letter", "SELECT, INSERT, UPDATE", _of_plan("dead_letter"), None),
    ("evidence", "SELECT, INSERT", OWN, None),
    ("fact", "SELECT, INSERT", _of_plan("fact"), f"{OWN} AND {_of_plan('fact')}"),
    ("schedule", "SELECT, INSERT, UPDATE, DELETE", OWN, None),
    # foreign keys see every row, so a key must not lead to another tenant's
    (
        "firing",
        "SELECT, INSERT, UPDATE",
        OF_SCHEDULE,
        f"{OF_SCHEDULE} AND (plan_id IS NULL OR {_of_plan('firing')})",
    ),
    # a tenant rings for its own plans, and hears nobody's bell
    ("outbox", "INSERT", "false", f"(tenant = '' OR {OWN}) AND {_of_plan('outbox')}"),
    ("tenant", "SELECT", OWN, None),
)


def upgrade() -> None:
    connection = op.get_bind()
    _roles(connection)
    _hold_all(connection)
    for table, privileges, visible, writable in TABLES:
        check = f" WITH CHECK ({writable})" if writable else ""
        for statement in (
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY of_tenant ON {table} TO orchestrator_tenant USING ({visible}){check}",
            f"CREATE POLICY of_fleet ON {table} TO orchestrator_fleet USING (true)",
            f"GRANT {privileges} ON {table} TO orchestrator_tenant",
        ):
            connection.exec_driver_sql(statement)


def _roles(connection) -> None:
    me, free, new = connection.exec_driver_sql(
        "SELECT current_user, rolsuper, current_setting('server_version_num')::int >= 160000"
        "  FROM pg_roles WHERE rolname = current_user"
    ).one()
    for role in ROLES:
        _try(connection, f"CREATE ROLE {role} NOLOGIN")
    if _count(connection, "rolname = 'orchestrator_tenant' AND (rolsuper OR rolbypassrls)"):
        raise Misconfigured(
            "The role orchestrator_tenant may see every row, which it is there to prevent. Let an administrator run "
            "ALTER ROLE orchestrator_tenant NOSUPERUSER NOBYPASSRLS; and start again."
        )
    if not free:
        # from version 16 on, a mark that would make the login see less is borne without its effect
        become, bear = (" WITH INHERIT FALSE, SET TRUE", " WITH INHERIT TRUE") if new else ("", "")
        _try(connection, f"GRANT orchestrator_tenant TO CURRENT_USER{become}")
        _try(connection, f"GRANT orchestrator_fleet TO CURRENT_USER{bear}")
    may_become = "pg_has_role(oid, 'SET')" if new else "pg_has_role(oid, 'MEMBER')"
    if not (
        _count(connection, f"rolname = 'orchestrator_tenant' AND {may_become}")
        and _count(connection, "rolname = 'orchestrator_fleet' AND pg_has_role(oid, 'USAGE')")
    ):
        raise Misconfigured(
            f"The login {me} may not make the roles that keep tenants apart, or may not give them to itself. Let an "
            "administrator run, where they are missing, CREATE ROLE orchestrator_tenant NOLOGIN; CREATE ROLE "
            f'orchestrator_fleet NOLOGIN; and then GRANT orchestrator_tenant, orchestrator_fleet TO "{me}"; '
            "and start again."
        )
    if not connection.exec_driver_sql(
        "SELECT has_schema_privilege('orchestrator_tenant', current_schema(), 'USAGE')"
    ).scalar():
        _try(connection, "GRANT USAGE ON SCHEMA public TO orchestrator_tenant")


def _hold_all(connection) -> None:
    """Hold every table, or none of them: a fleet that works meanwhile holds several too, in an order of its own."""
    for tries_left in reversed(range(TRIES)):
        try:
            with connection.begin_nested():
                connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
                connection.exec_driver_sql(f"LOCK {', '.join(table for table, *_ in TABLES)} IN ACCESS EXCLUSIVE MODE")
        except OperationalError as error:
            if not tries_left or not isinstance(error.orig, (LockNotAvailable, DeadlockDetected)):
                raise
        else:
            return


def _count(connection, condition: str) -> int:
    return connection.exec_driver_sql(f"SELECT count(*) FROM pg_roles WHERE {condition}").scalar()


def _try(connection, statement: str) -> None:
    """Run a statement that another database's migration may be running just now, or that is an administrator's."""
    connection.exec_driver_sql(
        f"DO $$ BEGIN {statement}; EXCEPTION WHEN duplicate_object OR unique_violation OR internal_error "
        "OR insufficient_privilege OR undefined_object THEN NULL; END $$"
    )


def downgrade() -> None:
    raise NotImplementedError("Plans are never migrated away; restore a backup instead.")
