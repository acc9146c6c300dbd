"""The pages for people: the home page, the contract as YAML and JSON, and the policies of the documentation.

Connexion serves the documentation itself (Swagger UI, `/docs/`).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import msgspec
import yaml
from connexion.lifecycle import ConnexionResponse
from connexion.options import SwaggerUIConfig, SwaggerUIOptions
from httpx import codes
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp, Receive, Scope, Send

HOME = Path(__file__).with_name("home.html").read_text("utf-8")

PATH_LIMIT_BYTES = 256
"""A longer path is no page's. Starlette would look up each of its parts on the disk: 170 ms for one of 60 KB."""

INTERNAL = "openapi-router-controller|bearerInfoFunc|requirements|internal"

INTERNAL_LINES = re.compile(rf"^ +x-({INTERNAL}): .*\n".encode(), re.MULTILINE)

PAGE_METHODS = {"Allow": "GET, HEAD, OPTIONS"}

OnError = Callable[[Request, Exception], Awaitable[Response]]


async def home(_request: Request) -> Response:
    """Answers the home page: what the service is, and links to the documentation."""
    return HTMLResponse(HOME)


def policies(documentation: SwaggerUIOptions, root_path: str) -> dict[str, str]:
    """Returns each page's Content-Security-Policy by its path. A page loads only its own scripts and styles."""
    configured = SwaggerUIConfig(documentation, oas_version=(3, 0, 3))
    # The template is rendered here as Connexion serves it: the policy needs its inline scripts and styles.
    template = Jinja2Templates(configured.swagger_ui_template_dir).get_template("index.j2")
    page = template.render(openapi_spec_url=root_path + configured.openapi_spec_path)
    swagger_ui = _policy(page, script="'self'", style="'self'", img="'self' data:", connect="'self'")
    by_path = {"/": _policy(HOME)} | dict.fromkeys(
        [f"{configured.swagger_ui_path}/", f"{configured.swagger_ui_path}/index.html"], swagger_ui
    )
    return {prefix + path: policy for prefix in ("", root_path) for path, policy in by_path.items()}


def _policy(page: str, **sources: str) -> str:
    """Makes a policy that allows these sources, and the page's inline scripts and styles by their hashes."""
    for kind, text in re.findall(r"<(script|style)>(.*?)</\1>", page, re.DOTALL):
        digest = b64encode(sha256(text.encode()).digest()).decode()
        sources[kind] = f"{sources.get(kind, '')} 'sha256-{digest}'".lstrip()
    own = "".join(f" {kind}-src {source};" for kind, source in sources.items())
    return f"default-src 'none';{own} base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def contract_routes(contract: Path, root_path: str) -> list[Route]:
    """Returns the routes of the contract: the file, with the service's own path as its server, and the same as JSON.

    What says where the code and the requirements are is left out, since it is nothing to clients.
    """
    text = INTERNAL_LINES.sub(b"", contract.read_bytes())
    text = text.replace(b"  - url: /\n", f"  - url: {root_path or '/'}\n".encode())
    json = msgspec.json.encode(yaml.safe_load(text))

    async def openapi_yaml(_request: Request) -> Response:
        return Response(text, media_type="application/yaml")

    async def openapi_json(_request: Request) -> Response:
        return Response(json, media_type="application/json")

    return [Route("/openapi.yaml", openapi_yaml), Route("/openapi.json", openapi_json)]


def to_starlette(answer: Callable[[Scope, Exception], ConnexionResponse]) -> OnError:
    """Turns `problems.answer` into a handler for Starlette's exception middleware.

    OPTIONS for a page becomes 204: load balancers ask so whether the service is there.

    It is a coroutine function, because Starlette runs any other one in a thread, which costs more than the answer.
    """

    async def on_error(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == codes.METHOD_NOT_ALLOWED:
            if request.method == "OPTIONS":
                return Response(status_code=codes.NO_CONTENT, headers=PAGE_METHODS)
            error = HTTPException(error.status_code, headers=PAGE_METHODS)
        response = answer(request.scope, error)
        return Response(response.body, response.status_code, response.headers)

    return on_error


class WholeFiles:
    """Keeps from Starlette's files what they would answer wrongly or slowly: `Range`, and paths that are too long.

    Starlette's 416 is not a problem document.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(scope.get("path", "")) > PATH_LIMIT_BYTES:
            raise HTTPException(404)
        headers = [(name, value) for name, value in scope.get("headers", ()) if name != b"range"]
        await self.app({**scope, "headers": headers}, receive, send)


class Rooted:
    """Tells routes and files under which path the service is reached, for the links that they make.

    Their path in the scope begins with it, as ASGI wants it; that of the request need not: most proxies strip it.
    """

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if not path.startswith(f"{self.root_path}/"):
                path = self.root_path + path
            scope = {**scope, "root_path": self.root_path, "path": path}
        await self.app(scope, receive, send)


ROUTES = [Route("/", home)]
EXCEPTIONS = (HTTPException, Exception)
