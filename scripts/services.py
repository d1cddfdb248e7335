"""Brings up real Postgres, RabbitMQ and Redis for a test or a developer, and takes them down again.

For each service, in this order:

    1. the server that its variable names (ORCHESTRATOR_TEST_DATABASE_URL, …_BROKER_URL, …_REDIS_URL);
    2. Docker, where an engine runs, through testcontainers;
    3. Debian's package, started here under a folder, on loopback and a free port; installed first when root.

Never a stand-in, and never a silent skip: what cannot be had is an error that says what to do.

    python scripts/services.py up FOLDER               start them, print their addresses as shell exports, and wait for Ctrl-C
    python scripts/services.py run FOLDER COMMAND…     start them, run a command that finds their addresses, and stop them
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

START_S = 90.0


class ServiceMissing(RuntimeError):
    """A real service cannot be had here; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A Postgres server: `url` reaches a database of its superuser."""

    url: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class RabbitMQ:
    """A broker: `url` is AMQP, `api` its management interface; `ctl` runs rabbitmqctl where that is possible."""

    url: str
    api: str
    ctl: Callable[..., str] | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Redis:
    """A Redis server."""

    url: str
    pid: int | None = None


def free_port() -> int:
    """A port of the loopback interface that nobody listens on, another one each time.

    It is none of those that the kernel gives to connections. One of them may be taken by anybody's connection before the
    server listens there, or while a killed one comes back; a client that knocks there meanwhile may even be given the
    very port that it knocks at, and talk to itself.
    """
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServiceMissing("No port below those of connections is free; end what listens there.")


def connection_ports() -> range:
    """The ports that the kernel gives to connections."""
    try:
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except OSError:  # no Linux
        first, last = 49_152, 65_535
    return range(first, last + 1)


def _ports() -> Iterator[int]:
    """Every other port that needs no privilege, in an order of this process' own: several suites run at once."""
    every = [port for port in range(10_000, 65_536) if port not in connection_ports()]
    yield from random.SystemRandom().sample(every, len(every))


_PORTS = _ports()


@contextlib.contextmanager
def rabbitmq(folder: Path | None = None, *, port: int | None = None) -> Iterator[RabbitMQ]:
    """A RabbitMQ with its management interface."""
    given = os.environ.get("ORCHESTRATOR_TEST_BROKER_URL")
    if given:
        host = urllib.parse.urlsplit(given).hostname
        api = os.environ.get("ORCHESTRATOR_TEST_BROKER_API", f"http://guest:guest@{host}:15672")
        yield RabbitMQ(given, api)
        return
    if docker_runs():
        with _container("rabbitmq:4-management", 5672, 15672) as (main, management):
            yield RabbitMQ(
                f"amqp://guest:guest@127.0.0.1:{main}//", f"http://guest:guest@127.0.0.1:{management}"
            )
        return
    with _rabbitmq_here(folder, port) as server:
        yield server


@contextlib.contextmanager
def _rabbitmq_here(folder: Path | None, port: int | None) -> Iterator[RabbitMQ]:
    binary = _program("rabbitmq-server", "rabbitmq-server", "/usr/lib/rabbitmq/bin")
    with _folder(folder, "rabbit") as home:
        amqp, management, distribution, mapper = port or free_port(), free_port(), free_port(), free_port()
        (home / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{amqp}\n"
            "loopback_users = none\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {management}\n"
            "log.console = false\n"
        )
        (home / "enabled_plugins").write_text("[rabbitmq_management].\n")
        environment = {
            **os.environ,
            "HOME": str(home),
            "RABBITMQ_NODENAME": f"orchestrator{amqp}@localhost",
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
        }

        def ctl(*arguments: str) -> str:
            program = str(Path(binary).with_name("rabbitmqctl"))
            done = subprocess.run(
                [program, *arguments], env=environment, capture_output=True, text=True, check=True
            )
            return done.stdout

        with _process([binary], home / "out", environment) as process:
            _wait_for_port(amqp, process, home / "out")
            _wait_for_port(management, process, home / "out")
            try:
                yield RabbitMQ(
                    f"amqp://guest:guest@127.0.0.1:{amqp}//",
                    f"http://guest:guest@127.0.0.1:{management}",
                    ctl,
                    process.pid,
                )
            finally:
                if process.poll() is None:
                    with contextlib.suppress(subprocess.CalledProcessError):
                        ctl("stop")
        epmd = shutil.which("epmd")
        if epmd:
            subprocess.run(
                [epmd, "-port", str(mapper), "-kill"], env=environment, capture_output=True, check=False
            )


@contextlib.contextmanager
def redis(folder: Path | None = None, *, port: int | None = None) -> Iterator[Redis]:
    """A Redis that keeps nothing on disk."""
    given = os.environ.get("ORCHESTRATOR_TEST_REDIS_URL")
    if given:
        yield Redis(given)
        return
    if docker_runs():
        with _container("redis:7", 6379) as (main,):
            yield Redis(f"redis://127.0.0.1:{main}/0")
        return
    binary = _program("redis-server", "redis-server")
    with _folder(folder, "redis") as home:
        at = port or free_port()
        options = [
            "--bind",
            "127.0.0.1",
            "--port",
            str(at),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            str(home),
        ]
        with _process([binary, *options], home / "out", dict(os.environ)) as process:
            _wait_for_port(at, process, home / "out")
            yield Redis(f"redis://127.0.0.1:{at}/0", process.pid)


@contextlib.contextmanager
def postgres(folder: Path | None = None, *, port: int | None = None) -> Iterator[Postgres]:
    """A Postgres with its disk synced, on TCP."""
    given = os.environ.get("ORCHESTRATOR_TEST_DATABASE_URL")
    if given:
        yield Postgres(given)
        return
    if docker_runs():
        with _container("postgres:17", 5432, POSTGRES_PASSWORD="test") as (main,):  # noqa: S106 - a throw-away server
            yield Postgres(f"postgresql://postgres:test@127.0.0.1:{main}/postgres")
        return
    with _postgres_here(folder, port) as server:
        yield server


def bubblewrap() -> str:
    """The program that builds the walls of the sandbox; installed first when root."""
    return _program("bwrap", "bubblewrap")


@contextlib.contextmanager
def _postgres_here(folder: Path | None, port: int | None) -> Iterator[Postgres]:
    initdb = _program("initdb", "postgresql", *_versions())
    with _folder(folder, "pg") as home:
        at, data = port or free_port(), home / "data"
        runner = _unprivileged(home)
        if not (data / "PG_VERSION").exists():
            subprocess.run(
                [
                    *runner,
                    initdb,
                    "--auth=trust",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    "-U",
                    "postgres",
                    "-D",
                    str(data),
                ],
                check=True,
                capture_output=True,
            )
        server = str(Path(initdb).with_name("postgres"))
        options = [
            "-D",
            str(data),
            "-h",
            "127.0.0.1",
            "-p",
            str(at),
            "-k",
            str(home),
            "-c",
            "max_connections=300",
        ]
        with _process(
            [*runner, server, *options], home / "out", dict(os.environ), stop=signal.SIGINT
        ) as process:
            _wait_for_port(at, process, home / "out")
            _wait_until_it_answers(f"postgresql://postgres@127.0.0.1:{at}/postgres")
            yield Postgres(f"postgresql://postgres@127.0.0.1:{at}/postgres", process.pid)


def _versions() -> list[str]:
    root = Path("/usr/lib/postgresql")
    found = sorted(
        (p for p in root.glob("*/bin") if p.parent.name.isdigit()), key=lambda p: -int(p.parent.name)
    )
    return [str(p) for p in found]


def _unprivileged(home: Path) -> list[str]:
    """Postgres refuses to run as root; Debian's package brings a user for it."""
    if os.geteuid() != 0:
        return []
    shutil.chown(home, "postgres")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]


def _wait_until_it_answers(url: str) -> None:
    import psycopg

    deadline = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def docker_runs() -> bool:
    """Whether a Docker engine answers here."""
    if shutil.which("docker") is None:
        return False
    try:
        return (
            subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


@contextlib.contextmanager
def _container(image: str, *ports: int, **environment: str) -> Iterator[tuple[int, ...]]:
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(image).with_exposed_ports(*ports)
    for name, value in environment.items():
        container = container.with_env(name, value)
    with container as running:
        mapped = tuple(int(running.get_exposed_port(p)) for p in ports)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and not all(_listens(p) for p in mapped):
            time.sleep(0.2)
        yield mapped


def _program(name: str, package: str, *folders: str) -> str:
    # of several test runs at once one installs, and nobody uses what is only half installed
    with _one_at_a_time():
        found = _find(name, folders)
        if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
            _install(package)
            found = _find(name, _versions() if package == "postgresql" else folders)
    if found is None:
        raise ServiceMissing(
            f"{name} is not installed, no Docker engine runs, and no address was given. "
            f"Install Debian's package {package}, start Docker, or set ORCHESTRATOR_TEST_…_URL."
        )
    return found


def _find(name: str, folders: tuple[str, ...] | list[str]) -> str | None:
    for folder in folders:
        if (Path(folder) / name).exists():
            return str(Path(folder) / name)
    return None if folders and package_folder_only(name) else shutil.which(name)


def package_folder_only(name: str) -> bool:
    """Whether a program of that name on the PATH is a wrapper that changes user, and must not be taken."""
    return name == "rabbitmq-server"


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    path = Path(tempfile.gettempdir()) / f"orchestrator-services-{os.geteuid()}.lock"
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(package: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    sys.stderr.write(f"Installing Debian's package {package} …\n")
    # the package must not start a server of its own: the one wanted here is started below
    policy = Path("/usr/sbin/policy-rc.d")
    made = not policy.exists()
    if made:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for command in (
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", package],
        ):
            subprocess.run(command, env=environment, check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        raise ServiceMissing(
            f"apt-get could not install {package}: {error.stderr.decode()[-500:]}"
        ) from error
    finally:
        if made:
            policy.unlink()


ROOM_BYTES = 2 << 30


def scratch(prefix: str) -> Path:
    """A new folder for what ends with the run: in memory where there is room, for a server there waits for no disk.

    What a killed server wrote is there when it comes back, as it is on a disk: the kernel has it, not the server.
    """
    memory = Path("/dev/shm")  # noqa: S108 - the folder has a name of its own, and is nobody else's
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOM_BYTES
    made = Path(tempfile.mkdtemp(prefix=prefix, dir=memory if roomy else None))
    made.chmod(0o755)  # Postgres' own user must find its way
    return made


@contextlib.contextmanager
def _folder(given: Path | None, name: str) -> Iterator[Path]:
    if given is not None:
        home = given / name
        home.mkdir(parents=True, exist_ok=True)
        yield home
        return
    home = Path(tempfile.mkdtemp(prefix=f"orc-{name}-"))
    home.chmod(0o755)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _process(
    command: list[str], log: Path, environment: dict[str, str], *, stop: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(stop)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServiceMissing(
                f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-2000:]}"
            )
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    """Start all three under a folder, and wait, or run a command on them."""
    verb, *rest = sys.argv[1:] or [""]
    if not ((verb == "up" and len(rest) == 1) or (verb == "run" and len(rest) > 1)):
        sys.stderr.write(__doc__ or "")
        return 2
    folder, command = Path(rest[0]).resolve(), rest[1:]
    # not `sigwait`: a signal that is not blocked ends the process, and leaves the servers behind
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with postgres(folder) as database, rabbitmq(folder) as broker, redis(folder) as cache:
        addresses = {
            "ORCHESTRATOR_DATABASE_URL": database.url,
            "ORCHESTRATOR_BROKER_URL": broker.url,
            "ORCHESTRATOR_REDIS_URL": cache.url,
        }
        if command:
            return subprocess.run(command, env={**os.environ, **addresses}, check=False).returncode
        for name, url in addresses.items():
            print(f"export {name}={url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
