"""Whatever happens to PostgreSQL: no acknowledged write is lost, none is done twice, and nobody waits long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from conftest import running_process
from faults.ledger import Ledger, settle
from faults.load import load
from faults.postgres import Postgres

pytestmark = pytest.mark.faults


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    uvloop.run(main())


@pytest.mark.requirement("FR-15")
def test_a_killed_postgresql_loses_nothing_and_is_used_again_at_once(
    postgres: Postgres, database_url: str, tmp_path: Path
) -> None:
    ledger = Ledger()

    async def main() -> None:
        async with load(url, ledger, people=40):
            await asyncio.sleep(2)
            await asyncio.to_thread(postgres.kill)
            await asyncio.sleep(3)
            await asyncio.to_thread(postgres.start)
            back_at = time.monotonic()
            await asyncio.sleep(3)
        assert ledger.first_success_after(back_at) < 1

    with running_process(database_url, tmp_path / "log") as url:
        run(main)
    settle("PostgreSQL killed, back after 3 s", ledger, database_url)
