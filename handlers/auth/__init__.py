"""Who asks. The contract's security scheme names `handlers.auth.authenticate`.

bearer  the token's user, and whether the path is theirs
tokens  what makes a token valid
keys    the keys that tokens are verified with
"""

from handlers.auth.bearer import authenticate

__all__ = ["authenticate"]
