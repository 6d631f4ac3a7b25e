"""The HTTP application: OpenAI's paths, and a few of this package."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from submodel.serve import routing
from submodel.serve.openai.schema import MOST_HINT, ChatRequest, CompletionRequest, RouteRequest
from submodel.serve.page_files import PAGE, POLICY, read
from submodel.serve.refusal import Refusal
from submodel.serve.registry import AUTO
from submodel.serve.service import ClientDisconnected, Hints, Service

_log = logging.getLogger(__name__)
_REFUSED = {"description": "Refused: OpenAI's error object"}
_RESPONSES: dict[int | str, dict[str, Any]] = {"4XX": _REFUSED, "5XX": _REFUSED}
_STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}

_File = Annotated[
    str | None, Header(max_length=MOST_HINT, description="the file that the text is from; only its name is looked at")
]
_Language = Annotated[
    str | None, Header(max_length=MOST_HINT, description="the language of the text; decides the sub-model")
]


def build_app(service: Service) -> FastAPI:
    """The application around a service; it closes the service's models when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.models.close()
        for upstream in service.upstreams.values():
            await upstream.close()
        service.chooser.close()

    app = FastAPI(title="submodel", lifespan=lifespan, docs_url=None, redoc_url=None, responses=_RESPONSES, version="1")
    started = int(time.time())

    # models: what there is, what is in memory

    def about(name: str) -> dict[str, Any]:
        upstream = name in service.upstreams
        known = name in service.models.registry.names
        details = {**(service.models.registry.describe(name) if known else {}), "upstream": upstream}
        details["resident"] = not upstream and name in service.models.resident
        return {"id": name, "object": "model", "created": started, "owned_by": "submodel", "submodel": details}

    def names() -> list[str]:
        return list(dict.fromkeys([*service.models.registry.names, *service.upstreams]))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        auto = {"id": AUTO, "object": "model", "created": started, "owned_by": "submodel"}
        return {"object": "list", "data": [auto, *map(about, names())]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        if name not in names():
            raise Refusal(404, f"model {name[:80]!r} does not exist", "model_not_found", "model")
        return about(name)

    # answers

    @app.post("/v1/chat/completions", response_model=None, responses=_STREAMED)
    async def chat(
        http: Request, body: ChatRequest, x_submodel_file: _File = None, x_submodel_language: _Language = None
    ) -> Response:
        return await service.chat(http, body, Hints(x_submodel_file, x_submodel_language))

    @app.post("/v1/completions", response_model=None, responses=_STREAMED)
    async def completion(
        http: Request, body: CompletionRequest, x_submodel_file: _File = None, x_submodel_language: _Language = None
    ) -> Response:
        return await service.completion(http, body, Hints(x_submodel_file, x_submodel_language))

    @app.post("/v1/route")
    async def route(
        body: RouteRequest, x_submodel_file: _File = None, x_submodel_language: _Language = None
    ) -> dict[str, Any]:
        """Which model a request would go to, and why."""
        file, language = body.file or x_submodel_file, body.language or x_submodel_language
        if body.messages is not None:
            signals = routing.of_chat(body.messages, file, language)
        elif body.prompt is not None:
            signals = routing.of_completion(body.prompt, body.suffix, service.prompts, file, language)
        else:
            raise Refusal(400, "nothing to decide on: give messages or a prompt", param="prompt")
        decision = await service.chooser.decide(signals)
        scores = {"signal": decision.signal, "confidence": decision.confidence, "scores": decision.scores}
        return {"model": decision.name, **scores}

    # for those who run it

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        meters = service.meters
        meters.requests.set(service.requests.active)
        resident = service.models.resident
        for name in service.models.registry.names:
            meters.resident.labels(name).set(resident.get(name, 0))
        meters.loads.set(service.models.loads)
        meters.evictions.set(service.models.evictions)
        return PlainTextResponse(meters.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, name in PAGE.items():
        _serve_file(app, path, name)
    _handle_errors(app)
    app.add_middleware(_Counted, service=service)
    return app


def _serve_file(app: FastAPI, path: str, name: str) -> None:
    data, kind = read(name)
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}

    async def page() -> Response:
        return Response(data, media_type=kind, headers=headers)

    app.get(path, include_in_schema=False, response_model=None)(page)


def _handle_errors(app: FastAPI) -> None:
    def answer(refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    @app.exception_handler(Refusal)
    async def refused(http: Request, refusal: Refusal) -> Response:
        return answer(refusal)

    @app.exception_handler(RequestValidationError)
    async def invalid(http: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        param = str(first["loc"][1]) if len(first["loc"]) > 1 else None
        return answer(Refusal(400, f"{where}: {first['msg']}" if where else first["msg"], "invalid_value", param))

    @app.exception_handler(HTTPException)
    async def failed(http: Request, error: HTTPException) -> Response:
        return answer(Refusal(error.status_code, str(error.detail)))

    @app.exception_handler(ClientDisconnected)
    async def disconnected(http: Request, error: ClientDisconnected) -> Response:
        return Response(status_code=499)  # for nobody

    @app.exception_handler(Exception)
    async def defect(http: Request, error: Exception) -> Response:
        return answer(Refusal(500, "a defect of the server; its log says more"))


class _Counted:
    """Counts answers by path; unknown paths count as one."""

    def __init__(self, app: ASGIApp, service: Service):
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")
                self._service.meters.answers.labels(path, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)
