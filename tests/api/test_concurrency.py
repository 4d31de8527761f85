"""A transaction that lost a race, or whose connection died, runs again as a whole; nothing is done twice."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import psycopg
import pytest
import sqlalchemy as sa
from fastapi import APIRouter, FastAPI
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from api.core import metrics, retries
from api.core.access import Actor, Permission, needs
from api.core.db import Database, TransactionalRoute, Tx, make_engine, table
from api.core.errors import Exists
from api.settings import Settings
from api.workspaces.models import Organisation
from tests.conftest import Client
from tests.support.postgres import PostgresServer, server_programs

ORGANISATIONS = table(Organisation)
ME = Annotated[Actor, needs(Permission.PROFILE)]
CLAIMS = "/api/v1/allocations"
TOGETHER = {"gpus": 2, "same_host": True}
Attempt = Callable[[Session, int], None]

postgresql = pytest.mark.parametrize(
    "database_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


def insert(tx: Session, slug: str) -> None:
    tx.add(Organisation(slug=slug, name=slug))
    tx.flush()


def slugs(database: Database) -> set[str]:
    with database.snapshot() as tx:
        return set(tx.execute(sa.select(ORGANISATIONS.c.slug)).scalars()) - {"default"}


def retried(route: str, reason: str) -> float:
    return float(metrics.TRANSACTION_RETRIES.labels(route, reason)._value.get())


class Route:
    """A route of the test's own that inserts one organisation and does `attempt` at its n-th run, from 1."""

    def __init__(self, app: FastAPI, attempt: Attempt, *, reads: bool = False) -> None:
        self.path = f"/test/{uuid.uuid4().hex[:6]}"
        self.runs = 0
        router = APIRouter(route_class=TransactionalRoute)

        def endpoint(tx: Tx, actor: ME) -> dict[str, int]:
            self.runs += 1
            run = self.runs
            if not reads:
                insert(tx, "made")
            attempt(tx, run)
            return {"run": run}

        router.add_api_route(self.path, endpoint, methods=["GET" if reads else "POST"])
        app.include_router(router)


def fails(state: str, times: int) -> Attempt:
    def attempt(tx: Session, run: int) -> None:
        if run <= times:
            tx.execute(sa.text(f"DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '{state}'; END $$"))

    return attempt


def dies(tx: Session, run: int) -> None:
    if run == 1:
        tx.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))


@postgresql
@pytest.mark.parametrize(("state", "reason"), [("40001", "serialization"), ("40P01", "deadlock")])
def test_a_lost_race_runs_the_whole_again(
    app: FastAPI, client: Client, database: Database, state: str, reason: str
) -> None:
    route = Route(app, fails(state, 2))
    assert client.ok("POST", route.path) == {"run": 3}
    assert slugs(database) == {"made"}
    assert retried(route.path, reason) == 2
    text = client.get("/metrics").text
    assert f'ironyard_transaction_retries_total{{reason="{reason}",route="{route.path}"}} 2.0' in text


@postgresql
def test_who_loses_every_time_is_told_that_nothing_was_changed(
    app: FastAPI, client: Client, database: Database
) -> None:
    route = Route(app, fails("40001", 99))
    problem = client.problem("POST", route.path, 503, "contended")
    assert "nothing was changed" in problem["detail"]
    assert route.runs == 1 + retries.RERUNS
    assert slugs(database) == set()


@postgresql
def test_other_errors_are_not_run_again(app: FastAPI, client: Client, database: Database) -> None:
    route = Route(app, fails("23514", 1))
    client.problem("POST", route.path, 409, "conflict")
    assert (route.runs, slugs(database)) == (1, set())


@postgresql
def test_a_real_deadlock_harms_nobody(app: FastAPI, client: Client, database: Database) -> None:
    with database.transaction() as tx:
        insert(tx, "a")
        insert(tx, "b")
    both_hold_one = threading.Barrier(2, timeout=20)
    runs: list[str] = []

    def crossing(order: str, tx: Tx, actor: ME) -> None:
        runs.append(order)
        tx.execute(sa.text("SET LOCAL deadlock_timeout = '20ms'"))
        for slug in order:
            mine = sa.update(ORGANISATIONS).where(ORGANISATIONS.c.slug == slug)
            tx.execute(mine.values(name=ORGANISATIONS.c.name + order))
            if slug == order[0] and len(runs) <= 2:
                both_hold_one.wait()

    router = APIRouter(route_class=TransactionalRoute)
    router.add_api_route("/test/crossing/{order}", crossing, methods=["POST"])
    app.include_router(router)
    together(lambda order: client.ok("POST", f"/test/crossing/{order}"), ["ab", "ba"])
    assert len(runs) == 3
    with database.snapshot() as tx:
        names = set(tx.execute(sa.select(ORGANISATIONS.c.name)).scalars())
    assert names & {"aabba", "abaab"}
    assert names & {"babba", "bbaab"}


@postgresql
def test_a_real_serialization_failure_loses_no_update(
    app: FastAPI, client: Client, database: Database
) -> None:
    with database.transaction() as tx:
        tx.add(Organisation(slug="counter", name="0"))
    both_have_read = threading.Barrier(2, timeout=20)
    runs: list[int] = []

    def count(tx: Tx, actor: ME) -> None:
        runs.append(1)
        tx.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        mine = ORGANISATIONS.c.slug == "counter"
        number = int(tx.execute(sa.select(ORGANISATIONS.c.name).where(mine)).scalar_one())
        if len(runs) <= 2:
            both_have_read.wait()
        tx.execute(sa.update(ORGANISATIONS).where(mine).values(name=str(number + 1)))

    router = APIRouter(route_class=TransactionalRoute)
    router.add_api_route("/test/count", count, methods=["POST"])
    app.include_router(router)
    together(lambda _: client.ok("POST", "/test/count"), [1, 2])
    with database.snapshot() as tx:
        assert tx.execute(sa.select(ORGANISATIONS.c.name)).scalars().all().count("2") == 1


@postgresql
@pytest.mark.parametrize("reads", [False, True])
def test_a_connection_that_was_dead_is_replaced(
    app: FastAPI, client: Client, database: Database, reads: bool
) -> None:
    route = Route(app, dies, reads=reads)
    assert client.ok("GET" if reads else "POST", route.path) == {"run": 2}
    assert slugs(database) == (set() if reads else {"made"})


def kill_others(database: Database) -> None:
    kill = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    with database.engine.connect() as one, database.engine.connect():
        one.execute(kill)


@postgresql
def test_dead_connections_in_the_pool_are_replaced(client: Client, database: Database, fleet: Any) -> None:
    fleet("a")
    kill_others(database)
    assert client.ok("POST", CLAIMS, 201, json=TOGETHER)["state"] == "active"


@postgresql
def test_a_connection_is_tried_after_a_quiet_moment(
    client: Client, database: Database, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even the claim in one statement, which cannot run again, does not meet the dead one."""
    fleet("a")
    client.ok("GET", CLAIMS)
    authenticator = client.app.state.authenticator  # type: ignore[attr-defined]
    monkeypatch.setattr(authenticator, "_known", dict(authenticator._known))  # it asks nothing of its own
    kill_others(database)
    monkeypatch.setattr("api.core.db.IDLE_SECONDS", 0.0)
    assert client.ok("POST", CLAIMS, 201, json={"gpus": 1})["state"] == "active"


def dies_while_committing(database: Database) -> None:
    """The server process that commits the next organisation dies in the middle of it, once."""
    with database.transaction() as tx:
        tx.execute(sa.text("CREATE SEQUENCE deaths"))
        tx.execute(
            sa.text("""CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('deaths') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
                RETURN NULL; END $$""")
        )
        tx.execute(
            sa.text("""CREATE CONSTRAINT TRIGGER dying AFTER INSERT ON organisations
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()""")
        )


def nothing(_tx: Session, _run: int) -> None:
    pass


@postgresql
def test_a_connection_lost_in_commit_is_said_to_be_just_that(
    app: FastAPI, client: Client, database: Database
) -> None:
    route = Route(app, nothing)
    dies_while_committing(database)
    problem = client.problem("POST", route.path, 503, "outcome-unknown")
    assert "Look whether it was made" in problem["detail"]
    assert (route.runs, slugs(database)) == (1, set())


@postgresql
def test_with_a_key_a_lost_commit_is_made_up_for(app: FastAPI, client: Client, database: Database) -> None:
    route = Route(app, nothing)
    dies_while_committing(database)
    assert client.ok("POST", route.path, headers={"Idempotency-Key": "k"}) == {"run": 2}
    assert slugs(database) == {"made"}


@pytest.fixture
def answer_lost(monkeypatch: pytest.MonkeyPatch, database: Database) -> Callable[[], None]:
    """From the call on, the next commit of a change goes through but its answer never arrives."""

    def lose() -> None:
        dialect = database.engine.dialect
        commit = dialect.do_commit

        def lost(connection: Any) -> None:
            changed = connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()[0]
            commit(connection)
            if changed is None:
                return
            monkeypatch.setattr(dialect, "do_commit", commit)
            connection.driver_connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(dialect, "do_commit", lost)

    return lose


@postgresql
def test_a_claim_whose_commit_went_through_unheard_is_not_made_twice(
    client: Client, fleet: Any, answer_lost: Callable[[], None]
) -> None:
    fleet("a")
    client.ok("GET", CLAIMS)
    answer_lost()
    response = client.post(CLAIMS, json={"gpus": 2}, headers={"Idempotency-Key": "k"})
    assert (response.status_code, response.headers["Idempotency-Replayed"]) == (201, "true")
    (made,) = client.ok("GET", CLAIMS)["items"]
    assert made["id"] == response.json()["id"]


@postgresql
def test_without_a_key_nobody_is_told_that_nothing_was_changed(
    client: Client, fleet: Any, answer_lost: Callable[[], None]
) -> None:
    fleet("a")
    client.ok("GET", CLAIMS)
    answer_lost()
    problem = client.problem("POST", CLAIMS, 503, "outcome-unknown", json=TOGETHER)
    assert "nothing was changed" not in problem["detail"]
    assert len(client.ok("GET", CLAIMS)["items"]) == 1


@postgresql
def test_a_twin_s_insert_is_looked_at_again(app: FastAPI, client: Client, database: Database) -> None:
    def attempt(tx: Session, run: int) -> None:
        if run == 1:
            insert(tx, "default")  # as if somebody had made it after we looked
        raise Exists("It exists already.")

    route = Route(app, attempt)
    client.problem("POST", route.path, 409, "already-exists")
    assert (route.runs, slugs(database)) == (2, set())


def test_a_constraint_that_refuses_every_time_is_a_conflict(
    app: FastAPI, client: Client, database: Database
) -> None:
    route = Route(app, lambda tx, _run: insert(tx, "default"))
    client.problem("POST", route.path, 409, "conflict")
    assert route.runs == (1 if database.engine.dialect.name == "sqlite" else 2)
    assert slugs(database) == set()


@postgresql
def test_the_worker_s_work_runs_again_too(database: Database) -> None:
    runs = []

    def work(tx: Session) -> str:
        runs.append(1)
        insert(tx, "made")
        fails("40001", 2)(tx, len(runs))
        return "done"

    assert database.run(work) == "done"
    assert (len(runs), slugs(database)) == (3, {"made"})
    assert retried(work.__qualname__, "serialization") == 2


@pytest.fixture
def restartable() -> Iterator[PostgresServer]:
    programs = server_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs are not installed (`make setup` as root installs them)")
    server = PostgresServer(programs)
    server.start()
    yield server
    server.stop()


@pytest.mark.postgres
def test_patience_outlasts_a_crash_of_the_database(restartable: PostgresServer, tmp_path: Any) -> None:
    url = restartable.create("patience")
    database = Database(make_engine(Settings(_env_file=None, data_dir=tmp_path, database_url=url)))
    one = sa.text("SELECT 1")
    assert database.run(lambda tx: tx.execute(one).scalar_one()) == 1
    restartable.crash()
    with pytest.raises(OperationalError):
        database.run(lambda tx: tx.execute(one).scalar_one())
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(database.run, lambda tx: tx.execute(one).scalar_one(), patience=60.0)
        restartable.resume()
        assert later.result(timeout=60) == 1
    database.engine.dispose()


def together(call: Callable[[Any], Any], arguments: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(call, arguments))
