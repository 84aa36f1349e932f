"""Addresses of databases, read as the daemons read them."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from .errors import RuleStoreError

#: Parameters that other programs put into an address and that mean nothing here.
_PASSED_OVER = frozenset(
    (
        "autocommit",
        "charset",
        "check_same_thread",
        "collation",
        "command_timeout",
        "connect_timeout",
        "prepared_statement_cache_size",
        "read_timeout",
        "statement_cache_capacity",
        "timeout",
        "uri",
        "write_timeout",
    )
)

#: Other names of libpq's parameters, and of the values of its ``sslmode``.
_NAMES = {
    "socket": "host",
    "ssl": "sslmode",
    "ssl_ca": "sslrootcert",
    "ssl_cert": "sslcert",
    "ssl_key": "sslkey",
    "ssl_mode": "sslmode",
    "unix_socket": "host",
}
_MODES = {
    "disabled": "disable",
    "false": "disable",
    "preferred": "prefer",
    "required": "require",
    "true": "require",
    "verify-identity": "verify-full",
}

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::([0-9]*))?", re.ASCII)


class Host(NamedTuple):
    """One way to a server: a name, an address or the path of a socket, and a port or the empty text."""

    name: str
    port: str

    @property
    def is_local(self) -> bool:
        """Whether no byte leaves this host."""
        if self.name in ("", "localhost") or self.name.startswith("/"):
            return True
        try:
            return ip_address(self.name).is_loopback
        except ValueError:
            return False


class Address(NamedTuple):
    """Where a database is.

    >>> address = parse_address("mysql+aiomysql://ann:p%40ss@[::1]:3307,b/rules?ssl-mode=REQUIRED")
    >>> address.kind, address.user, address.password, address.database
    ('mysql', 'ann', 'p@ss', 'rules')
    >>> address.hosts, address.options
    ((Host(name='::1', port='3307'), Host(name='b', port='')), {'sslmode': 'require'})
    """

    #: The word before the colon, without a driver's name.
    kind: str
    #: The database's name, or the path of its file.
    database: str
    user: str | None = None
    password: str | None = None
    hosts: tuple[Host, ...] = ()
    #: All other parameters, by libpq's names.
    options: dict[str, str] = {}  # noqa: RUF012

    @property
    def is_local(self) -> bool:
        """Whether no byte leaves this host."""
        return all(host.is_local for host in self.hosts)


def parse_address(text: str) -> Address:
    """Read an address; raises ``RuleStoreError`` without its text, which may have a password."""
    scheme, _, rest = text.partition(":")
    kind, plus, _ = scheme.partition("+")
    rest, _, query = rest.removeprefix("//").partition("?")
    if kind == "sqlite":
        return Address(kind, _path_of_sqlalchemy(rest) if plus else unquote(rest))
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        known = name.replace("-", "_")
        options[_NAMES.get(known, known)] = value
    options = {name: value for name, value in options.items() if name not in _PASSED_OVER}
    if "sslmode" in options:
        mode = options["sslmode"].lower().replace("_", "-")
        options["sslmode"] = _MODES.get(mode, mode)
    authority, _, database = rest.partition("/")
    login, _, written = authority.rpartition("@")
    user, colon, password = login.partition(":")
    named = options.pop("host", None)
    hosts = [_host(host) for host in (written if named is None else named).split(",")]
    ports = options.pop("port", "").split(",")
    if len(ports) not in (1, len(hosts)):
        raise RuleStoreError("the database's address has more than one port, and not one for each host")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return Address(
        kind,
        options.pop("dbname", unquote(database)),
        options.pop("user", unquote(user) or None),
        options.pop("password", unquote(password) if colon else None),
        tuple(Host(name, port or own) for (name, own), port in zip(hosts, ports, strict=True)),
        options,
    )


def _host(text: str) -> Host:
    if text.startswith("/"):
        return Host(text, "")
    found = _HOST.fullmatch(text)
    if found is None:
        raise RuleStoreError(
            "the database's address has a host or a port that cannot be read; a password is followed by "
            "@HOST, and the characters /?#@: in it are written as %2F, %3F, %23, %40 and %3A"
        )
    return Host(found[1] or unquote(found[2]), found[3] or "")


def _path_of_sqlalchemy(written: str) -> str:
    """Return the path of an address with a driver's name.

    Three slashes are relative. SQLAlchemy decodes a ``%`` from version 2.1 on, and takes it as it is before:
    what is there shows which is meant.
    """
    path = written.removeprefix("/")
    readings = [reading for reading in {path, unquote(path)} if Path(reading).exists()]
    if len(readings) > 1:
        raise RuleStoreError(
            f"{path} may mean {unquote(path)}, and both exist: write the address as sqlite:///FILE, with "
            "%25 for a %"
        )
    return readings[0] if readings else path
