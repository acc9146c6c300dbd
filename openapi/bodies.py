"""Reads request bodies: JSON of a bounded size, validated by a compiled schema."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import msgspec
from connexion.exceptions import UnsupportedMediaTypeProblem
from jsonschema_rs import Draft4Validator
from starlette.requests import ClientDisconnect
from starlette.types import Receive
from werkzeug.http import parse_options_header

from openapi.errors import (
    NUL,
    TEXT_LIMIT_CHARACTERS,
    ContentTooLarge,
    InvalidRequest,
    UnsupportedConstruct,
    pointer_token,
)
from openapi.parameters import ABSENT
from openapi.schemas import compile_schema, describe_errors

Headers = Mapping[bytes, bytes]


def is_json(media_type: str) -> bool:
    """Whether the media type is JSON's or has its suffix (RFC 6839, section 3.1)."""
    return media_type == "application/json" or (media_type.endswith("+json") and "*" not in media_type)


def decode_json(body: bytes | bytearray) -> Any:
    """Decodes a JSON text (RFC 8259).

    Raises:
        ValueError: the text is malformed, not UTF-8 or nested too deep, or contains a lone surrogate, NaN or a number
            out of range. The message does not quote the text.
    """
    try:
        return msgspec.json.decode(body)
    except UnicodeDecodeError:
        raise ValueError("the body is not UTF-8") from None
    except RecursionError:
        raise ValueError("the body is nested too deep") from None
    except msgspec.MsgspecError:
        raise ValueError("the body is not JSON") from None


@lru_cache(maxsize=64)
def read_media_type(content_type: bytes) -> tuple[str, str]:
    """Returns the media type and the charset of a Content-Type header, in lower case (RFC 9110, section 8.3.1).

    The charset is UTF-8 if it is missing or the parameters are malformed: JSON is UTF-8 (RFC 8259, section 8.1).
    """
    media_type, parameters = parse_options_header(content_type.decode("latin-1"))
    return media_type.lower(), parameters.get("charset", "utf-8").lower()


LARGE_BYTES = 8_192
"""Bodies of this size take turns: one is decoded in each turn of the event loop, so that many hold up nobody else."""

MEDIA_TYPE_LIMIT_BYTES = 1_024
"""A longer Content-Type is none of the contract's: reading the parameters of 60 KB would take 20 ms."""

EMPTY_LIMIT_BYTES = 1024
"""A body that says nothing may be so long, with all its spaces."""

ESCAPED_NUL = rb"\u0000"
"""In JSON, U+0000 has no other form (RFC 8259, section 7)."""

JSON_SPACE = b" \t\r\n"
"""RFC 8259, section 2."""


class RequestBody:
    """The compiled request body of an operation."""

    def __init__(self, request_body: Mapping[str, Any], pointer: str, limit_bytes: int) -> None:
        """Compiles a request body object. A body of more than `limit_bytes` is refused.

        Raises:
            UnsupportedConstruct: a media type is not JSON, or a keyword is not implemented.
        """
        if "x-body-name" in request_body:
            raise UnsupportedConstruct(f"{pointer}/x-body-name", "'x-body-name'")
        self.required = request_body.get("required", False)
        self.limit_bytes = limit_bytes
        self._turn = asyncio.Lock()
        self.validators: dict[str, Draft4Validator] = {}
        for media_type, content in request_body["content"].items():
            at = f"{pointer}/content{pointer_token(media_type)}"
            if not is_json(media_type):
                raise UnsupportedConstruct(at, f"the media type {media_type!r}")
            if "encoding" in content:
                raise UnsupportedConstruct(f"{at}/encoding", "'encoding'")
            if "default" in content.get("schema", {}):
                raise UnsupportedConstruct(f"{at}/schema/default", "a default for a body that is absent")
            self.validators[media_type] = compile_schema(content.get("schema", {}), f"{at}/schema")
        self.expected = ", ".join(request_body["content"])
        self.refusal_headers: dict[str, str] = {}
        """What an answer 415 tells beside its problem."""

    async def read(self, headers: Headers, receive: Receive) -> Any:
        """Reads, decodes and validates the body. Returns `ABSENT` if there is no body and none is required.

        Raises:
            UnsupportedMediaTypeProblem: the media type is missing or unsupported, or there is a content coding (415).
            ContentTooLarge: the body exceeds the limit; the rest of it is not read (413).
            InvalidRequest: the body is missing, is not JSON, or does not match the schema (422).
            ClientDisconnect: the client disconnected before the body was complete.
        """
        content_type = headers.get(b"content-type")
        if content_type is None and not self.required and _is_empty(headers):
            return ABSENT
        validator = self._validator(content_type or b"")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            # A compressed body must not be read as if it were plain (RFC 9110, section 15.5.16).
            raise self._refusal("The body must not have a content coding.", {"Accept-Encoding": "identity"})
        body = await receive_body(headers, receive, self.limit_bytes)
        if not body:
            if self.required:
                raise InvalidRequest.body("", "the body is required")
            return ABSENT
        if len(body) < LARGE_BYTES:
            return _decode(body, validator)
        async with self._turn:
            await asyncio.sleep(0)
            return _decode(body, validator)

    def _validator(self, content_type: bytes) -> Draft4Validator:
        if len(content_type) > MEDIA_TYPE_LIMIT_BYTES:
            raise self._refusal(f"Content-Type must have at most {MEDIA_TYPE_LIMIT_BYTES} bytes.")
        media_type, charset = read_media_type(content_type)
        validator = self.validators.get(media_type)
        if validator is None or charset not in ("utf-8", "utf8"):
            raise self._refusal(f"The media type of the body must be one of: {self.expected}.")
        return validator

    def _refusal(self, detail: str, headers: Mapping[str, str] = MappingProxyType({})) -> UnsupportedMediaTypeProblem:
        refusal = UnsupportedMediaTypeProblem(detail=detail)
        refusal.headers = {**self.refusal_headers, **headers}
        return refusal


def _decode(body: bytearray, validator: Draft4Validator) -> Any:
    try:
        value = decode_json(body)
        errors = [] if validator.is_valid(value) else describe_errors(validator, value)
    except ValueError as error:
        raise InvalidRequest.body("", str(error)) from None
    if errors:
        raise InvalidRequest(
            [{"pointer": pointer[:TEXT_LIMIT_CHARACTERS], "detail": detail} for pointer, detail in errors]
        )
    if ESCAPED_NUL in body and (at := _find_nul(value)) is not None:
        raise InvalidRequest.body(at, "the value contains U+0000")
    return value


def _find_nul(body: Any) -> str | None:
    """The JSON Pointer to a string that contains U+0000, or to the object with such a name."""
    parts = [("", body)]
    while parts:
        pointer, part = parts.pop()
        match part:
            case str() if NUL in part:
                return pointer
            case list():
                parts += [(f"{pointer}/{index}", member) for index, member in enumerate(part)]
            case dict():
                parts += [(pointer, name) for name in part]
                parts += [(pointer + pointer_token(name), member) for name, member in part.items()]
    return None


async def refuse_body(headers: Headers, receive: Receive) -> None:
    """Reads the body of a request that must have none. An empty object is as good as none.

    Raises:
        InvalidRequest: the body says something, or is longer than any that says nothing (422).
        ClientDisconnect: the client disconnected before the body was complete.
    """
    if _is_empty(headers):
        return
    refusal = InvalidRequest.body("", "the operation takes no body")
    try:
        body = await receive_body(headers, receive, EMPTY_LIMIT_BYTES)
    except ContentTooLarge:
        raise refusal from None
    if bytes(body.translate(None, JSON_SPACE)) not in (b"", b"{}"):
        raise refusal


async def receive_body(headers: Headers, receive: Receive, limit_bytes: int) -> bytearray:
    """Receives a body of at most `limit_bytes`.

    Raises:
        ContentTooLarge: the body is larger; the rest of it is not read (413).
        ClientDisconnect: the client disconnected before the body was complete.
    """
    # The server has checked that Content-Length, if present, is a number and equals the length of the body.
    if int(headers.get(b"content-length", 0)) > limit_bytes:
        raise ContentTooLarge(limit_bytes)
    body = bytearray()  # Joining bytes would copy the whole body for each chunk.
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit_bytes:
            raise ContentTooLarge(limit_bytes)
        if not message.get("more_body", False):
            return body


def _is_empty(headers: Headers) -> bool:
    return b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"
