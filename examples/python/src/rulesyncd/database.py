"""Sets states in the table ``ttp_rule_state`` itself, with the driver that Python has for its database."""

import asyncio
import importlib
import os
import pwd
import ssl
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from .address import Address, parse_address
from .errors import RuleStoreError
from .records import RuleState

_COLUMNS = ("state", "confidence_max", "expires_at", "reason", "set_by", "set_at")


@dataclass(frozen=True)
class _Dialect:
    """What differs between the databases."""

    driver: str
    connect: Callable[[Any, Address], Any]
    #: The placeholder of an argument.
    placeholder: str
    #: The database's clock in UTC; ``None`` is the host's.
    now: str | None
    #: The end of an INSERT that replaces the row, without its assignments.
    on_conflict: str
    #: The new value of a column in an assignment.
    new: str
    begin: str
    #: Wakes the workers when the transaction commits; ``None`` where they notice by themselves.
    notify: str | None


class StateTable:
    """The table of states of one database."""

    def __init__(self, dialect: _Dialect, address: Address) -> None:
        """Connect later, once for each call."""
        self._dialect, self._address = dialect, address
        self._driver = importlib.import_module(dialect.driver)

    async def set(self, rule_id: str, state: RuleState) -> RuleState:
        """Set a state, and return it as the database has it."""
        state = state.replace(set_by=state.set_by or _login_name())
        return await asyncio.to_thread(self._transact, self._write, rule_id, state)

    async def clear(self, rule_id: str) -> None:
        """Remove the state of a rule, if it has one."""
        await asyncio.to_thread(self._transact, self._delete, rule_id)

    def _transact(self, work: Callable[..., Any], rule_id: str, *arguments: Any) -> Any:
        dialect = self._dialect
        try:
            with closing(dialect.connect(self._driver, self._address)) as connection:
                cursor = connection.cursor()
                cursor.execute(dialect.begin)
                self._refuse_case_variants(cursor, rule_id)
                result = work(cursor, rule_id, *arguments)
                if dialect.notify is not None:
                    cursor.execute(dialect.notify)
                cursor.execute("COMMIT")
                return result
        except (self._driver.Error, OSError, OverflowError, ValueError) as error:
            raise RuleStoreError(f"the state of {rule_id} was not written: {error}") from error

    def _refuse_case_variants(self, cursor: Any, rule_id: str) -> None:
        where = f"LOWER(rule_id) = {self._dialect.placeholder}"
        cursor.execute(f"SELECT rule_id FROM ttp_rule_state WHERE {where}", (rule_id.lower(),))
        for (found,) in cursor.fetchall():
            if found != rule_id:
                raise RuleStoreError(
                    f"{found} has a state, and {rule_id} differs from it in case alone: workers follow "
                    "only one of the two"
                )

    def _write(self, cursor: Any, rule_id: str, state: RuleState) -> RuleState:
        dialect = self._dialect
        before = self._read(cursor, rule_id)
        set_at = self._now(cursor)
        if before is not None and before.set_at is not None:
            set_at = max(set_at, before.set_at + timedelta(microseconds=1))
        values = (
            rule_id,
            *(self._value(getattr(state.replace(set_at=set_at), name)) for name in _COLUMNS),
        )
        columns = ", ".join(("rule_id", *_COLUMNS))
        places = ", ".join([dialect.placeholder] * len(values))
        sets = ", ".join(f"{name} = {dialect.new.format(name)}" for name in _COLUMNS)
        cursor.execute(
            f"INSERT INTO ttp_rule_state ({columns}) VALUES ({places}) {dialect.on_conflict} {sets}",
            values,
        )
        # As it is stored: a column may hold whole seconds, or fewer digits.
        return self._read(cursor, rule_id) or state

    def _read(self, cursor: Any, rule_id: str) -> RuleState | None:
        columns = ", ".join(_COLUMNS)
        place = self._dialect.placeholder
        cursor.execute(f"SELECT {columns} FROM ttp_rule_state WHERE rule_id = {place}", (rule_id,))
        row = cursor.fetchone()
        if row is None:
            return None
        word, ceiling, expires_at, reason, set_by, set_at = row
        return RuleState(word, ceiling, _time(expires_at), reason, set_by, _time(set_at))

    def _delete(self, cursor: Any, rule_id: str) -> None:
        place = self._dialect.placeholder
        cursor.execute(f"DELETE FROM ttp_rule_state WHERE rule_id = {place}", (rule_id,))

    def _now(self, cursor: Any) -> datetime:
        if self._dialect.now is None:
            return datetime.now(UTC)
        cursor.execute(f"SELECT {self._dialect.now}")
        (now,) = cursor.fetchone()
        return _time(now) or datetime.now(UTC)

    @staticmethod
    def _value(value: Any) -> Any:
        """Write times as SQLAlchemy does: naive UTC, with microseconds."""
        if isinstance(value, datetime):
            return value.replace(tzinfo=None).isoformat(" ", "microseconds")
        return value


def open_state_table(url: str) -> StateTable | None:
    """Return the table of a database, or ``None`` if Python has no driver that can use the address.

    Raises ``RuleStoreError`` if the address is none of a database.
    """
    address = parse_address(url)
    dialect = _DIALECTS.get(address.kind)
    if dialect is None:
        # The rest of it may have a password.
        kind = address.kind if "://" in url and address.kind.isalnum() else "this"
        raise RuleStoreError(f"`{kind}` is not a database; expected sqlite://, postgresql:// or mysql://")
    if dialect is _MYSQL and len(address.hosts) > 1:
        return None
    try:
        return StateTable(dialect, address)
    except ImportError:
        return None


def _time(found: Any) -> datetime | None:
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    if found is None:
        return None
    if not isinstance(found, datetime):
        raise ValueError(f"{found!r:.60} is not a time")  # noqa: TRY004 - the table is wrong, not the program
    return found.replace(tzinfo=UTC)


def _login_name() -> str:
    """Return who sets a state if nobody is named: the same as the command has it."""
    for name in ("SUDO_USER", "LOGNAME", "USER"):
        if login := os.environ.get(name):
            return login
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def _connect_sqlite(driver: Any, address: Address) -> Any:
    path = address.database
    if path.startswith("/"):
        path = "/" + path.lstrip("/")
    return driver.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=10, isolation_level=None)


def _connect_postgresql(driver: Any, address: Address) -> Any:
    has_port = any(host.port for host in address.hosts)
    options = {
        "host": ",".join(host.name for host in address.hosts),
        "port": ",".join(host.port or "5432" for host in address.hosts) if has_port else None,
        "user": address.user,
        "password": address.password,
        "dbname": address.database,
    }
    if not address.is_local:
        # As the daemons do: to another host only encrypted, and only to who can prove the name.
        options |= {"sslmode": "verify-full", "sslrootcert": "system"}
    if len(address.hosts) > 1:
        options["target_session_attrs"] = "read-write"
    return driver.connect(**(options | address.options), autocommit=True, connect_timeout=10)


def _connect_mysql(driver: Any, address: Address) -> Any:
    (host,), options = address.hosts, address.options
    is_socket = host.name.startswith("/")
    mode = options.get("sslmode", "prefer" if address.is_local else "verify-full")
    context = None
    if not is_socket and mode != "disable" and (mode != "prefer" or not address.is_local):
        context = ssl.create_default_context(cafile=options.get("sslrootcert"))
        context.check_hostname = mode != "verify-ca"
        if "sslcert" in options:
            context.load_cert_chain(options["sslcert"], options.get("sslkey"))
    return driver.connect(
        host="localhost" if is_socket else host.name or "localhost",
        unix_socket=host.name if is_socket else None,
        port=int(host.port or 3306),
        user=address.user,
        password=address.password or "",
        database=address.database,
        charset="utf8mb4",
        init_command="SET time_zone = '+00:00'",
        autocommit=True,
        connect_timeout=10,
        ssl=context,
    )


_POSTGRESQL = _Dialect(
    driver="psycopg",
    connect=_connect_postgresql,
    placeholder="%s",
    now="clock_timestamp() AT TIME ZONE 'UTC'",
    on_conflict="ON CONFLICT (rule_id) DO UPDATE SET",
    new="excluded.{}",
    begin="BEGIN",
    notify="SELECT pg_notify('rulesyncd', '')",
)

_MYSQL = _Dialect(
    driver="pymysql",
    connect=_connect_mysql,
    placeholder="%s",
    now="UTC_TIMESTAMP(6)",
    on_conflict="ON DUPLICATE KEY UPDATE",
    new="VALUES({})",
    begin="START TRANSACTION READ WRITE",
    notify=None,
)

_DIALECTS = {
    "sqlite": _Dialect(
        driver="sqlite3",
        connect=_connect_sqlite,
        placeholder="?",
        now=None,
        on_conflict="ON CONFLICT (rule_id) DO UPDATE SET",
        new="excluded.{}",
        begin="BEGIN IMMEDIATE",
        notify=None,
    ),
    "postgresql": _POSTGRESQL,
    "postgres": _POSTGRESQL,
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
}
