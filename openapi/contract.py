"""The contract's operations, compiled: Connexion's base classes for stations behind its router, filled in."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from connexion.middleware.abstract import RoutedAPI, RoutedMiddleware
from connexion.operations.abstract import AbstractOperation
from connexion.spec import Specification
from starlette.types import ASGIApp

from openapi.errors import OnError
from openapi.operations import Operation

BODY_LIMIT_BYTES = 65_536


class ContractAPI(RoutedAPI[Operation]):
    """The operations of one contract by their ids, each compiled once, at start."""

    def __init__(
        self,
        specification: Specification,
        *,
        on_error: OnError,
        state_names: Collection[str],
        body_limit_bytes: int,
        outer_headers: Collection[str],
        **options: Any,
    ) -> None:
        super().__init__(specification, **options)
        self.on_error = on_error
        self.state_names = state_names
        self.body_limit_bytes = body_limit_bytes
        self.outer_headers = outer_headers
        self.add_paths()

    def make_operation(self, operation: AbstractOperation) -> Operation:
        """Compiles an operation.

        Raises:
            UnsupportedConstruct: the contract says something of it that is not implemented.
        """
        return Operation(
            operation,
            on_error=self.on_error,
            state_names=self.state_names,
            body_limit_bytes=self.body_limit_bytes,
            outer_headers=self.outer_headers,
            path_item=self.specification["paths"][operation.path],
        )


class ContractMiddleware(RoutedMiddleware[ContractAPI]):
    """Replaces Connexion's stations of security, request validation and response validation.

    `RoutedMiddleware` looks up the operation that the router named, and calls it; what the contract does not have goes
    on to the next application.
    """

    api_cls = ContractAPI

    def __init__(
        self,
        app: ASGIApp,
        *,
        on_error: OnError,
        state_names: Collection[str] = (),
        body_limit_bytes: int = BODY_LIMIT_BYTES,
        outer_headers: Collection[str] = (),
    ) -> None:
        """Compiles contracts for an application.

        Handlers may take members of the lifespan's state as arguments, those in `state_names`. Stations outside send
        the `outer_headers`, in lower case, with every answer.
        """
        super().__init__(app)
        self.compile_options = {
            "on_error": on_error,
            "state_names": state_names,
            "body_limit_bytes": body_limit_bytes,
            "outer_headers": outer_headers,
        }

    def add_api(self, specification: Specification, **options: Any) -> ContractAPI:
        """Compiles the contract.

        Raises:
            UnsupportedConstruct: it says something that is not implemented.
        """
        return super().add_api(specification, **self.compile_options, **options)
