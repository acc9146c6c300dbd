"""What a request, a response or a contract can do wrong.

    Exception
    ├── UnsupportedConstruct            the contract uses what the engine does not implement: the start fails
    └── connexion.ProblemException      each with the status that it becomes
        ├── OAuthProblem                401, no bearer token                     (Connexion's)
        ├── NotAcceptable               406, the client wants no media type of ours
        ├── UnsupportedMediaTypeProblem 415, a body of another media type        (Connexion's)
        ├── ContentTooLarge             413
        ├── InvalidRequest              422, with `errors`
        └── NonConformingResponse       500, our own answer breaks the contract  (Connexion's)

An unknown path is left to the next application; a method that a path lacks is Starlette's `HTTPException`, 405, with
`Allow`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from connexion.exceptions import ProblemException
from connexion.lifecycle import ConnexionResponse
from starlette.types import Scope

TEXT_LIMIT_CHARACTERS = 1000
"""What a client sent may come back in an error, but not all of it."""

OnError = Callable[[Scope, Exception], ConnexionResponse]
"""Makes the answer to a request that failed."""


class UnsupportedConstruct(Exception):
    """The contract says something at `pointer` (RFC 6901, references resolved) that the engine does not implement."""

    def __init__(self, pointer: str, construct: str) -> None:
        super().__init__(f"{pointer}: {construct} is not supported")
        self.pointer = pointer


class NotAcceptable(ProblemException):
    """The client accepts no media type that the operation answers with. Becomes 406."""

    def __init__(self, media_types: Iterable[str]) -> None:
        super().__init__(status=406, detail=f"The answer can only be one of: {', '.join(media_types)}.")  # type: ignore[no-untyped-call]


class ContentTooLarge(ProblemException):
    """The body is larger than the engine reads. Becomes 413."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(status=413, detail=f"The body is larger than {limit_bytes} bytes.")  # type: ignore[no-untyped-call]


class InvalidRequest(ProblemException):
    """Parameters or body are not as described; `ext["errors"]` lists `{pointer or parameter, detail}`. Becomes 422."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__(status=422, detail="The request does not match the contract.", ext={"errors": errors})  # type: ignore[no-untyped-call]

    @classmethod
    def parameter(cls, name: str, detail: str) -> InvalidRequest:
        return cls([{"parameter": name[:TEXT_LIMIT_CHARACTERS], "detail": detail[:TEXT_LIMIT_CHARACTERS]}])

    @classmethod
    def body(cls, pointer: str, detail: str) -> InvalidRequest:
        return cls([{"pointer": pointer[:TEXT_LIMIT_CHARACTERS], "detail": detail[:TEXT_LIMIT_CHARACTERS]}])


def pointer_token(key: object) -> str:
    """A JSON Pointer's next reference token, escaped (RFC 6901, section 3)."""
    return "/" + str(key).replace("~", "~0").replace("/", "~1")
