"""The command line serves, ends cleanly, and tells mistakes in one line; what it logs holds no secret."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import jwt
import psutil
import pytest
from click.testing import CliRunner, Result

from app.cli import main
from db.schema.engine import create_engine
from db.schema.migrate import migrate
from db.schema.version import head
from support.database import new_database
from support.people import SECRET, make_token
from support.service import free_port

TASKPACT = Path(sys.executable).with_name("taskpact")
WAIT_SECONDS = 30
MARKER = "a-marker-that-no-log-may-show"


@dataclass
class Service:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    errors: Path
    printed: str = ""

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_SECONDS)


@contextmanager
def serving(tmp_path: Path, *options: str, **variables: str) -> Iterator[Service]:
    """`taskpact serve` with no variables but these, until it answers."""
    port = free_port()
    errors = tmp_path / "stderr"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PORT": str(port)} | variables
    with errors.open("w") as stderr, (tmp_path / "stdout").open("w") as stdout:
        process = subprocess.Popen(
            [TASKPACT, "serve", *options], env=environment, stdout=stdout, stderr=stderr, text=True
        )
    service = Service(process, f"http://127.0.0.1:{port}", errors)
    try:
        wait_until(lambda: is_ready(service.url) or process.poll() is not None)
        assert process.poll() is None, errors.read_text()
        service.printed = (tmp_path / "stdout").read_text()
        yield service
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def database_process(folder: Path) -> psutil.Process | None:
    """The embedded server on the folder's data, if it runs."""
    try:
        return psutil.Process(int((folder / "postgresql" / "postmaster.pid").read_text().split()[0]))
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


def run(*arguments: str, **variables: str | None) -> Result:
    # The runner puts back only the variables that it was told about, and options become variables.
    unset = dict.fromkeys(("DATABASE_URL", "JWT_SECRET", "HOST", "PORT", "WORKERS"))
    return CliRunner().invoke(main, arguments, env=unset | variables)


def assert_one_line(result: Result, message: str) -> None:
    assert result.exit_code == 1
    assert result.stdout == ""
    assert re.fullmatch(rf"Error: [^\n]*{message}[^\n]*\n", result.stderr), result.stderr
    assert "s3cr3t" not in result.stderr


@pytest.mark.requirement("SC-01", "SC-07", "FR-15", "SR-06")
def test_serve_needs_nothing_and_keeps_tasks_and_secret_between_starts(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(tmp_path, TASKPACT_DATA_DIR=str(data)) as service:
        (command,) = [line for line in service.printed.splitlines() if line.startswith("curl ")]
        created = json.loads(subprocess.check_output(shlex.split(command), stderr=subprocess.DEVNULL))
        secret = data / "jwt-secret"
        kept = secret.read_text()

        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert service.end(signal.SIGTERM) == 0
        assert database_process(data) is None

    token = run("token", "demo", TASKPACT_DATA_DIR=str(data)).stdout.strip()
    headers = {"Authorization": f"Bearer {token}"}
    with serving(tmp_path, "--workers", "2", "--host", "::", TASKPACT_DATA_DIR=str(data)) as service:
        assert httpx.get(f"{service.url}/api/demo/tasks/{created['id']}", headers=headers).json() == created
        # Not every client can connect to the address that means all of them.
        assert "curl -X POST http://localhost:" in service.printed
        assert secret.read_text() == kept
        assert service.end(signal.SIGINT) == 0
        assert database_process(data) is None


@pytest.mark.requirement("FR-15")
def test_after_a_hard_kill_the_next_start_works_and_stops_the_database_in_the_end(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(tmp_path, "--workers", "2", TASKPACT_DATA_DIR=str(data)) as service:
        children = psutil.Process(service.process.pid).children(recursive=True)
        service.end(signal.SIGKILL)
        assert psutil.wait_procs(children, WAIT_SECONDS)[1] == []
        assert database_process(data) is not None

    with serving(tmp_path, TASKPACT_DATA_DIR=str(data)) as service:
        assert service.end(signal.SIGINT) == 0
        assert database_process(data) is None


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        result = run("serve", "--port", port, "--workers", workers, TASKPACT_DATA_DIR=str(tmp_path / "data"))

    assert_one_line(result, f"cannot listen on 127.0.0.1, port {port}: Address already in use")
    assert not (tmp_path / "data").exists()


def test_help_names_every_command() -> None:
    result = run("--help")

    assert result.exit_code == 0
    assert all(f"  {name} " in result.stdout for name in ("serve", "migrate", "token", "database-url", "check"))


@pytest.mark.requirement("DR-04", "NF-03")
def test_migrate_makes_the_schema_that_check_then_finds(cluster_url: str) -> None:
    with new_database(cluster_url) as url:
        before = run("check", DATABASE_URL=url, JWT_SECRET=SECRET)
        migrated = run("migrate", DATABASE_URL=url, JWT_SECRET=SECRET)
        after = run("check", DATABASE_URL=url, JWT_SECRET=SECRET)

    assert before.exit_code == 1
    assert "run `taskpact migrate`" in " ".join(before.stdout.split())
    assert (migrated.exit_code, migrated.stdout) == (0, f"The schema is at {head()}.\n")
    assert after.exit_code == 0, after.stdout
    assert "failed" not in after.stdout


@pytest.mark.requirement("NF-03")
def test_a_schema_that_this_release_does_not_know_is_not_touched(cluster_url: str) -> None:
    with new_database(cluster_url) as url:
        migrate(url)
        with create_engine(url).begin() as connection:
            connection.exec_driver_sql("update alembic_version set version_num = 'ae1027a6acf'")

        result = run("migrate", DATABASE_URL=url, JWT_SECRET=SECRET)

    assert_one_line(result, "none that this release knows: .*ae1027a6acf")


@pytest.mark.requirement("FR-03", "FR-04")
def test_token_signs_what_the_settings_ask_for() -> None:
    settings = {"JWT_SECRET": SECRET, "JWT_ISSUER": "https://issuer.example", "JWT_AUDIENCE": "tasks"}

    token = run("token", "provider|id", "--ttl-seconds", "60", **settings).stdout.strip()

    claims = jwt.decode(token, SECRET, ["HS256"], issuer="https://issuer.example", audience="tasks")
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("provider|id", 60)


@pytest.mark.requirement("SR-15")
def test_token_names_no_audience_where_every_audience_is_accepted() -> None:
    token = run("token", "alice", JWT_SECRET=SECRET, JWT_AUDIENCE="any").stdout.strip()

    assert jwt.decode(token, SECRET, ["HS256"]).keys() == {"sub", "iat", "exp"}


@pytest.mark.requirement("SR-06")
def test_token_refuses_where_only_the_issuer_can_sign() -> None:
    result = run("token", "x", JWT_JWKS_URL="https://issuer.example/jwks", JWT_AUDIENCE="any")

    assert_one_line(result, "only the issuer can sign")


@pytest.mark.requirement("NF-03", "SR-15")
def test_a_key_set_without_an_audience_is_refused_in_one_line() -> None:
    assert_one_line(run("serve", JWT_JWKS_URL="https://issuer.example/jwks"), "JWT_AUDIENCE must be set")


@pytest.mark.requirement("NF-03", "SR-06")
@pytest.mark.parametrize(
    ("name", "value"), [("ALL_PROXY", "socks5://somebody:s3cr3t@127.0.0.1"), ("SSL_CERT_FILE", "/nowhere")]
)
def test_a_key_set_that_the_environment_keeps_from_being_fetched_is_told_in_one_line(name: str, value: str) -> None:
    variables = {"JWT_JWKS_URL": "https://issuer.example/jwks", "JWT_AUDIENCE": "any", name: value}

    assert_one_line(run("serve", PORT="0", **variables), f"{name} (must be|cannot be used)")


@pytest.mark.requirement("SR-06", "SR-07")
def test_database_url_prints_the_url_whole() -> None:
    url = "postgresql://somebody:s3cr3t@localhost/tasks"

    assert run("database-url", DATABASE_URL=url, JWT_SECRET=SECRET).stdout == f"{url}\n"


@pytest.mark.requirement("SR-06", "NF-03")
@pytest.mark.parametrize("name", ["serve", "migrate", "check"])
@pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgresql://somebody:s3cr3t@127.0.0.1:1/tasks", id="unreachable"),
        pytest.param("postgresql://somebody:s3cr3t@does-not-exist.invalid/tasks", id="unknown-host"),
        pytest.param("postgresql://somebody:%zzs3cr3t@127.0.0.1/tasks", id="not-a-url"),
    ],
)
def test_a_database_out_of_reach_is_told_in_one_line_without_its_password(name: str, url: str) -> None:
    result = run(name, DATABASE_URL=url, JWT_SECRET=SECRET, PORT="0")

    assert result.exit_code == 1
    assert "s3cr3t" not in result.output
    if name != "check":
        assert_one_line(result, "")


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize("name", ["serve", "migrate", "database-url", "token"])
def test_a_mistake_in_the_settings_is_told_in_one_line(name: str) -> None:
    arguments = [name, "x"] if name == "token" else [name]

    assert_one_line(run(*arguments, JWT_SECRET="s3cr3t"), "JWT_SECRET must have at least 32 bytes")


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize("name", ["serve", "migrate", "token"])
def test_a_folder_that_cannot_be_used_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    arguments = {"token": ["token", "x"], "serve": ["serve", "--port", "0"]}.get(name, [name])

    assert_one_line(run(*arguments, TASKPACT_DATA_DIR=str(tmp_path / "file" / "x")), "Not a directory")


@pytest.mark.requirement("NF-03", "SR-06", "SR-11")
def test_as_json_every_line_of_the_log_is_an_object_without_tokens_bodies_or_secrets(
    tmp_path: Path, database_url: str
) -> None:
    variables = {"DATABASE_URL": database_url, "JWT_SECRET": SECRET, "LOG_FORMAT": "json", "LOG_LEVEL": "debug"}
    token = make_token("alice", marker=MARKER)
    with serving(tmp_path, "--workers", "2", **variables) as service:
        tasks = f"{service.url}/api/alice/tasks"
        bearer = {"Authorization": f"Bearer {token}"}
        statuses = [
            httpx.post(tasks, json={"title": MARKER}, headers=bearer).status_code,
            httpx.post(tasks, json={"title": "", "description": MARKER}, headers=bearer).status_code,
            httpx.post(tasks, content=f"{{{MARKER}", headers=bearer | {"Content-Type": "application/json"}).status_code,
            httpx.get(tasks, headers={"Authorization": f"Bearer {token}x"}).status_code,
            httpx.get(tasks, headers={"Authorization": f"Bearer {MARKER}"}).status_code,
            httpx.get(tasks.replace("alice", "bob"), headers=bearer).status_code,
        ]
        service.end(signal.SIGTERM)
        log = service.errors.read_text()

    lines = [json.loads(line) for line in log.splitlines()]
    assert statuses == [201, 422, 422, 401, 401, 403]
    assert all({"level", "timestamp", "event"} <= line.keys() for line in lines)
    assert {line["level"] for line in lines} == {"info", "warning"} | ({"debug"} & {line["level"] for line in lines})
    assert {"request", "authentication_failed", "authorization_failed", "Shutting down"} <= {
        line["event"] for line in lines
    }
    assert not [secret for secret in (MARKER, token, token.split(".")[1], SECRET) if secret in log + service.printed]


@pytest.mark.requirement("NF-03")
def test_the_log_level_keeps_lesser_lines_out_and_a_console_line_is_readable(tmp_path: Path, database_url: str) -> None:
    variables = {"DATABASE_URL": database_url, "JWT_SECRET": SECRET, "LOG_LEVEL": "warning", "LOG_FORMAT": "console"}
    with serving(tmp_path, **variables) as service:
        httpx.get(f"{service.url}/api/alice/tasks")
        service.end(signal.SIGTERM)
        log = service.errors.read_text()

    (line,) = log.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z \[warning  \] authentication_failed ", line)


FAIL_WITH_A_SECRET = """
import logging, sys, warnings
from app.observe.logs import configure_logs
import structlog
configure_logs("info", sys.argv[1])
def fail(token):
    raise ValueError("a fault")
try:
    fail("s3cr3t" + "-local")
except ValueError:
    structlog.get_logger().exception("by structlog", place=object)
    logging.getLogger("uvicorn.error").exception("by the %s", "server")
warnings.warn("a warning")
"""


@pytest.mark.requirement("SR-06", "SR-10")
@pytest.mark.parametrize("form", ["console", "json"])
def test_exceptions_and_warnings_are_logged_without_local_variables(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAIL_WITH_A_SECRET, form], capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stderr.count("ValueError: a fault") == 2
    assert "by the server" in done.stderr
    assert "UserWarning: a warning" in done.stderr
    assert "s3cr3t-local" not in done.stderr
    if form == "json":
        assert [json.loads(line)["level"] for line in done.stderr.splitlines()] == ["error", "error", "warning"]


@pytest.mark.requirement("NF-03")
def test_check_finds_a_pool_that_the_server_has_no_connections_for(database_url: str) -> None:
    good = run("check", DATABASE_URL=database_url, JWT_SECRET=SECRET)
    bad = run("check", DATABASE_URL=database_url, JWT_SECRET=SECRET, DATABASE_POOL_SIZE="1000")

    assert good.exit_code == 0, good.stdout
    assert bad.exit_code == 1
    assert "DATABASE_POOL_SIZE is 1000, but the server allows" in " ".join(bad.stdout.replace("│", " ").split())
