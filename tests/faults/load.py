"""Traffic: people who each do one thing after the other, over one connection each, and note down what came of it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

from faults.ledger import Fate, Ledger, State
from handlers.problems import TYPE_PREFIX
from support.people import make_token

PATIENCE_SECONDS = 10.0
"""How long people wait for an answer."""

AGAIN_SECONDS = 0.05
"""How long they wait after a refusal: less than `Retry-After` says, to see at once when it is over."""

MIX = {"create": 4, "toggle": 3, "replace": 3, "delete": 1, "read": 3, "list": 2}
"""How often each operation is chosen, among each other."""

OUTCOME_UNKNOWN = TYPE_PREFIX + "outcome-unknown"
"""The problem that leaves open whether a write was done; any other 503 says that it was not."""


class NotSent(Exception):
    """There was no connection to send the request on."""


class NoAnswer(Exception):
    """The connection ended before the answer did, or people lost patience."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Somebody with a token, on one connection at a time, which is kept and made again when it was lost."""

    def __init__(self, url: str, user_id: str, token: str | None = None) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port
        self.user_id = user_id
        token = token or make_token(user_id, exp=int(time.time()) + 86_400)
        self._head = f"Host: {address.netloc}\r\nAuthorization: Bearer {token}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: object = None) -> Answer:
        """Sends a request, once, and waits for its answer.

        Raises:
            NotSent: no connection could be made.
            NoAnswer: it was sent, perhaps, and not answered.
        """
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection(self._host, self._port)
            except OSError as error:
                raise NotSent from error
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(content)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                writer.write(head.encode() + content)
                answer = await _read_answer(reader)
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            raise NoAnswer from error
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(first.split()[1]), headers, body)


@asynccontextmanager
async def load(
    url: str, ledger: Ledger, *, people: int, pause_seconds: float = 0.02, mix: dict[str, int] | None = None
) -> AsyncIterator[None]:
    """Keeps so many people busy, each with a pause of about so long after each request, and waits for their last."""
    stopping = asyncio.Event()
    crowd = [
        asyncio.ensure_future(Somebody(url, ledger, mix or MIX, pause_seconds).live(stopping)) for _ in range(people)
    ]
    try:
        yield
    finally:
        stopping.set()
        await asyncio.gather(*crowd)


class Somebody:
    """A person with tasks, who acts at random and remembers what must be true."""

    def __init__(self, url: str, ledger: Ledger, mix: dict[str, int], pause_seconds: float) -> None:
        self._client = Client(url, f"user-{uuid4().hex}")
        self._tasks_path = f"/api/{self._client.user_id}/tasks"
        self._ledger = ledger
        self._mix = mix
        self._pause_seconds = pause_seconds
        self._task_ids: list[str] = []
        self._created = 0
        self._random = random.Random(self._client.user_id)  # noqa: S311 - it draws no secret

    async def live(self, stopping: asyncio.Event) -> None:
        operations, weights = list(self._mix), list(self._mix.values())
        await asyncio.sleep(self._random.random() * self._pause_seconds)
        while not stopping.is_set():
            (operation,) = self._random.choices(operations, weights)
            if operation == "list":
                await self._list()
            elif operation == "create" or not self._task_ids:
                await self._create()
            else:
                task_id = self._random.choice(self._task_ids)
                if operation == "read":
                    await self._read(task_id)
                else:
                    await self._change(operation, task_id)
            await asyncio.sleep(self._pause_seconds * (0.5 + self._random.random()))
        self._client.close()

    async def _read(self, task_id: str) -> None:
        answer = await self._get(f"{self._tasks_path}/{task_id}")
        if answer and _state(answer) != self._fate(task_id).state:
            self._ledger.unexpected["read something else than was written"] += 1

    async def _list(self) -> None:
        answer = await self._get(self._tasks_path)
        for task in json.loads(answer.body)["items"] if answer else ():
            if task["user_id"] != self._client.user_id:
                self._ledger.unexpected["listed another user's task"] += 1
            elif task["id"] in self._task_ids and not _is_like(self._fate(task["id"]).state, task):
                self._ledger.unexpected["listed something else than was written"] += 1

    async def _get(self, path: str) -> Answer | None:
        answer = await self._ask("GET", path)
        if answer is None or answer.status == 503:
            self._ledger.count["failed_reads"] += 1
            return None
        self._ledger.count["reads"] += 1
        return answer

    async def _create(self) -> None:
        self._created += 1
        title = f"{self._client.user_id}: {self._created}"
        answer = await self._write("POST", self._tasks_path, {"title": title})
        if answer is None:
            self._ledger.created_perhaps.add((self._client.user_id, title))
        elif answer.status == 201:
            task_id = json.loads(answer.body)["id"]
            self._ledger.fates[self._client.user_id, task_id] = Fate({_state(answer)})
            self._task_ids.append(task_id)

    async def _change(self, operation: str, task_id: str) -> None:
        fate = self._fate(task_id)
        before = fate.state
        path = f"{self._tasks_path}/{task_id}"
        after: State | None
        match operation:
            case "toggle":
                after = State(before.title, not before.completed, before.version + 1)
                answer = await self._write("PATCH", f"{path}/complete")
            case "replace":
                title = f"{before.title.partition(', ')[0]}, {before.version + 1}"
                after = State(title, before.completed, before.version + 1)
                answer = await self._write("PUT", path, {"title": after.title})
            case "delete":
                after = None
                answer = await self._write("DELETE", path)
            case _:
                raise ValueError(operation)
        if answer is None:
            fate.states.add(after)
            self._task_ids.remove(task_id)
        elif answer.status != 503:
            fate.states = {after}
            fate.acknowledged += 1
            if after is None:
                self._task_ids.remove(task_id)
            elif _state(answer) != after:
                self._ledger.unexpected[f"{operation} did something else"] += 1

    async def _write(self, method: str, path: str, body: object = None) -> Answer | None:
        """The answer, None where it is not known whether the write was done."""
        count = self._ledger.count
        count["writes"] += 1
        answer = await self._ask(method, path, body)
        if answer is None or (answer.status == 503 and json.loads(answer.body)["type"] == OUTCOME_UNKNOWN):
            count["unknown"] += 1
            return None
        count["refused" if answer.status == 503 else "acknowledged"] += 1
        return answer

    async def _ask(self, method: str, path: str, body: object = None) -> Answer | None:
        """The answer, a success or a 503; None where there was none."""
        started = time.monotonic()
        while True:
            try:
                answer = await self._client.request(method, path, body)
                break
            except NotSent:
                # Nobody listens: that is noted, and tried until somebody does.
                self._ledger.count["unreachable"] += 1
                await asyncio.sleep(AGAIN_SECONDS)
            except NoAnswer:
                return None
        seconds = time.monotonic() - started
        if answer.status == 503:
            self._ledger.refused(seconds, json.loads(answer.body)["type"].removeprefix(TYPE_PREFIX))
            if "retry-after" not in answer.headers:
                self._ledger.unexpected["503 without Retry-After"] += 1
            await asyncio.sleep(AGAIN_SECONDS)
        elif answer.status < 300:
            self._ledger.succeeded(seconds)
        else:
            self._ledger.unexpected[f"{method} was answered {answer.status}"] += 1
            return None
        return answer

    def _fate(self, task_id: str) -> Fate:
        return self._ledger.fates[self._client.user_id, task_id]


def _is_like(state: State, task: dict[str, object]) -> bool:
    return (state.title, state.completed) == (task["title"], task["completed"])


def _state(answer: Answer) -> State:
    task = json.loads(answer.body)
    return State(task["title"], task["completed"], int(answer.headers["etag"].strip('"')))
