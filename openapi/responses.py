"""Compiles response objects to checks of answers; compresses and sends answers."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Collection, Mapping
from typing import Any

from connexion.exceptions import NonConformingResponseBody, NonConformingResponseHeaders
from connexion.lifecycle import ConnexionResponse
from jsonschema_rs import Draft4Validator
from starlette.types import Scope, Send

from openapi.bodies import decode_json, is_json
from openapi.errors import InvalidRequest, UnsupportedConstruct, pointer_token
from openapi.negotiation import prefers_gzip
from openapi.parameters import Parameter
from openapi.schemas import compile_schema, describe_errors

RawHeader = tuple[bytes, bytes]

KNOWN_HEADERS = 100
"""So many values of a response's headers are remembered. Others are encoded each time."""

COMPRESSED_BYTES = 14_600
"""The least size of a body that is compressed. A new connection sends this much without waiting (RFC 6928)."""

THREAD_BYTES = 65_536
"""From this size on, a thread compresses. A hundred of the largest tasks would make the event loop stand for 8 ms."""

GZIP_LEVEL = 1
"""Level 1 compresses 31 KB of tasks to 10 KB in 0.2 ms. The usual level takes twice as long and reaches 9 KB."""


class Response:
    """One compiled response of an operation."""

    def __init__(self, response: Mapping[str, Any], pointer: str, outer_headers: Collection[str] = ()) -> None:
        """Compiles a response object. Its `outer_headers`, in lower case, are sent by a station outside.

        Raises:
            UnsupportedConstruct: a media type is not JSON, or a header uses something that parameters do not support.
        """
        self.validators: dict[str, Draft4Validator] = {}
        for media_type, content in response.get("content", {}).items():
            at = f"{pointer}/content{pointer_token(media_type)}"
            if not is_json(media_type):
                raise UnsupportedConstruct(at, f"the media type {media_type!r}")
            self.validators[media_type] = compile_schema(content.get("schema", {}), f"{at}/schema")
        self.content_types = {name: (b"content-type", name.encode()) for name in self.validators}
        # A header object is a parameter object without name and place (OpenAPI 3.0.3, "Header Object"). OpenAPI ignores
        # a header named Content-Type, because the media types define it.
        self.headers = [
            (name, name.lower().encode(), Parameter.compile({**header, "name": name, "in": "header"}, at))
            for name, header in response.get("headers", {}).items()
            for at in [f"{pointer}/headers{pointer_token(name)}"]
            if name.lower() not in {"content-type", *outer_headers}
        ]
        # Most headers have few values. The first ones are remembered, checked and encoded.
        self.known: dict[tuple[str, str | None], RawHeader] = {}

    def check(self, response: ConnexionResponse) -> list[RawHeader]:
        """Checks an answer's media type, body and headers against the contract, and encodes the headers.

        Raises:
            NonConformingResponseBody: the media type or the body breaks the contract (500).
            NonConformingResponseHeaders: a header is missing, undeclared, or breaks the contract (500).
        """
        encoded = self._check_headers(response.headers)
        if self.validators:
            encoded.append(self._check_content(response.content_type, response.body or b""))
        elif response.body or response.content_type:
            raise NonConformingResponseBody("no content is declared")
        return encoded

    def _check_headers(self, headers: Mapping[str, str]) -> list[RawHeader]:
        encoded = []
        for name, raw_name, header in self.headers:
            text = headers.get(name)
            if known := self.known.get((name, text)):
                encoded.append(known)
                continue
            try:
                header.read(text)
            except InvalidRequest as error:
                raise NonConformingResponseHeaders(f"header {name}: {error.ext['errors'][0]['detail']}") from None
            if text is not None:
                encoded.append(raw_header := (raw_name, text.encode("latin-1")))
                if len(self.known) < KNOWN_HEADERS:
                    self.known[name, text] = raw_header
        if len(encoded) + ("Content-Type" in headers) != len(headers):
            undeclared = headers.keys() - {name for name, _, _ in self.headers}
            raise NonConformingResponseHeaders(f"headers not declared: {sorted(undeclared)}")
        return encoded

    def _check_content(self, content_type: str, body: bytes) -> RawHeader:
        validator = self.validators.get(content_type)
        if validator is None:
            raise NonConformingResponseBody(f"media type {content_type!r} is not declared")
        try:
            value = decode_json(body)
            errors = [] if validator.is_valid(value) else describe_errors(validator, value)
        except ValueError as error:
            raise NonConformingResponseBody(str(error)) from None
        if errors:
            pointer, detail = errors[0]
            raise NonConformingResponseBody(f"{pointer}: {detail}")
        return self.content_types[content_type]


async def compress(response: ConnexionResponse, headers: list[RawHeader], scope: Scope) -> None:
    """Compresses the body of an answer with gzip, if the request's Accept-Encoding prefers it."""
    accept_encoding = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    if prefers_gzip(accept_encoding):
        if len(response.body) < THREAD_BYTES:
            response.body = gzip.compress(response.body, GZIP_LEVEL, mtime=0)
        else:
            response.body = await asyncio.to_thread(gzip.compress, response.body, GZIP_LEVEL, mtime=0)
        headers.append((b"content-encoding", b"gzip"))


def encode_headers(response: ConnexionResponse) -> list[RawHeader]:
    """Encodes the headers of an answer without checking them, for answers that no operation declares."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()]


async def send_response(response: ConnexionResponse, headers: list[RawHeader], method: str, send: Send) -> None:
    """Sends an answer. The answer to HEAD has no body."""
    body = response.body or b""
    if response.status_code not in (204, 304):
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
