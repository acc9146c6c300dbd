"""A create whose answer was lost is repeated, and never says more about the first run than is known."""

from __future__ import annotations

import psycopg
import pytest

from db.tasks import IdempotencyKeyReused, Tasks, User
from db.wire.failures import OutcomeUnknown
from db.wire.pool import Pool
from support.connections import run

pytestmark = pytest.mark.requirement("FR-21", "SC-04")

TRIGGER = """
    create sequence tries;
    grant usage on sequence tries to taskpact_api;
    create function lose_the_answer() returns trigger language plpgsql as $$
    begin
        if nextval('tries') = 1 then
            -- This is what a pooler says when its server is gone: the insert may have been done.
            raise connection_failure;
        end if;
        {second}
        return new;
    end $$;
    create trigger lose_the_answer before insert on tasks for each row execute function lose_the_answer();
"""
NOTHING = ""
MEETS_ITSELF = "raise unique_violation using constraint = 'tasks_pkey';"


@pytest.mark.parametrize("provision", [True, False], ids=["provisioned", "not-provisioned"])
@pytest.mark.parametrize(
    ("second", "key", "used_for", "expected"),
    [
        pytest.param(NOTHING, None, None, None, id="the first run was not done"),
        pytest.param(NOTHING, "k", None, None, id="nor was it with a key"),
        pytest.param(NOTHING, "k", "x", None, id="the key's task is of the same body"),
        pytest.param(MEETS_ITSELF, None, None, OutcomeUnknown, id="its own row was there and is deleted"),
        pytest.param(NOTHING, "k", "y", OutcomeUnknown, id="the key was used again meanwhile"),
    ],
)
def test_a_create_that_is_repeated_and_finds_nothing_does_not_know_its_outcome(
    own_database: str, second: str, key: str | None, used_for: str | None, expected: type[Exception] | None,
    provision: bool,
) -> None:  # fmt: skip
    alice = User("alice")

    async def main() -> None:
        async with Pool(own_database, size=2) as pool:
            tasks = Tasks(pool, provision_users=provision)
            with psycopg.connect(own_database, autocommit=True) as owner:
                owner.execute("insert into users (id) values ('alice')")
                if used_for:
                    await tasks.create(alice, title=used_for, description=None, idempotency_key=key)
                owner.execute(TRIGGER.format(second=second))

            async def create() -> str:
                task_id, _ = await tasks.create(alice, title="x", description=None, idempotency_key=key)
                return task_id

            if expected:
                with pytest.raises(expected):
                    await create()
            else:
                assert await tasks.get(alice, await create())
            assert pool.errors["08"] == 1

    run(main)


def test_a_key_that_was_used_before_is_told_where_nothing_was_repeated(own_database: str) -> None:
    alice = User("alice")

    async def main() -> None:
        async with Pool(own_database, size=2) as pool:
            with psycopg.connect(own_database, autocommit=True) as owner:
                owner.execute("insert into users (id) values ('alice')")
            for provision in (True, False):
                tasks = Tasks(pool, provision_users=provision)
                await tasks.create(alice, title="x", description=None, idempotency_key="k")
                with pytest.raises(IdempotencyKeyReused):
                    await tasks.create(alice, title="y", description=None, idempotency_key="k")

    run(main)
