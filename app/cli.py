"""The command line: `taskpact serve | migrate | token | database-url | check`."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import click
import jwt
import sqlalchemy
import uvicorn
from rich.console import Console
from rich.table import Table

from app.logs import configure_logs
from app.settings import Secret, Settings, SettingsError, read_settings
from db import schema
from db.embedded import EmbeddedUnavailable, embedded_server

TRIAL_USER = "demo"
TOKEN_TTL_SECONDS = 86_400
SHUTDOWN_SECONDS = 10


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="taskpact")
def main() -> None:
    """Taskpact, the backend of a todo application with many users. Settings come from the environment: see the README."""


@main.command()
@click.option("--host", help="The address to listen on [HOST, 127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on [PORT, 8000].")
@click.option("--workers", type=click.IntRange(1, 256), help="Worker processes [WORKERS, 1].")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Run the service. Without DATABASE_URL it brings its own PostgreSQL."""
    settings = _settings()
    given = {"host": host, "port": port, "workers": workers}
    settings = attrs.evolve(settings, **{name: value for name, value in given.items() if value is not None})
    configure_logs(settings.log_level, settings.log_format)
    with _database(settings) as url:
        is_trial = settings.database_url is None
        if is_trial:
            schema.migrate(url)
        for check in schema.check(url):
            if not check.passed:
                raise click.ClickException(f"{check.name}: {check.detail}")
        if is_trial:
            settings = _with_kept_secret(settings)
            # Workers read their settings from the environment, as they do everywhere else.
            os.environ["DATABASE_URL"] = url
            if settings.jwt_secret:
                os.environ["JWT_SECRET"] = settings.jwt_secret.reveal()
                _greet(settings)
        # The server ends on a signal by raising it again: it must not end this process before its database is stopped.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        uvicorn.run(
            "app.application:from_environment",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )


@main.command()
def migrate() -> None:
    """Bring the database's schema to the version that this service needs."""
    with _database(_settings()) as url:
        try:
            schema.migrate(url)
        except sqlalchemy.exc.DBAPIError as error:
            raise click.ClickException(str(error.orig).strip()) from None
    click.echo(f"The schema is at {schema.head()}.")


@main.command()
@click.argument("sub")
@click.option(
    "--ttl-seconds", type=click.IntRange(1), default=TOKEN_TTL_SECONDS, show_default=True, help="Its lifetime."
)
def token(sub: str, ttl_seconds: int) -> None:
    """Print a token for the user SUB, signed with JWT_SECRET or the kept secret. For trials."""
    settings = _with_kept_secret(_settings())
    if settings.jwt_secret is None:
        raise click.ClickException("JWT_JWKS_URL is set: only the issuer can sign tokens")
    click.echo(_token(settings, sub, ttl_seconds))


@main.command("database-url")
def database_url() -> None:
    """Print the URL of the database in use, for psql. It may hold a password."""
    with _database(_settings()) as url:
        click.echo(url)


@main.command()
def check() -> None:
    """Check settings, database, role, schema and keys; exit with 1 if the service could not run."""
    console = Console()
    checks: list[schema.Check] = []
    try:
        settings = read_settings()
    except SettingsError as error:
        checks.append(schema.Check("settings", False, str(error)))
    else:
        checks.append(schema.Check("settings", True, "complete"))
        try:
            with _database(settings) as url:
                checks += schema.check(url)
        except click.ClickException as error:
            checks.append(schema.Check("database", False, error.message))
        checks.append(_check_keys(settings))
    table = Table("check", "", "detail")
    for row in checks:
        table.add_row(row.name, "[green]ok[/green]" if row.passed else "[red]failed[/red]", row.detail)
    console.print(table)
    sys.exit(not all(row.passed for row in checks))


def _settings() -> Settings:
    try:
        return read_settings()
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """The URL of the database: the configured one's, or an embedded one's while it runs."""
    if settings.database_url:
        yield settings.database_url.reveal()
        return
    try:
        with embedded_server(settings.data_dir) as url:
            yield url
    except EmbeddedUnavailable as error:
        raise click.ClickException(str(error)) from None


def _with_kept_secret(settings: Settings) -> Settings:
    """Settings with a key: without any, the one that this trial's folder keeps."""
    if settings.jwt_secret or settings.jwt_jwks_url:
        return settings
    return attrs.evolve(settings, jwt_secret=Secret(_kept_secret(settings.data_dir / "jwt-secret")))


def _kept_secret(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        secret = secrets.token_urlsafe(48)
        file.write(secret)
    return secret


def _token(settings: Settings, sub: str, ttl_seconds: int) -> str:
    if settings.jwt_secret is None:
        raise SettingsError("JWT_SECRET must be set")
    now = int(time.time())
    claims: dict[str, object] = {"sub": sub, "iat": now, "exp": now + ttl_seconds}
    if settings.jwt_issuer is not None:
        claims["iss"] = settings.jwt_issuer
    if settings.jwt_audience is not None:
        claims["aud"] = settings.jwt_audience
    return jwt.encode(claims, settings.jwt_secret.reveal(), "HS256")


def _greet(settings: Settings) -> None:
    url = f"http://{settings.host}:{settings.port}"
    bearer = _token(settings, TRIAL_USER, TOKEN_TTL_SECONDS)
    click.echo(
        f"Taskpact on {url}, its documentation on {url}/docs/, its data in {settings.data_dir}.\n"
        f"Create a task (the token is good for a day; `taskpact token SUB` makes others):\n\n"
        f"curl -X POST {url}/api/{TRIAL_USER}/tasks -H 'Authorization: Bearer {bearer}'"
        f" -H 'Content-Type: application/json' -d '{{\"title\": \"Buy oat milk\"}}'\n"
    )
    sys.stdout.flush()


def _check_keys(settings: Settings) -> schema.Check:
    if settings.jwt_jwks_url:
        return schema.Check("keys", True, f"the issuer's key set, {settings.jwt_jwks_url}")
    if settings.jwt_secret:
        return schema.Check("keys", True, "a shared secret, HS256")
    return schema.Check("keys", True, f"a secret kept in {settings.data_dir}")
