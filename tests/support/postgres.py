"""A PostgreSQL server of the tests' own: a fresh cluster on a free port, gone at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
from psycopg import sql

ROLE = "ironyard"


def server_programs() -> Path | None:
    """The folder with initdb and pg_ctl, from PATH or Debian's place for them."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    return places[-1].parent if places else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def memory(room: int = 4 << 30) -> Path | None:
    """A folder in memory with `room` bytes free: making and dropping hundreds of databases writes no disk."""
    place = Path("/dev/shm")
    return place if place.is_dir() and shutil.disk_usage(place).free >= room else None


class PostgresServer:
    """PostgreSQL refuses to run as root, so as root it runs as the `postgres` account."""

    def __init__(self, programs: Path, *options: str, place: Path | None = None) -> None:
        """The cluster lies in `place`, by default where temporary files do."""
        self.programs = programs
        self.directory = Path(tempfile.mkdtemp(prefix="ironyard-postgres-", dir=place))
        self.port = free_port()
        self.account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        self.options = ("-c", "fsync=off", "-c", "max_connections=200", *options)

    def start(self) -> None:
        if self.account:
            os.chown(self.directory, self.account.pw_uid, self.account.pw_gid)
        data = str(self.directory / "data")
        self._run("initdb", "-D", data, "-U", ROLE, "--auth=trust", "--no-sync", "-E", "UTF8")
        self.resume()

    def resume(self) -> None:
        """Start it, after `crash` on the data that it had."""
        listen = f"-p {self.port} -k {self.directory} -c listen_addresses=127.0.0.1"
        self._run(
            "pg_ctl",
            "-D",
            str(self.directory / "data"),
            "-l",
            str(self.directory / "log"),
            "-o",
            " ".join((listen, *self.options)),
            "-w",
            "start",
        )

    def crash(self) -> None:
        self._run("pg_ctl", "-D", str(self.directory / "data"), "-m", "immediate", "stop")

    def restart(self) -> None:
        """As after a crash: what is not committed is lost, and every connection with it."""
        data, log = str(self.directory / "data"), str(self.directory / "log")
        self._run("pg_ctl", "-D", data, "-l", log, "-m", "immediate", "-w", "restart")

    def stop(self) -> None:
        self.crash()
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, database: str) -> str:
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}"

    def pid(self) -> int:
        return int((self.directory / "data" / "postmaster.pid").read_text().split()[0])

    def create(self, database: str, *, template: str | None = None) -> str:
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database))
        if template:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)
        return self.url(database)

    def drop(self, database: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(statement.format(sql.Identifier(database)))

    def _run(self, program: str, *arguments: str) -> None:
        account = self.account
        done = subprocess.run(
            [self.programs / program, *arguments],
            cwd="/",
            check=False,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if program == "initdb" else None,
            text=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
        if done.returncode:
            log = self.directory / "log"
            raise RuntimeError(
                f"{program} failed: {done.stdout or ''}{log.read_text() if log.exists() else ''}"
            )
