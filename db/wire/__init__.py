"""The way to PostgreSQL: one round trip under the user's claims.

connection    one server connection: claims and statement together
group_commit  writes of different users, in one transaction
pool          a bounded number of connections
"""
