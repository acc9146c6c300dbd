"""The way to PostgreSQL: one round trip for each operation, under the user's claims.

    pool          a bounded number of connections, and what becomes of statements that fail
    fair_queue    the statements that wait for a connection, whose users take turns
    group_commit  writes that share a transaction
    connection    one server connection, which runs one transaction at a time
    failures      what each failure means: whether it is repeated, and what callers see

Words that the modules share:

claims       What PostgreSQL is told before a statement, or partly once for a session: the role, the user's id
             (row-level security goes by it), a time-out, and the time zone.
call         One statement with its values, for one user.
outcome      What came of a call: its rows, or the exception that tells why there are none.
exchange     The messages of one transaction, from the first call sent to the end of the server's answer.
perhaps done A write whose answer was lost: only PostgreSQL knows whether it was committed.
shared       Of a transaction: several writes run in it. A user's share is the part of the connections they may have.
gathered     Of a write: it waits for the next shared transaction to begin.
"""
