"""The faults of requests, responses and contracts, as exceptions.

    Exception
    ├── UnsupportedConstruct            the contract uses something unimplemented: the start fails
    └── connexion.ProblemException      each becomes an answer with its status
        ├── OAuthProblem                401, no bearer token                     (Connexion's)
        ├── NotAcceptable               406, the client accepts none of our media types
        ├── UnsupportedMediaTypeProblem 415, a body of another media type       (Connexion's)
        ├── ContentTooLarge             413
        ├── InvalidRequest              422, with `errors`
        └── NonConformingResponse       500, our answer breaks the contract      (Connexion's)

The router (`openapi/routing.py`) passes an unknown path to the next application. For an unsupported method it raises
Starlette's `HTTPException` with status 405 and `Allow`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from connexion.exceptions import ProblemException
from connexion.lifecycle import ConnexionResponse
from starlette.types import Scope

TEXT_LIMIT_CHARACTERS = 1000
"""The longest text in an error. It may quote the request, so it is bounded."""

NUL = "\0"
"""U+0000, which no string of a request may contain: PostgreSQL stores none (RFC 8259 allows it)."""

OnError = Callable[[Scope, Exception], ConnexionResponse]
"""A function that makes the answer to a failed request."""


class UnsupportedConstruct(Exception):
    """The engine does not implement the construct at `pointer` (RFC 6901) of the contract with resolved references."""

    def __init__(self, pointer: str, construct: str) -> None:
        super().__init__(f"{pointer}: {construct} is not supported")
        self.pointer = pointer


class NotAcceptable(ProblemException):
    """The client accepts none of the media types of the operation's answers. Becomes 406."""

    def __init__(self, media_types: Iterable[str]) -> None:
        super().__init__(status=406, detail=f"The answer is available only as: {', '.join(media_types)}.")  # type: ignore[no-untyped-call]


class ContentTooLarge(ProblemException):
    """The body is larger than the limit. Becomes 413."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(status=413, detail=f"The body is larger than {limit_bytes} bytes.")  # type: ignore[no-untyped-call]


class InvalidRequest(ProblemException):
    """The parameters or the body break the contract. Becomes 422.

    `ext["errors"]` lists the errors, each as `{pointer or parameter, detail}`.
    """

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__(status=422, detail="The request does not match the contract.", ext={"errors": errors})  # type: ignore[no-untyped-call]

    @classmethod
    def parameter(cls, name: str, detail: str) -> InvalidRequest:
        return cls([{"parameter": name[:TEXT_LIMIT_CHARACTERS], "detail": detail[:TEXT_LIMIT_CHARACTERS]}])

    @classmethod
    def body(cls, pointer: str, detail: str) -> InvalidRequest:
        return cls([{"pointer": pointer[:TEXT_LIMIT_CHARACTERS], "detail": detail[:TEXT_LIMIT_CHARACTERS]}])


def pointer_token(key: object) -> str:
    """Escapes a key as the next reference token of a JSON Pointer (RFC 6901, section 3)."""
    return "/" + str(key).replace("~", "~0").replace("/", "~1")
