"""Response objects, compiled to checks of what leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connexion.exceptions import NonConformingResponseBody, NonConformingResponseHeaders
from connexion.lifecycle import ConnexionResponse
from jsonschema_rs import Draft4Validator

from openapi.bodies import decode_json, is_json
from openapi.errors import InvalidRequest, UnsupportedConstruct, pointer_token
from openapi.parameters import Parameter
from openapi.schemas import compile_schema, describe_errors


class Response:
    """One response of an operation, ready to be checked."""

    def __init__(self, response: Mapping[str, Any], pointer: str) -> None:
        """Compiles a response object.

        Raises:
            UnsupportedConstruct: a media type that is not JSON, or a header that no parameter could be.
        """
        self.validators: dict[str, Draft4Validator] = {}
        for media_type, content in response.get("content", {}).items():
            at = f"{pointer}/content{pointer_token(media_type)}"
            if not is_json(media_type):
                raise UnsupportedConstruct(at, f"the media type {media_type!r}")
            self.validators[media_type] = compile_schema(content.get("schema", {}), f"{at}/schema")
        # A header object is a parameter object without name and place (OpenAPI 3.0.3, "Header Object").
        self.headers = [
            (name, Parameter.compile({**header, "name": name, "in": "header"}, f"{pointer}/headers/{name}"))
            for name, header in response.get("headers", {}).items()
        ]

    def check(self, response: ConnexionResponse) -> None:
        """Checks media type, body and declared headers of an answer, as it leaves.

        Raises:
            NonConformingResponseBody: media type or body are not as described (500).
            NonConformingResponseHeaders: a declared header is missing or not as described (500).
        """
        if self.validators:
            validator = self.validators.get(response.content_type)
            if validator is None:
                raise NonConformingResponseBody(f"media type {response.content_type!r} is not declared")
            try:
                value = decode_json(response.body)
            except ValueError as error:
                raise NonConformingResponseBody(str(error)) from None
            if not validator.is_valid(value):
                pointer, detail = describe_errors(validator, value)[0]
                raise NonConformingResponseBody(f"{pointer}: {detail}")
        elif response.body or response.content_type:
            raise NonConformingResponseBody("no content is declared")
        for name, header in self.headers:
            try:
                header.read(response.headers.get(name))
            except InvalidRequest as error:
                raise NonConformingResponseHeaders(f"header {name}: {error.ext['errors'][0]['detail']}") from None
