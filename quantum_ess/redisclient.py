"""Redis, bounded in everything. Nothing else speaks to it, and redis-py is imported late.

For the marker and for the guard. One connection, commands and replies as they are: neither needs
the pools, retries and helpers around them.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from quantum_ess import redisload
from quantum_ess.errors import shown

DEFAULT_URL = "redis://127.0.0.1:6379/0"
Reply = Any  # bytes, int, None, a list of these, or Refused


class Unavailable(Exception):
    """Redis could not be reached, did not answer in time, or is not ready to."""


class Refused(Exception):
    """Redis answered this command with an error."""


class Settings:
    """Where Redis is and how to get in, from a plan's or the guard's options."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.url = options.get("redis.url", DEFAULT_URL)
        text = options.get("redis.timeout_ms", "")
        self.timeout = int(text) / 1000 if text.isdigit() and len(text) < 7 else 0.5
        self.username = options.get("redis.username", "")
        self.password_file = options.get("redis.password_file", "")
        self.sentinels = options.get("redis.sentinel", "").split()
        self.master = options.get("redis.master", "")
        self.files = {
            name: options[key]
            for key, name in (
                ("redis.ca_file", "ssl_ca_certs"),
                ("redis.cert_file", "ssl_certfile"),
                ("redis.key_file", "ssl_keyfile"),
            )
            if options.get(key)
        }

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.url.startswith("rediss:")

    def loadable(self) -> bool:
        """False if this process has loaded redis-py without TLS, which is now asked for."""
        loaded = sys.modules.get("redis.connection")
        return not self.tls or loaded is None or getattr(loaded, "ssl", None) is not None

    def server(self) -> str:
        """Where Redis is, for people: without a password."""
        if self.sentinels:
            return f"master {self.master} by Sentinel {' '.join(self.sentinels)}"
        scheme, _, rest = self.url.partition("://")
        rest = rest.partition("?")[0]
        return f"{scheme}://{rest.rpartition('@')[2]}"

    def place(self) -> str:
        """What tells this Redis and its database from others, and not how to get in."""
        address, _, query = self.url.partition("?")
        scheme, _, rest = address.partition("://")
        database = [pair for pair in query.split("&") if pair.startswith("db=")]
        where = [f"{scheme}://{rest.rpartition('@')[2]}", *database]
        return " ".join([*where, self.master, *sorted(self.sentinels)]).strip()


def same_place(one: str, other: str) -> bool:
    """Whether two places (Settings.place) are the same, also if they are written differently."""
    (where, sentinels), (there, others) = _parts(one), _parts(other)
    return where == there and (sentinels == others or bool(sentinels & others))


def _parts(place: str) -> tuple[tuple[str, str], set[str]]:
    """Server or master, and database; and the Sentinels, which may come and go one by one."""
    url, *more = place.split(" ")
    scheme, _, rest = url.partition("://")
    database = [word.removeprefix("db=") for word in more if word.startswith("db=")]
    server, _, path = (rest, "", "") if scheme == "unix" else rest.lower().partition("/")
    master = more[len(database) :]
    if master:
        server = master[0]
    elif scheme != "unix":
        server = _address(server if re.search(r":[0-9]+$", server) else f"{server}:6379")
    number = (database or [path.strip("/")])[0] or "0"
    return (server, number), {_address(sentinel) for sentinel in master[1:]}


def _address(address: str) -> str:
    """An address with a port, under one name if it is this host's."""
    return re.sub(r"^(127\.0\.0\.1|\[::1\]|):", "localhost:", address)


class Client:
    """One connection to Redis. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        """Connect. Raises Unavailable, with the reason as one line."""
        self.address = settings.server()
        with _translated():
            redisload.load(settings.tls)
            self._connection = self._connect(settings)

    def _connect(self, settings: Settings) -> Any:
        arguments = _arguments(settings)
        problem: Exception = Unavailable(f"no Sentinel knows a master {settings.master!r}")
        for host, port in _addresses(settings, arguments):
            connection = _made({**arguments, **({"host": host, "port": port} if host else {})})
            try:
                connection.connect()
                if host:
                    self.address = f"{host}:{port}"
                    _need_master(connection)
                return connection
            except Exception as error:  # what the next Sentinel says may be newer
                connection.disconnect()
                problem = error
        raise problem

    def ask(self, *commands: tuple[str | bytes | int, ...]) -> list[Reply]:
        """Send commands in one go; a reply each, Refused where it is an error.

        Raises Unavailable; the connection is of no use after that.
        """
        with _translated():
            connection = self._connection
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return [self._reply() for _ in commands]

    def _reply(self) -> Reply:
        import redis

        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            return Refused(_one_line(error))

    def read(self) -> Reply:
        """The next message of a subscription. Raises Unavailable."""
        with _translated():
            return self._reply()

    def wait(self, seconds: float) -> bool:
        """Whether something comes within that time. Raises Unavailable."""
        with _translated():
            return bool(self._connection.can_read(timeout=max(seconds, 0)))

    def close(self) -> None:
        """Close the connection. Raises nothing."""
        try:
            self._connection.disconnect()
        except Exception:
            return


def exchange(options: Mapping[str, str], *commands: tuple[str, ...]) -> list[Reply]:
    """Connect, send commands, take the replies, close. Raises Unavailable, Refused."""
    client = Client(Settings(options))
    try:
        replies = client.ask(*commands)
    finally:
        client.close()
    for reply in replies:
        if isinstance(reply, Refused):
            raise reply
    return replies


def _arguments(settings: Settings) -> dict[str, Any]:
    """What redis-py's connection classes want to know."""
    from redis import connection

    parse_url: Any = connection.parse_url  # it has no types
    found: dict[str, Any] = dict(parse_url(settings.url))
    for ours in ("decode_responses", "protocol", "max_connections"):
        found.pop(
            ours, None
        )  # replies are bytes of RESP2, on one connection, whatever the URL says
    limits = ("socket_timeout", "socket_connect_timeout")
    found |= dict.fromkeys(limits, settings.timeout)
    if "path" in found:
        del found["socket_connect_timeout"]  # not known to redis-py 4 for a socket file
    if settings.username:
        found["username"] = settings.username
    if settings.password_file:
        found["password"] = password(settings.password_file)
    if settings.tls:
        found |= {"ssl_check_hostname": True, **settings.files}
    return found


def _made(arguments: dict[str, Any]) -> Any:
    from redis.connection import Connection

    rest = dict(arguments)
    kind = rest.pop("connection_class", Connection)
    try:
        return kind(protocol=2, **rest)  # the subscription below is read as RESP2 has it
    except TypeError:  # redis-py 4 knows no other
        return kind(**rest)


def _addresses(settings: Settings, arguments: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Each master that a Sentinel names, as they are asked in turn; ("", 0) without Sentinel."""
    if not settings.sentinels:
        yield "", 0
        return
    limits = {k: v for k, v in arguments.items() if k.startswith(("socket_", "ssl_", "connection"))}
    named: set[tuple[str, int]] = set()
    problem: Exception | None = None
    for sentinel in settings.sentinels:
        host, _, port = sentinel.rpartition(":")
        connection = _made({**limits, "host": host.strip("[]"), "port": int(port)})
        try:
            connection.connect()
            connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", settings.master)
            answer = connection.read_response()
        except Exception as error:
            problem = error
            continue
        finally:
            connection.disconnect()
        address = (answer[0].decode(), int(answer[1])) if answer else None
        if address and address not in named:
            named.add(address)
            yield address
    if problem is not None and not named:
        raise problem


def _need_master(connection: Any) -> None:
    """Raises Unavailable if Sentinel has not noticed yet that this one is no master any more."""
    connection.send_command("ROLE")
    role = connection.read_response()[0].decode()
    if role != "master":
        raise Unavailable(f"{connection.host}:{connection.port} is a {role}, not the master")


def password(path: str) -> str:
    """The password in that file. Raises Unavailable if others than root could have it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Unavailable(f"{path} is not a regular file")
        if status.st_uid != 0 or status.st_mode & 0o077:
            raise Unavailable(f"{path} must be root's and mode 0600: chown root, chmod 600")
        return os.read(fd, 4096).decode("utf-8", "replace").rstrip("\r\n")
    finally:
        os.close(fd)


@contextmanager
def _translated() -> Iterator[None]:
    """Whatever redis-py raises is Unavailable: it trusts its peer, so it may be anything."""
    try:
        yield
    except (Unavailable, Refused):
        raise
    except Exception as error:
        raise Unavailable(_one_line(error)) from None


def _one_line(error: Exception) -> str:
    return shown(" ".join(str(error).split()))[:300] or type(error).__name__
