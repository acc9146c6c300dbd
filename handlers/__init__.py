"""Every function that the contract names, and the problems that they raise.

tasks     the operations
headers   what conditional requests and preferences ask for
auth      who asks, and whether the path is theirs
tokens    what makes a token valid
keys      the keys that tokens are verified with
problems  exception -> problem, one table
"""
