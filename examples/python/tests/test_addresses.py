"""Addresses of databases, and the connections that are made with them. No daemon takes part."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rulesyncd import RuleState, RuleStore, RuleStoreError
from rulesyncd.address import parse_address
from rulesyncd.command import StateCommand
from rulesyncd.database import StateTable, _connect_mysql, _connect_postgresql, open_state_table


class Driver:
    """Takes down how it is called."""

    def connect(self, **arguments: Any) -> dict[str, Any]:
        return {name: value for name, value in arguments.items() if value not in (None, "")}


def test_an_address_that_is_no_databases_is_refused_at_once() -> None:
    with pytest.raises(RuleStoreError, match="`redis` is not a database"):
        RuleStore(database_url="redis://localhost/0")


@pytest.mark.parametrize(
    "url",
    [
        "s3cret",
        "u:s3cret@localhost/rules",
        "postgresql://u:s3cret/rules",
        "postgresql://u:s3cret@[::1/rules",
        "postgresql://u:s3cret@a:b/rules",
        "postgresql://u:s3cret@a,b:/rules?port=1,2,3",
        "mysql://u:s3cret@::1/rules",
        "mysql://u:s3cret@[x]/rules",
    ],
)
def test_what_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(RuleStoreError) as refused:
        RuleStore(database_url=url)
    assert "s3cret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_several_hosts_are_tried_by_the_driver_or_else_by_the_command() -> None:
    options: Any = _connect_postgresql(
        Driver(), parse_address("postgresql+asyncpg://ann:p%40ss@a:5433,[::1]/rules")
    )
    assert (options["host"], options["port"]) == ("a,::1", "5433,5432")
    assert (options["user"], options["password"], options["dbname"]) == ("ann", "p@ss", "rules")
    assert (options["target_session_attrs"], options["sslmode"]) == ("read-write", "verify-full")
    assert isinstance(RuleStore(database_url="mysql://ann@a,b/rules")._writer, StateCommand)
    assert isinstance(RuleStore(database_url="mysql://ann@a/rules")._writer, StateTable)


def test_a_connection_that_stays_on_the_host_needs_no_certificate_and_any_other_does() -> None:
    def postgresql(rest: str) -> Any:
        return _connect_postgresql(Driver(), parse_address(f"postgresql://{rest}"))

    for local in ("u@localhost/r", "u@127.0.0.2/r", "u@[::1]:5433/r", "/r?host=/run/postgresql&user=u"):
        assert "sslmode" not in postgresql(local), local
    assert postgresql("u@%2Frun%2FpostgreSQL:5433/r")["host"] == "/run/postgreSQL"
    assert postgresql("u@db.example/r")["sslmode"] == "verify-full"
    assert postgresql("u@db.example/r?ssl-mode=VERIFY_CA")["sslmode"] == "verify-ca"
    assert postgresql("u@db.example/r?connect_timeout=3&statement-cache-capacity=0")["connect_timeout"] == 10

    def mysql(rest: str) -> Any:
        return _connect_mysql(Driver(), parse_address(f"mysql://{rest}"))

    assert "ssl" not in mysql("u@localhost/r")
    assert mysql("u@localhost/r?unix_socket=/run/my.sock")["unix_socket"] == "/run/my.sock"
    assert mysql("u@db.example:3307/r")["ssl"].check_hostname
    assert not mysql("u@db.example/r?ssl-mode=verify-ca")["ssl"].check_hostname
    assert (mysql("u@db.example:3307/r")["host"], mysql("u@db.example:3307/r")["port"]) == (
        "db.example",
        3307,
    )


def make_tables(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as file:
        file.execute(
            "CREATE TABLE ttp_rule_state (rule_id VARCHAR PRIMARY KEY, state VARCHAR, confidence_max FLOAT,"
            " expires_at DATETIME, reason VARCHAR, set_by VARCHAR, set_at DATETIME)"
        )


def states(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as file:
        return list(file.execute("SELECT rule_id, set_by FROM ttp_rule_state"))


async def set_state(url: str) -> None:
    table = open_state_table(url)
    assert table is not None
    await table.set("R1", RuleState("disabled"))


@pytest.mark.parametrize("name", ["a?b#c.db", "100%.db", "x%41y.db", "%2F%3F.db", "é 🦀.db"])
async def test_the_path_of_a_file_may_have_any_character(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "")
    monkeypatch.setenv("LOGNAME", "ann")
    make_tables(tmp_path / name)
    written = str(tmp_path / name).replace("%", "%25").replace("?", "%3F")
    for _ in range(2):
        await set_state(f"sqlite://{written}")
        assert states(tmp_path / name) == [("R1", "ann")]
        await set_state(f"sqlite:{written}")


async def test_a_percent_of_sqlalchemy_means_the_file_that_is_there(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/my%20rules/50%25.db"
    make_tables(tmp_path / "my%20rules" / "50%25.db")
    await set_state(url)
    assert len(states(tmp_path / "my%20rules" / "50%25.db")) == 1
    make_tables(tmp_path / "my rules" / "50%.db")
    with pytest.raises(RuleStoreError, match="both exist"):
        await set_state(url)
    (tmp_path / "my%20rules" / "50%25.db").unlink()
    await set_state(url)
    assert len(states(tmp_path / "my rules" / "50%.db")) == 1
