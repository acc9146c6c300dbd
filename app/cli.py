"""The command line: `taskpact serve | migrate | token | database-url | check`.

An expected failure prints one line to stderr and exits with 1.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from socket import socket
from tempfile import NamedTemporaryFile

import click
import jwt
import structlog
from sqlalchemy.exc import DBAPIError

from app.http.listeners import CannotListen, bound
from app.observe.logs import configure_logs
from app.observe.metrics import metrics_server
from app.settings import Settings, SettingsError, issuer_tls, names_passed_over, read_settings
from db.embedded import EmbeddedUnavailable, embedded_server
from db.schema.checks import Check, check_database
from db.schema.engine import explain
from db.schema.fitness import DatabaseUnfit
from db.schema.migrate import MigrationBlocked, migrate, migration_sql
from db.schema.recommendations import inspect_database
from db.schema.version import SchemaMismatch
from handlers.auth.issuer import KeySetRefused, fetch_keys
from handlers.auth.keys import IGNORED_SHOWN

logger = structlog.get_logger()

TRIAL_USER = "demo"
TOKEN_TTL_SECONDS = 86_400
CLOCK_TOLERANCE_SECONDS = 5
HTTP_DATE = "%a, %d %b %Y %H:%M:%S GMT"
"""The form of the `Date` header (RFC 9110, section 5.6.7)."""


class Commands(click.Group):
    """Prints expected failures of a command in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except DBAPIError as error:
            message = f"the database refused: {explain(error)}"
        except SchemaMismatch as error:
            message = f"the database's schema is none that this release knows: {error}"
        except (SettingsError, CannotListen, EmbeddedUnavailable, DatabaseUnfit, MigrationBlocked) as error:
            message = str(error)
        raise click.ClickException(" ".join(message.split()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="taskpact")
def main() -> None:
    """The backend of a todo application with many users. Settings are environment variables: see the README."""


@main.command()
@click.option("--host", help="The address to listen on [HOST, 127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on [PORT, 8000]; 0 for a free one.")
@click.option("--workers", type=click.IntRange(1, 256), help="The number of worker processes [WORKERS, 1].")
def serve(**given: object) -> None:
    """Run the service. Without DATABASE_URL, it starts its own PostgreSQL."""
    # Worker processes read their settings from the environment, so the options go there.
    os.environ.update({name.upper(): str(value) for name, value in given.items() if value is not None})
    settings = read_settings()
    if settings.jwt_jwks_url:
        issuer_tls(settings.jwt_jwks_url)
    configure_logs(settings.log_level, settings.log_format)
    for name in names_passed_over():
        logger.warning("variable_passed_over", name=name, reason="the cluster set it to the address of a service")

    # uvicorn ends by raising its signal again. That must not end this process before the embedded database is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    metrics_port = settings.metrics_port
    with (
        bound(settings.host, settings.port) as listeners,
        metrics_server(settings.host, metrics_port) if metrics_port else nullcontext(),
        _database(settings) as url,
    ):
        for check in check_database(url):
            if not check.passed:
                raise click.ClickException(f"{check.name}: {check.detail}")
        if settings.database_url is None:
            os.environ["DATABASE_URL"] = url
            if settings.jwt_jwks_url is None:
                os.environ["JWT_SECRET"] = _secret(settings)
                _greet(settings, listeners[0])
        _run(settings, listeners)


@main.command("migrate")
@click.option("--sql", is_flag=True, help="Print the SQL for psql and change nothing.")
def migrate_database(*, sql: bool) -> None:
    """Migrate the database's schema to this service's version."""
    with _database(read_settings()) as url:
        said = migration_sql(url) if sql else f"The schema is at {migrate(url)}.\n"
    click.echo(said, nl=False)


@main.command()
@click.argument("sub")
@click.option(
    "--ttl-seconds", type=click.IntRange(1), default=TOKEN_TTL_SECONDS, show_default=True, help="The token's lifetime."
)
def token(sub: str, ttl_seconds: int) -> None:
    """Print a token for the user SUB, for trials. It is signed with JWT_SECRET, or the secret in TASKPACT_DATA_DIR."""
    settings = read_settings()
    if settings.jwt_jwks_url is not None:
        raise click.ClickException("JWT_JWKS_URL is set: only the issuer can sign tokens")
    click.echo(_token(settings, sub, ttl_seconds))


@main.command("database-url")
def database_url() -> None:
    """Print the URL of the database, for psql. It may contain a password."""
    with _database(read_settings()) as url:
        click.echo(url)


@main.command()
def check() -> None:
    """Check settings, database, role, schema and keys. Exit with 1 if the service cannot run."""
    # Only this command needs rich.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    checks: list[Check] = []
    try:
        settings = read_settings()
        if settings.jwt_jwks_url:
            issuer_tls(settings.jwt_jwks_url)
        passed_over = [f"{name} is passed over: the cluster set it" for name in names_passed_over()]
        checks.append(Check("settings", True, "; ".join(["complete", *passed_over])))
        with _database(settings) as url:
            checks += check_database(url)
            if checks[-1].passed:
                checks += inspect_database(
                    url,
                    prepare=settings.database_prepare,
                    claims=settings.database_claims,
                    pool_size=settings.database_pool_size,
                )
        checks += _check_keys(settings)
    except SettingsError as error:
        checks.append(Check("settings", False, str(error)))
    except EmbeddedUnavailable as error:
        checks.append(Check("database", False, str(error)))
    table = Table("check", "", "detail")
    for row in checks:
        table.add_row(row.name, "[green]ok[/green]" if row.passed else "[red]failed[/red]", Text(row.detail))
    Console().print(table)
    sys.exit(not all(row.passed for row in checks))


def _run(settings: Settings, listeners: list[socket]) -> None:
    from app.http.server import server_config  # noqa: PLC0415 - the other commands are quicker without Connexion
    from app.http.workers import serve  # noqa: PLC0415

    config = server_config(settings, "app.application:from_environment")
    serve(config, listeners, drain_seconds=settings.drain_seconds)


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """Gives the configured database's URL. Without one, an embedded server runs, migrated, until the context ends."""
    if settings.database_url is not None:
        yield settings.database_url.reveal()
        return
    with embedded_server(settings.data_dir) as url:
        migrate(url)
        yield url


def _secret(settings: Settings) -> str:
    """Returns JWT_SECRET, or else the secret in TASKPACT_DATA_DIR.

    That one is made if it is missing. Only its owner can read it.

    Raises:
        SettingsError: TASKPACT_DATA_DIR cannot be used.
    """
    if settings.jwt_secret is not None:
        return settings.jwt_secret.reveal()
    path = settings.data_dir / "jwt-secret"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with NamedTemporaryFile("w", dir=path.parent) as file, suppress(FileExistsError):
                file.write(secrets.token_urlsafe(48))
                file.flush()
                # Several processes may do this at once. Only the first link succeeds, and its file is already complete.
                os.link(file.name, path)
        return path.read_text()
    except OSError as error:
        raise SettingsError(f"TASKPACT_DATA_DIR, {settings.data_dir}, cannot be used: {error.strerror}") from None


def _token(settings: Settings, sub: str, ttl_seconds: int) -> str:
    now = int(time.time())
    claims: dict[str, object] = {"sub": sub, "iat": now, "exp": now + ttl_seconds}
    if settings.jwt_issuer is not None:
        claims["iss"] = settings.jwt_issuer
    if settings.audience is not None:
        claims["aud"] = settings.audience
    return jwt.encode(claims, _secret(settings), "HS256")


def _greet(settings: Settings, listener: socket) -> None:
    address, port = listener.getsockname()[:2]
    # Nobody can connect to `0.0.0.0` and `::` everywhere: they mean all addresses of this machine.
    host = "localhost" if ip_address(address).is_unspecified else settings.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    bearer = _token(settings, TRIAL_USER, TOKEN_TTL_SECONDS)
    click.echo(
        f"Taskpact runs on {url}, with its documentation on {url}/docs/. Its data is in {settings.data_dir}.\n"
        f"Create a task (the token is valid for a day; `taskpact token SUB` makes others):\n\n"
        f"curl -X POST {url}/api/{TRIAL_USER}/tasks -H 'Authorization: Bearer {bearer}'"
        f" -H 'Content-Type: application/json' -d '{{\"title\": \"Buy oat milk\"}}'\n"
    )
    sys.stdout.flush()


def _check_keys(settings: Settings) -> list[Check]:
    """Checks that the keys can be fetched, and that the issuer's clock agrees with this machine's."""
    if settings.jwt_jwks_url is None:
        kept = "a shared secret, HS256" if settings.jwt_secret else f"a secret kept in {settings.data_dir}"
        return [Check("keys", True, kept)]
    try:
        fetched = fetch_keys(settings.jwt_jwks_url, issuer_tls(settings.jwt_jwks_url))
    except KeySetRefused as error:
        return [Check("keys", False, f"{settings.jwt_jwks_url}: {error}: correct JWT_JWKS_URL, or start the issuer")]
    ignored = "".join(f"; ignored: {reason}" for reason in fetched.ignored[:IGNORED_SHOWN])
    usable = f"{len(fetched.usable)} of the issuer's key set, {settings.jwt_jwks_url}{ignored}"
    checks = [Check("keys", True, usable)]
    try:
        ahead_seconds = time.time() - datetime.strptime(fetched.date or "", HTTP_DATE).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return checks  # The issuer's answer has no valid Date header.
    if abs(ahead_seconds) <= CLOCK_TOLERANCE_SECONDS:
        return [*checks, Check("clock", True, "the issuer's clock says the same")]
    is_off = f"this clock is {abs(ahead_seconds):.0f} s {'ahead of' if ahead_seconds > 0 else 'behind'} the issuer's"
    if abs(ahead_seconds) <= settings.jwt_leeway_seconds:
        return [*checks, Check("clock", True, f"{is_off}, within JWT_LEEWAY_SECONDS")]
    detail = f"{is_off}, tokens end early or begin late: synchronise both clocks, or raise JWT_LEEWAY_SECONDS"
    return [*checks, Check("clock", False, detail)]
