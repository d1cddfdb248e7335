"""The two roles that row-level security knows: made once for a whole server, and given to whoever migrates."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
import structlog
from alembic import command
from alembic.config import Config
from psycopg import sql
from psycopg.conninfo import make_conninfo

from orchestrator import database, settings
from orchestrator.domain.errors import ForeignTenant, Misconfigured
from orchestrator.domain.plan import StepRef, request
from orchestrator.store import PgStore
from tests.contract.bench import claim_one, complete_one, new_plan, new_steps
from tests.contract.test_postgres import eventually
from tests.contract.test_tenants import OURS, THEIRS, conductor_on
from workers import cli

pytestmark = pytest.mark.postgres

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("orchestrator_tenant", "orchestrator_fleet")


class Machine:
    """A Postgres of its own: roles belong to a whole server."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._names: list[str] = []
        self.run("ALTER SYSTEM SET fsync = off")
        self.run("SELECT pg_reload_conf()")

    def run(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def login(self, *options: str) -> str:
        """Make a login; its name."""
        name = f"login {secrets.token_hex(3)}"
        self.run(f"CREATE ROLE {{}} LOGIN PASSWORD 'secret' {' '.join(options)}", name)
        return name

    def database(self, owner: str) -> str:
        """Make a database that belongs to a login; its address for that login."""
        name = f"db_{secrets.token_hex(4)}"
        self.run("CREATE DATABASE {} OWNER {}", name, owner)
        self._names.append(name)
        return make_conninfo(self.dsn, dbname=name, user=owner, password="secret")

    def forget(self) -> None:
        """Remove every database and both roles."""
        for name in self._names:
            self.run("DROP DATABASE {} WITH (FORCE)", name)
        self._names.clear()
        for role in ROLES:
            self.run("DROP ROLE IF EXISTS {}", role)


@pytest.fixture(scope="module")
def server() -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="orc-"))
    embedded = database.Embedded(folder)
    yield Machine(embedded.dsn)
    embedded.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def machine(server) -> Iterator[Machine]:
    """A server that has none of the roles."""
    yield server
    server.forget()


@contextmanager
def opened(dsn: str) -> Iterator[PgStore]:
    store = PgStore(dsn, size=2)
    try:
        yield store
    finally:
        store.close()


def upgrade(dsn: str, *, to: str) -> None:
    """Migrate as far as an older release did."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    connect = {"creator": lambda: psycopg.connect(dsn), "poolclass": sqlalchemy.NullPool}
    with sqlalchemy.create_engine("postgresql+psycopg://", **connect).connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, to)
        connection.commit()


def waits(machine: Machine, dsn: str) -> bool:
    """Whether somebody waits for a table of a database."""
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    query = "SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database WHERE NOT l.granted AND d.datname = %s"
    with psycopg.connect(machine.dsn) as connection:
        return connection.execute(query, [name]).fetchone() is not None


class TestMigrating:
    @pytest.mark.parametrize("power", ["SUPERUSER", "CREATEROLE"])
    def test_several_databases_of_one_server_at_once_makes_each_role_once(self, machine, power):
        login = machine.login(power)
        dsns = [machine.database(login) for _ in range(4)]
        code = "import sys; from orchestrator import database; database.migrate(sys.argv[1])"
        processes = [subprocess.Popen([sys.executable, "-c", code, dsn], cwd=ROOT) for dsn in dsns]
        assert [process.wait(60) for process in processes] == [0] * len(dsns)
        for dsn in dsns:
            with opened(dsn) as store:
                assert store.exposure() is None

    def test_by_a_login_that_may_not_make_roles_says_what_an_administrator_must_run(self, machine):
        login = machine.login()
        dsn = machine.database(login)
        with pytest.raises(Misconfigured) as refused:
            database.migrate(dsn)
        said = str(refused.value)
        assert database.revision(dsn) == "0008"

        for statement in (
            "CREATE ROLE orchestrator_tenant NOLOGIN",
            "CREATE ROLE orchestrator_fleet NOLOGIN",
            f'GRANT orchestrator_tenant, orchestrator_fleet TO "{login}"',
        ):
            assert f"{statement};" in said
            machine.run(statement)
        database.migrate(dsn)

        with opened(dsn) as store:
            assert store.exposure() is None

    def test_by_a_login_to_which_nobody_gave_the_roles_says_so(self, machine):
        for role in ROLES:
            machine.run("CREATE ROLE {} NOLOGIN", role)
        with pytest.raises(Misconfigured, match="GRANT orchestrator_tenant, orchestrator_fleet TO"):
            database.migrate(machine.database(machine.login()))

    @pytest.mark.parametrize("power", ["SUPERUSER", "BYPASSRLS"])
    def test_refuses_a_role_of_tenants_that_no_policy_would_keep_from_anything(self, machine, power):
        machine.run(f"CREATE ROLE orchestrator_tenant NOLOGIN {power}")
        with pytest.raises(Misconfigured, match="NOSUPERUSER NOBYPASSRLS"):
            database.migrate(machine.database(machine.login("SUPERUSER")))

    def test_beside_a_fleet_that_works_waits_its_turn_and_harms_nobody(self, machine):
        dsn = machine.database(machine.login("SUPERUSER"))
        upgrade(dsn, to="0008")
        with psycopg.connect(dsn) as worker, ThreadPoolExecutor(1) as pool:
            worker.execute("SET deadlock_timeout = '60s'")  # whoever migrates notices first
            worker.execute("SELECT FROM approval")
            migrating = pool.submit(database.migrate, dsn)
            assert eventually(lambda: waits(machine, dsn))
            worker.execute("SELECT FROM plan FOR UPDATE")
            worker.commit()
            migrating.result(60)
        with opened(dsn) as store:
            assert store.exposure() is None

    def test_on_a_server_whose_schema_is_not_for_everybody_lets_tenants_in(self, machine):
        dsn = machine.database(machine.login("CREATEROLE"))
        with psycopg.connect(dsn) as owner:
            owner.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        database.migrate(dsn)
        with opened(dsn) as store:
            plan = conductor_on(store.of(OURS)).submit(request("What is a key?", tenant=OURS))
            with store.of(OURS).transaction() as tx:
                assert tx.plan(plan.plan_id) is not None


class TestALoginThatIsNoSuperuser:
    @pytest.fixture
    def dsn(self, machine) -> str:
        made = machine.database(machine.login("CREATEROLE"))
        database.migrate(made)
        return made

    def test_works_for_all_tenants(self, dsn):
        with opened(dsn) as store:
            refs = [r for t in (OURS, THEIRS) for r in new_steps(store, plan_id=new_plan(store, tenant=t))]
            with store.at_once() as tx:
                claimed = tx.claim_steps(refs, holder=7, lease=conductor_on(store).rules.lease)
            assert set(claimed) == set(refs)
            for ref in refs:
                with store.transaction() as tx:
                    assert complete_one(tx, ref)
            conductor_on(store).settle_all(refs)
            with store.transaction() as tx:
                assert {plan.tenant for plan in tx.plans()} == {OURS, THEIRS}
                assert {m.ref.plan_id for m in tx.take_outbox(100)} == {ref.plan_id for ref in refs}
                assert tx.tally().plans

    def test_is_confined_as_soon_as_it_acts_for_one(self, dsn):
        with opened(dsn) as store:
            theirs = new_plan(store, tenant=THEIRS)
            with store.of(OURS).transaction() as tx:
                assert tx.plan(theirs) is None
                assert claim_one(tx, StepRef(theirs, 1), holder=7) is None
            with pytest.raises(ForeignTenant):
                new_plan(store.of(OURS), tenant=THEIRS)

    def test_that_lost_the_mark_of_the_fleet_sees_nothing_though_it_owns_every_table(self, dsn):
        with opened(dsn) as store:
            new_plan(store, tenant=OURS)
            with psycopg.connect(dsn, autocommit=True) as owner:
                owner.execute("REVOKE orchestrator_fleet FROM CURRENT_USER")
                assert owner.execute("SELECT count(*) FROM plan").fetchone() == (0,)

    def test_from_which_the_role_of_tenants_was_taken_acts_for_none(self, dsn):
        login = str(psycopg.conninfo.conninfo_to_dict(dsn)["user"])
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute("REVOKE orchestrator_tenant FROM CURRENT_USER")
        with opened(dsn) as store:
            said = f'GRANT orchestrator_tenant TO "{login}"'
            with pytest.raises(Misconfigured, match=said), store.of(OURS).transaction() as tx:
                tx.plans()
            assert "GRANT orchestrator_tenant" in (store.exposure() or "")
            new_plan(store, tenant=OURS)  # whoever works for all is not concerned


class TestADatabaseThatDoesNotKeepTenantsApart:
    @pytest.fixture
    def run(self, dsn, tmp_path, capsys, monkeypatch):
        """Run a verb in this process, on such a database."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("ALTER TABLE fact DISABLE ROW LEVEL SECURITY")
        for name in [n for n in os.environ if n.startswith(settings.PREFIX)]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("ORCHESTRATOR_DATA_DIR", str(tmp_path))
        monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", dsn)

        def run(*arguments: str) -> tuple[int, str, str]:
            code = cli.run(arguments)
            return (code, *capsys.readouterr())

        yield run
        logging.disable(logging.NOTSET)
        structlog.reset_defaults()

    def test_is_not_served(self, run):
        code, _, err = run("serve", "api", "--port", "0", "--no-work")
        assert code != 0
        assert "tenants would not be kept apart" in err
        assert "fact" in err

    def test_is_told_of_by_the_doctor(self, run):
        code, out, _ = run("doctor")
        assert code == 1
        assert "Tenants see each other" in out
