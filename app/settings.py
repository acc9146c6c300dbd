"""The service's settings, read once from environment variables. A wrong one stops the start, and the error names it."""

from __future__ import annotations

import os
import re
import ssl
import sys
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import environ
import httpx
import platformdirs

from db.url import to_conninfo
from db.wire.connection import Claims
from handlers.auth.issuer import is_loopback, proxy_for

SECRET_MINIMUM_BYTES = 32
"""The length of HS256's hash, which the secret must have at least (RFC 7518, section 3.2)."""

PORT_MAXIMUM = 65_535
HOST_LIMIT_CHARACTERS = 253
ROOT_PATH_LIMIT_CHARACTERS = 200
HOST_LABEL = re.compile("[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")

ANY_AUDIENCE = "any"
"""The value of JWT_AUDIENCE that accepts tokens with any `aud` and without one."""

ORIGIN = re.compile(
    r"(https?://([a-z0-9._-]+|\[[0-9a-f:]+\])|(?!https?:)[a-z][a-z0-9+.-]*://[A-Za-z0-9._-]+)(:[1-9][0-9]{0,4})?"
)
"""An origin as browsers send it: in lower case (RFC 6454, section 6.2), but for the hosts of schemes of their own.

Those are the schemes of apps and extensions, such as `capacitor` and `safari-web-extension`.
"""

NO_ORIGIN = re.compile("http:.*:80|https:.*:443|(about|blob|data|file|filesystem|ftp|javascript|wss?):.*")
"""What no browser sends: the default port, and schemes whose pages have no origin, or `null`."""

ROOT_PATH = re.compile(r"/|(?!/docs\Z)(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._~-]+)+")
"""A path that has one spelling: its characters are unreserved (RFC 3986, section 2.3), and it has no dot segments.

If it were `/docs`, nobody could tell whether a proxy has stripped it from `/docs/`.
"""

CLUSTER_ADDRESS = re.compile("(tcp|udp|sctp)://.*")
"""What Kubernetes puts into NAME_PORT of each container, for a service called NAME (Kubernetes, "Service")."""


class SettingsError(Exception):
    """A variable is missing or wrong. The message names the variable and never contains a secret."""


class Secret:
    """A text that `repr` hides. `reveal` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(***)"

    def reveal(self) -> str:
        return self._value


def _variable(name: str, convert: Callable[[str], Any], default: Any, help_: str) -> Any:
    """A setting. What `convert` refuses, an empty text and one that is not UTF-8 are errors that name the variable.

    environ-config passes on a converter's error without the name, and takes an empty variable for a value.
    """

    def converter(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not value:
            raise SettingsError(f"{name} is empty: set a value or remove the variable")
        try:
            value.encode()
            return convert(value)
        except UnicodeEncodeError:
            raise SettingsError(f"{name} must be UTF-8") from None
        except ValueError as error:
            raise SettingsError(f"{name} {error}") from None

    return environ.var(default, converter, name, help=help_)


def _whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"must be a whole number from {minimum} to {maximum}")
        return int(text)

    return convert


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not float(text):
        raise ValueError("must be a number of seconds, like 2 or 0.5")
    return float(text)


def _one_of(*choices: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of: {', '.join(choices)}")
        return text

    return convert


def _truth(text: str) -> bool:
    return _one_of("true", "false")(text) == "true"


def _line(text: str) -> str:
    """The text without white space at its ends, which files and shells leave there."""
    line = text.strip()
    if not line:
        raise ValueError("is blank: set a value or remove the variable")
    if not line.isprintable():
        raise ValueError("must not contain line ends, tabs or other invisible characters")
    return line


def _string_or_uri(text: str) -> str:
    """A text as RFC 7519, section 2, defines it: with a colon it is a URI, which has no spaces."""
    line = _line(text)
    if ":" in line and " " in line:
        raise ValueError("must be one URI, without spaces")
    return line


def _secret(text: str) -> Secret:
    line = _line(text)
    if len(line.encode()) < SECRET_MINIMUM_BYTES:
        raise ValueError(f"must have at least {SECRET_MINIMUM_BYTES} bytes")
    return Secret(line)


def _database_url(text: str) -> Secret:
    return Secret(to_conninfo(text))


def _jwks_url(text: str) -> str:
    line = _line(text)
    try:
        url = httpx.URL(line)
    except httpx.InvalidURL:
        url = httpx.URL()
    is_url = url.scheme in ("http", "https") and not url.userinfo and " " not in line
    if not is_url or not _is_place(url):
        raise ValueError("must be an https:// URL with a host that can exist, without user, password and spaces")
    return line


def _host(text: str) -> str:
    host = _line(text).lower()
    if not _is_host(host):
        raise ValueError("must be the name of a host, without scheme, port and path")
    return host


def _is_place(url: httpx.URL) -> bool:
    # httpx says None for the scheme's own port.
    is_port = url.port is None or 0 < url.port <= PORT_MAXIMUM
    return is_port and _is_host(url.raw_host.decode())


def _is_host(host: str) -> bool:
    """Whether this is an address or can be a name in lower case (RFC 1123, section 2.1), with underscores."""
    try:
        ip_address(host)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        # No top-level domain is a number, but the system's resolver reads some numbers as addresses.
        is_number = re.fullmatch("[0-9]+|0x[0-9a-f]*", labels[-1])
        return not is_number and len(host) <= HOST_LIMIT_CHARACTERS and all(map(HOST_LABEL.fullmatch, labels))
    return True


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip() for origin in text.split(","))
    for origin in origins:
        if not ORIGIN.fullmatch(origin) or NO_ORIGIN.fullmatch(origin):
            raise ValueError(
                "must be origins like https://app.example or capacitor://localhost, separated by commas. Write each as"
                " browsers send it: in lower case and ASCII, without user, path, wildcard or the scheme's default port"
            )
    return origins


def _root_path(text: str) -> str:
    """The path without its last slash, which only `/` may have."""
    if not ROOT_PATH.fullmatch(text) or len(text) > ROOT_PATH_LIMIT_CHARACTERS:
        raise ValueError(
            "must be / or a path like /todo, with no slash at its end: letters, digits and -._~ between single slashes,"
            f" no segment . or .., at most {ROOT_PATH_LIMIT_CHARACTERS} characters, and not /docs"
        )
    return text.rstrip("/")


def _data_dir() -> Path:
    """The user's data folder; the machine's for a user without a home, such as systemd's dynamic users."""
    try:
        return Path(platformdirs.user_data_dir("taskpact"))
    except RuntimeError:
        return Path(platformdirs.site_data_dir("taskpact"))


@environ.config(prefix="", frozen=True)
class Settings:
    """The settings. Each member is named like its variable, in lower case."""

    database_url: Secret | None = _variable(
        "DATABASE_URL", _database_url, None, "the database's URL; without it, an embedded server runs"
    )
    database_pool_size: int = _variable(
        "DATABASE_POOL_SIZE", _whole_number(1, 1000), 20, "connections of all workers together"
    )
    database_queue_size: int | None = _variable(
        "DATABASE_QUEUE_SIZE", _whole_number(1, 100_000), None, "requests that may wait for a connection"
    )
    database_prepare: bool = _variable(
        "DATABASE_PREPARE", _truth, True, "false for poolers without prepared statements"
    )
    database_claims: Claims = _variable(
        "DATABASE_CLAIMS",
        _one_of("auto", "set_config", "set_local"),
        "auto",
        "how the user's id reaches the database; auto: set_local on Citus, fewer settings without a pooler",
    )
    database_wait_seconds: float = _variable(
        "DATABASE_WAIT_SECONDS", _seconds, 1.5, "how long a request waits for a connection"
    )
    database_statement_seconds: float = _variable(
        "DATABASE_STATEMENT_SECONDS", _seconds, 5.0, "how long a statement may take"
    )
    jwt_secret: Secret | None = _variable("JWT_SECRET", _secret, None, "the secret shared with the issuer (HS256)")
    jwt_jwks_url: str | None = _variable("JWT_JWKS_URL", _jwks_url, None, "the issuer's key set")
    jwt_jwks_insecure_host: str | None = _variable(
        "JWT_JWKS_INSECURE_HOST", _host, None, "a host whose keys are fetched with http://, unprotected"
    )
    jwt_issuer: str | None = _variable("JWT_ISSUER", _string_or_uri, None, "the `iss` that a token must have")
    jwt_audience: str | None = _variable(
        "JWT_AUDIENCE", _string_or_uri, None, f"the `aud` that a token must have; {ANY_AUDIENCE}: do not check it"
    )
    jwt_cache_size: int = _variable(
        "JWT_CACHE_SIZE", _whole_number(1, 10_000_000), 10_000, "verified tokens that each worker remembers"
    )
    jwt_leeway_seconds: int = _variable(
        "JWT_LEEWAY_SECONDS", _whole_number(0, 300), 5, "tolerated difference between clocks"
    )
    host: str = _variable("HOST", str, "127.0.0.1", "the address to listen on")
    port: int = _variable("PORT", _whole_number(0, PORT_MAXIMUM), 8000, "the port to listen on")
    root_path: str = _variable(
        "ROOT_PATH", _root_path, "/", "the path under which a proxy offers the service; all links begin with it"
    )
    metrics_port: int | None = _variable(
        "METRICS_PORT", _whole_number(1, PORT_MAXIMUM), None, "the port for metrics; without it, there are no metrics"
    )
    workers: int = _variable("WORKERS", _whole_number(1, 256), 1, "worker processes")
    keep_alive_seconds: int = _variable(
        "KEEP_ALIVE_SECONDS", _whole_number(1, 3600), 65, "how long a connection may be idle between requests"
    )
    drain_seconds: int = _variable(
        "DRAIN_SECONDS", _whole_number(0, 600), 0, "how long to answer on while not ready, before shutdown"
    )
    cors_origins: tuple[str, ...] = _variable("CORS_ORIGINS", _origins, (), "origins whose pages may call the API")
    hsts_seconds: int = _variable(
        "HSTS_SECONDS", _whole_number(0, 63_072_000), 0, "the max-age of Strict-Transport-Security; 0: no header"
    )
    log_level: str = _variable(
        "LOG_LEVEL", _one_of("debug", "info", "warning", "error"), "info", "the least level that is logged"
    )
    log_format: str = _variable(
        "LOG_FORMAT", _one_of("console", "json"), "console" if sys.stderr.isatty() else "json", "the format of the log"
    )
    requests_per_user: int = _variable(
        "REQUESTS_PER_USER",
        _whole_number(1, 100_000),
        32,
        "requests of one user that each worker answers at once; more are refused, 429",
    )
    provision_users: bool = _variable("PROVISION_USERS", _truth, True, "false: refuse users without a row in `users`")
    data_dir: Path = _variable(
        "TASKPACT_DATA_DIR",
        Path,
        _data_dir(),
        "where the embedded database keeps its data",
    )

    def __attrs_post_init__(self) -> None:
        if self.metrics_port == self.port:
            raise SettingsError("METRICS_PORT and PORT must differ")
        if self.jwt_secret and self.jwt_jwks_url:
            raise SettingsError("JWT_SECRET and JWT_JWKS_URL are both set: remove one")
        if self.database_url and not (self.jwt_secret or self.jwt_jwks_url):
            raise SettingsError("JWT_SECRET or JWT_JWKS_URL must be set: there is no default secret")
        if self.jwt_jwks_url:
            self._check_transport(httpx.URL(self.jwt_jwks_url))
        if self.jwt_jwks_url and not self.jwt_audience:
            raise SettingsError(
                "JWT_AUDIENCE must be set with JWT_JWKS_URL, so that the issuer's tokens for others are refused:"
                " set it to the `aud` of the tokens for this service (Better Auth's is its base URL),"
                f" or set JWT_AUDIENCE={ANY_AUDIENCE} to accept every audience"
            )
        if self.database_pool_size < self.workers:
            raise SettingsError("WORKERS must be at most DATABASE_POOL_SIZE: each worker needs a connection")

    def _check_transport(self, jwks_url: httpx.URL) -> None:
        host = jwks_url.raw_host.decode()
        if jwks_url.scheme == "http" and not is_loopback(host) and host != self.jwt_jwks_insecure_host:
            raise SettingsError(
                "JWT_JWKS_URL must be an https:// URL: with http://, an attacker on the network could replace the keys."
                f" If nobody else is on that network, set JWT_JWKS_INSECURE_HOST={host}"
            )

    @property
    def audience(self) -> str | None:
        """The `aud` that a token must have. None: it is not checked."""
        return None if self.jwt_audience == ANY_AUDIENCE else self.jwt_audience


def read_settings(variables: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: a variable is missing or wrong.
    """
    passed_over = names_passed_over(variables)
    ours = {name: value for name, value in variables.items() if name not in passed_over}
    settings: Settings = environ.to_config(Settings, ours)
    return settings


def names_passed_over(variables: Mapping[str, str] = os.environ) -> list[str]:
    """`METRICS_PORT`, if its value is an address of the cluster's service `metrics`, and no port."""
    return ["METRICS_PORT"] if CLUSTER_ADDRESS.fullmatch(variables.get("METRICS_PORT", "")) else []


def issuer_tls(jwks_url: str) -> ssl.SSLContext:
    """The certificate authorities that the environment trusts, for fetching the key set.

    Raises:
        SettingsError: the key set cannot be fetched with the environment's variables for TLS and proxies.
    """
    folders = os.environ.get("SSL_CERT_DIR", "")
    if folders and not os.environ.get("SSL_CERT_FILE") and not any(map(os.path.isdir, folders.split(os.pathsep))):
        raise SettingsError(f"SSL_CERT_DIR must be a folder with the certificates of authorities: {folders} is none")
    try:
        tls = httpx.create_ssl_context()
    except Exception as error:
        names = [name for name in ("SSL_CERT_FILE", "SSLKEYLOGFILE") if os.environ.get(name)]
        if not names:
            raise
        raise SettingsError(f"{' or '.join(names)} cannot be used for TLS: {error}: correct or remove it") from None
    proxy = proxy_for(httpx.URL(jwks_url))
    if proxy and not _is_proxy(proxy.url, tls):
        # The URL may contain a password.
        raise SettingsError(
            f"{proxy.variable} must be the http:// or https:// URL of a proxy, with a host that can exist, since the"
            " issuer of JWT_JWKS_URL is asked through it: correct it, or name the issuer's host in NO_PROXY."
            " For socks5://, `pip install 'httpx[socks]'`"
        )
    return tls


def _is_proxy(url: str, tls: ssl.SSLContext) -> bool:
    try:
        httpx.AsyncClient(verify=tls, proxy=url, trust_env=False)
        return _is_place(httpx.URL(url))
    except Exception:  # noqa: BLE001 - httpx has several for what it cannot use, and ImportError for what it lacks
        return False
