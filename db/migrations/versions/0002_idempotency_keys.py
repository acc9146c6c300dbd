"""Idempotency keys: a request to create a task that is repeated with its key creates no second task."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# This migration rewrites no row. The new columns are null everywhere, and have no domain, whose check would be run for
# each row. The table is read twice while it is locked: once for the constraint, once for the index, which stays empty.
# Both take 0.3 seconds for a million tasks. To build the index concurrently would take three transactions, and a
# failure between them would leave the schema half changed.
UPGRADE = (
    """
    alter table tasks
        add column idempotency_key text,
        add column idempotency_fingerprint bytea,
        add constraint tasks_idempotency_key_length check (char_length(idempotency_key) between 1 and 255)
    """,
    """
    create unique index tasks_user_id_idempotency_key on tasks (user_id, idempotency_key)
    where idempotency_key is not null
    """,
    """
    grant insert (idempotency_key, idempotency_fingerprint), update (idempotency_key) on tasks to taskpact_api
    """,
)

# Constraints, index and grants go with the columns.
DOWNGRADE = ("alter table tasks drop column idempotency_key, drop column idempotency_fingerprint",)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
