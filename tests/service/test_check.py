"""`taskpact check` finds what is wrong, and says what helps."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm

from app.cli import main
from db.embedded import embedded_server
from db.schema.migrate import migrate
from support.database import new_database
from support.people import SECRET

pytestmark = pytest.mark.requirement("NF-03")

KEY = json.loads(OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key())) | {"kid": "1", "alg": "EdDSA"}


def check(database_url: str, **variables: str | None) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and what was found of each thing, with its sentence."""
    keys = {"JWT_AUDIENCE": "tasks"} if "JWT_JWKS_URL" in variables else {"JWT_SECRET": SECRET}
    environment = {"DATABASE_URL": database_url, "COLUMNS": "1000", "JWT_SECRET": None} | keys | variables
    result = CliRunner().invoke(main, ["check"], env=environment)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    return result.exit_code, {name: (found, detail) for name, found, detail in rows}


@contextmanager
def issuer(answer: bytes, ahead: timedelta = timedelta(), status: int = 200, **headers: str) -> Iterator[str]:
    """A key set on loopback, whose clock is so far ahead, with these headers."""
    headers = {"Date": format_datetime(datetime.now(UTC) + ahead, usegmt=True)} | headers

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/jwks"
        finally:
            server.shutdown()
            thread.join()


def test_nothing_is_found_where_nothing_is_wrong(database_url: str) -> None:
    with issuer(json.dumps({"keys": [KEY]}).encode()) as url:
        code, found = check(database_url, JWT_JWKS_URL=url)

    assert code == 0, found
    assert list(found) == [
        "settings", "database", "role", "schema", "policies", "indexes", "grants",
        "connections", "prepared statements", "keys", "clock",
    ]  # fmt: skip
    assert {state for state, _ in found.values()} == {"ok"}
    assert found["keys"][1] == f"1 of the issuer's key set, {url}"


@pytest.mark.parametrize(
    ("url", "helps"),
    [
        pytest.param(
            "postgresql://x@127.0.0.1:{free}/x", "no server listens there: start it, or correct", id="no-server"
        ),
        pytest.param("postgresql://x@does-not-exist.invalid/x", "correct the host in DATABASE_URL", id="no-host"),
        pytest.param("postgresql://x@127.0.0.1:{deaf}/x?connect_timeout=2", "or open the firewall", id="no-answer"),
    ],
)
def test_an_unreachable_database_is_found(url: str, helps: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code, found = check(url.format(free=free.getsockname()[1], deaf=deaf.getsockname()[1]))

    assert code == 1
    assert found["database"][0] == "failed"
    assert helps in found["database"][1]
    assert "role" not in found


def test_a_wrong_password_and_a_missing_database_are_found(tmp_path: Path) -> None:
    with embedded_server(tmp_path) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create role somebody login password 'right'")
            (path,) = connection.execute("show hba_file").fetchone() or ("",)
            rules = Path(path).read_text()
            Path(path).write_text(f"local all somebody scram-sha-256\n{rules}")
            connection.execute("select pg_reload_conf()")
        login = url.replace("user=postgres", "user=somebody")
        _, wrong = check(f"{login}&password=wr0ng")
        _, none = check(login)
        _, missing = check(f"{login}&password=right".replace("///postgres?", "///elsewhere?"))

    assert wrong["database"][1].endswith("the user or the password in DATABASE_URL is wrong")
    assert none["database"][1].endswith("DATABASE_URL needs a password")
    assert missing["database"][1].endswith('database "elsewhere" does not exist: create it, or correct DATABASE_URL')
    assert "wr0ng" not in str(wrong)


def migrated_and(statement: str) -> Callable[[str], None]:
    def change(url: str) -> None:
        migrate(url)
        with psycopg.connect(url) as connection:
            connection.execute(statement)

    return change


@pytest.mark.parametrize(
    ("change", "name", "helps"),
    [
        pytest.param(lambda url: migrate(url, "0001"), "schema", "run `taskpact migrate`", id="schema-behind"),
        pytest.param(
            migrated_and("alter table tasks no force row level security"),
            "policies",
            "run `alter table tasks enable row level security, force row level security`",
            id="policies",
        ),
        pytest.param(
            migrated_and("drop index tasks_id"),
            "indexes",
            "tasks_id is missing or invalid, so that tasks is searched row by row: run `drop index if exists tasks_id;"
            " CREATE INDEX CONCURRENTLY tasks_id ON tasks USING hash (id)`",
            id="no-index",
        ),
        pytest.param(
            migrated_and(
                "update pg_index set indisvalid = false where indexrelid = 'tasks_user_id_completed_id'::regclass"
            ),
            "indexes",
            "CREATE INDEX CONCURRENTLY tasks_user_id_completed_id ON tasks (user_id, completed, id)`",
            id="invalid-index",
        ),
    ],
)
def test_a_database_that_lacks_something_is_found(
    cluster_url: str, change: Callable[[str], None], name: str, helps: str
) -> None:
    with new_database(cluster_url) as url:
        change(url)
        code, found = check(url)

    assert code == 1
    assert (found[name][0], helps in found[name][1]) == ("failed", True), found


def test_what_mends_an_index_is_what_the_sentence_says(cluster_url: str) -> None:
    with new_database(cluster_url) as url:
        migrate(url)
        with psycopg.connect(url, autocommit=True) as connection:
            for index in ("tasks_id", "tasks_user_id_completed_id", "tasks_user_id_idempotency_key"):
                connection.execute(f"drop index {index}")
            for _ in range(3):
                (commands,) = re.findall("`(.+)`", check(url)[1]["indexes"][1])
                for command in commands.split(";"):
                    connection.execute(command)

        assert check(url)[0] == 0


@pytest.mark.parametrize(
    ("ahead_seconds", "state", "says"),
    [
        pytest.param(3600, "failed", "behind the issuer's, tokens end early or begin late: synchronise", id="ahead"),
        pytest.param(-3600, "failed", "s ahead of the issuer's", id="behind"),
        pytest.param(-2, "ok", "says the same", id="close"),
    ],
)
def test_a_clock_that_differs_from_the_issuers_is_found(
    database_url: str, ahead_seconds: int, state: str, says: str
) -> None:
    with issuer(json.dumps({"keys": [KEY]}).encode(), timedelta(seconds=ahead_seconds)) as url:
        code, found = check(database_url, JWT_JWKS_URL=url)

    assert (code, found["clock"][0]) == (state == "failed", state)
    assert says in found["clock"][1]


def test_a_clock_within_the_leeway_is_good_enough(database_url: str) -> None:
    with issuer(json.dumps({"keys": [KEY]}).encode(), timedelta(seconds=60)) as url:
        code, found = check(database_url, JWT_JWKS_URL=url, JWT_LEEWAY_SECONDS="120")

    assert (code, found["clock"][0]) == (0, "ok")
    assert found["clock"][1].endswith("s behind the issuer's, within JWT_LEEWAY_SECONDS")


@pytest.mark.requirement("FR-02")
def test_keys_that_are_passed_over_are_named(database_url: str) -> None:
    with issuer(json.dumps({"keys": [KEY | {"kid": "odd", "use": "enc"}, KEY]}).encode()) as url:
        code, found = check(database_url, JWT_JWKS_URL=url)

    assert (code, found["keys"][0]) == (0, "ok")
    assert found["keys"][1].startswith("1 of the issuer's key set")
    assert found["keys"][1].endswith("; ignored: keys[0]: the key's use is 'enc' (kid 'odd')")


@pytest.mark.parametrize(
    "date",
    [
        pytest.param("", id="empty"),
        pytest.param("yesterday", id="words"),
        pytest.param("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", id="year-too-large"),
        pytest.param("Mon, 01 Jan 0000 00:00:00 GMT", id="year-0"),
        pytest.param("Mon, 99 Jan 2026 00:00:00 GMT", id="day-too-large"),
        pytest.param("Mon, 01 Jan 2026 00:00:00 -9999", id="another-zone"),
        pytest.param("9" * 10_000, id="digits"),
        pytest.param("\xff", id="not-ascii"),
    ],
)
def test_an_issuer_without_a_valid_date_has_no_clock_to_compare(database_url: str, date: str) -> None:
    with issuer(json.dumps({"keys": [KEY]}).encode(), Date=date) as url:
        code, found = check(database_url, JWT_JWKS_URL=url)

    assert (code, found["keys"][0]) == (0, "ok")
    assert "clock" not in found


@pytest.mark.requirement("NF-03", "SR-15")
def test_a_key_set_without_an_audience_is_found() -> None:
    code, found = check("postgresql://x@127.0.0.1/x", JWT_JWKS_URL="https://issuer.example/jwks", JWT_AUDIENCE=None)

    assert (code, found["settings"][0]) == (1, "failed")
    assert found["settings"][1].startswith("JWT_AUDIENCE must be set with JWT_JWKS_URL")
    assert "JWT_AUDIENCE=any" in found["settings"][1]


def test_an_answer_that_takes_much_to_read_is_found(database_url: str) -> None:
    with issuer(b"", Content_Encoding="gzip, gzip, gzip") as url:
        code, found = check(database_url, JWT_JWKS_URL=url)

    assert (code, found["keys"][0]) == (1, "failed")
    assert "the key set has a content encoding" in found["keys"][1]


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        pytest.param(b'{"keys": [' + b"[]," * 100_000 + b"0]}", 200, "more than 10,000 values", id="many-values"),
        pytest.param(b"{}", 200, "the answer is not a key set", id="no-key-set"),
        pytest.param(b'{"keys": []}', 200, "no usable key", id="no-keys"),
        pytest.param(b"", 404, "the issuer answered 404", id="not-found"),
    ],
)
def test_a_key_set_that_is_none_is_found(database_url: str, answer: bytes, status: int, says: str) -> None:
    with issuer(answer, status=status) as url:
        code, found = check(database_url, JWT_JWKS_URL=url)

    assert (code, found["keys"][0]) == (1, "failed")
    assert says in found["keys"][1]
    assert found["keys"][1].endswith("correct JWT_JWKS_URL, or start the issuer")


def test_a_proxy_that_cannot_be_used_is_found() -> None:
    code, found = check(
        "postgresql://x@127.0.0.1/x", JWT_JWKS_URL="https://issuer.example/jwks", ALL_PROXY="socks://s3cr3t@x"
    )

    assert (code, list(found), found["settings"][0]) == (1, ["settings"], "failed")
    assert found["settings"][1].startswith("ALL_PROXY must be")
    assert "s3cr3t" not in str(found)


def test_an_issuer_out_of_reach_is_found(database_url: str) -> None:
    with issuer(b"") as url:
        pass
    code, found = check(database_url, JWT_JWKS_URL=url)

    assert (code, found["keys"][0]) == (1, "failed")
    assert "correct JWT_JWKS_URL, or start the issuer" in found["keys"][1]
