"""The functions that the contract names, and the answers to their failures.

A function is named in `openapi.yaml` by its module and its `operationId`: renaming one of them changes the contract.

tasks     the seven operations
headers   reads If-Match and If-None-Match, and makes entity tags
auth      identifies the token's user, and checks that the path is that user's
problems  the table that turns an exception into a problem document
"""
