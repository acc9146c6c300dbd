"""Authentication. The contract's security scheme names `handlers.auth.authenticate`.

bearer  finds the token's user, and checks that the path is that user's
tokens  verifies tokens and remembers the verified ones
keys    the keys that verify tokens: a shared secret or the issuer's key set
issuer  fetches the issuer's key set
"""

from handlers.auth.bearer import authenticate

__all__ = ["authenticate"]
