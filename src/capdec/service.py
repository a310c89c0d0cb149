"""The captioner behind HTTP: an application (`app`) and the process that serves it (`serve`).

    bytes -> contract.Asked -> photos opened, in threads -> one Batcher, alone in calling a captioner -> contract's answers

Nothing is held that is not counted: a request has its places in the queue before its photos are opened, and gives them back when it ends, be it
answered, late or left. Whatever is not a caption is an error in the contract's one shape, from whichever layer, and names no file of this machine.
"""

import asyncio
import hmac
import itertools
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import capdec
from capdec import generation
from capdec.batching import Batcher, Places
from capdec.captioner import Captioner
from capdec.corpus import encode_photos
from capdec.errors import AddressError, ClosedError, DeadlineError, ImageError, MissingExtra, OverloadedError, SettingError
from capdec.images import LONGEST_SIDE, open_image
from capdec.protocols import Caption, Decoding

try:
    import h11
    import prometheus_client as prometheus
    import uvicorn
    from fastapi import Depends, FastAPI, Request, Response
    from fastapi.responses import JSONResponse, PlainTextResponse
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
    from fastapi_offline import FastAPIOffline
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from capdec import contract
    from capdec.contract import Asked, Refusal, problem
except ImportError as error:
    raise MissingExtra("fastapi", "serve", "capdec serve") from error

log = logging.getLogger(__name__)

CORES = len(os.sched_getaffinity(0))
LANES = 4
"""Batches that are captioned at once, where the processor does it: two on a core each take a third less time than one on both, then the other."""
HELD = 8
"""Bodies of the greatest size that are held at once; smaller ones, as many as make that."""
FETCHES, FETCH_SECONDS = 8, 10.0
"""Addresses that are fetched at once, and how long one may take."""
HEADER_SECONDS, HEADER_BYTES, IDLE_SECONDS = 10, 65_536, 15
"""What a connection has to send a request's head, and how long it may stay open without one."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
DOCS_POLICY = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
PAGE = {"index.html": "text/html; charset=utf-8", "page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}


class _Job(NamedTuple):
    """What items must have in common to be captioned together."""

    model: str
    decoding: Decoding
    neighbours: int
    photos: bool
    request: int | None
    """Where draws are random they belong to an item's place in its request, so that only items of one go together."""


class _Item(NamedTuple):
    content: Image.Image | np.ndarray  # a photo as small as the backbone sees it, or an embedding
    place: int


class _Told(NamedTuple):
    caption: Caption
    neighbours: list[tuple[str, float]]


class _Metrics:
    """What /metrics tells."""

    def __init__(self, waiting: Callable[[], int]):
        self.registry = prometheus.CollectorRegistry()
        kept: dict[str, Any] = {"registry": self.registry}
        seconds = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
        self.requests = prometheus.Counter("capdec_requests", "Requests by route and status.", ["route", "status"], **kept)
        self.seconds = prometheus.Histogram("capdec_request_seconds", "From head to answer.", ["route"], buckets=seconds, **kept)
        self.inputs = prometheus.Counter("capdec_inputs", "Inputs by what became of them: captioned, or an error's code.", ["outcome"], **kept)
        self.batch = prometheus.Histogram("capdec_batch_size", "Items captioned together.", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **kept)
        self.batch_seconds = prometheus.Histogram("capdec_batch_seconds", "Of the captioner, a batch.", buckets=seconds, **kept)
        self.queue_seconds = prometheus.Histogram("capdec_queue_seconds", "An item's, before its batch begins.", buckets=seconds, **kept)
        prometheus.Gauge("capdec_queue_length", "Items that wait.", **kept).set_function(waiting)

    def of_batch(self, waited: list[float], took: float) -> None:
        self.batch.observe(len(waited))
        self.batch_seconds.observe(took)
        for one in waited:
            self.queue_seconds.observe(one)


class Service:
    """Captioners by name, and all that a request needs of them. `closing` refuses new work; `active` requests are in hand."""

    def __init__(self, captioners: Mapping[str, Captioner], limits: contract.Limits, batch: int, queue: int, urls: bool):
        if not captioners:
            raise SettingError("no captioner is named. Give at least one.")
        if queue < limits.inputs:
            raise SettingError(f"a queue of {queue} has no room for a request of {limits.inputs} inputs. Lengthen it, or allow fewer.")
        self.captioners, self.limits, self.urls = dict(captioners), limits, urls
        self.closing, self.active = False, 0
        self.metrics = _Metrics(lambda: self.batcher.waiting)
        on_cpu = all(str(getattr(captioner.backbone, "device", "cpu")).startswith("cpu") for captioner in self.captioners.values())
        threads = min(LANES, CORES) if on_cpu else 1
        self._cores = max(1, CORES // threads)
        self.batcher: Batcher[_Job, _Item, _Told] = Batcher(self._run, batch, queue, observe=self.metrics.of_batch, threads=threads)
        self._opening = ThreadPoolExecutor(min(8, CORES), "opening")
        self._fetching = ThreadPoolExecutor(FETCHES, "fetching")
        self._requests = itertools.count()
        self._tells = {name: any(memory.texts for memory in captioner.memories) for name, captioner in self.captioners.items()}
        self._random = {name: any(getattr(bridge, "draws", False) for bridge in captioner.bridges) for name, captioner in self.captioners.items()}
        models = [
            contract.ServedModel(
                name=name, description=captioner.description, supervision=captioner.supervision.words(), dim=captioner.backbone.dim,
                fingerprint=captioner.fingerprint, has_neighbours=self._tells[name], styles=list(captioner.styles),
                has_lengths=bool(captioner.lengths), decoding=asdict(captioner.decoding),
            )
            for name, captioner in self.captioners.items()
        ]  # fmt: skip
        self.models = contract.Models(models=models, limits=limits, urls=urls).model_dump()

    def warm_up(self) -> None:
        """Captions a grey photo with each, so that the first request does not wait for what is made at first use."""
        for name, captioner in self.captioners.items():
            photo = _fitted(captioner, Image.new("RGB", (224, 224), "grey"))
            self.batcher.submit(_Job(name, captioner.decoding, 0, True, None), _Item(photo, 0)).result()

    def close(self, seconds: float) -> None:
        """Finishes what is in hand within about so many seconds."""
        self.closing = True
        self.batcher.close(seconds)
        for pool in (self._opening, self._fetching):
            pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, job: _Job, items: list[_Item]) -> list[_Told]:
        """In a thread of the batcher's."""
        torch.set_num_threads(self._cores)  # of this thread's own products
        if job.request is None:
            return self._told(job, items, 0)
        told: dict[int, _Told] = {}
        rest = sorted(items, key=lambda item: item.place)
        while rest:  # a captioner counts places on from the first
            first = rest[0].place
            run = [item for number, item in enumerate(rest) if item.place == first + number]
            told |= zip((item.place for item in run), self._told(job, run, first), strict=True)
            rest = rest[len(run) :]
        return [told[item.place] for item in items]

    def _told(self, job: _Job, items: list[_Item], start: int) -> list[_Told]:
        captioner = self.captioners[job.model]
        if job.photos:
            photos = [item.content for item in items if isinstance(item.content, Image.Image)]
            embeddings = encode_photos(captioner.backbone, photos, captioner.regions, captioner.normalize)
        else:
            embeddings = torch.from_numpy(np.stack([np.asarray(item.content) for item in items]))
        captions = captioner.caption_embeddings(embeddings, job.decoding, start=start)
        near = captioner.neighbours(embeddings, job.neighbours) if job.neighbours else [[]] * len(items)
        return [_Told(caption, texts) for caption, texts in zip(captions, near, strict=True)]

    async def answer(self, request: Request) -> Response:
        """POST /v1/captions. Raises what `_refusal` knows."""
        began = time.monotonic()
        if self.closing:
            raise ClosedError("this server is shutting down. Ask another one, or this one when it is up again.")
        if not self.batcher.alive:
            raise Refusal(503, "not_ready", "This server cannot caption now. Ask another one, or try again later.")
        self.active += 1
        try:
            async with asyncio.timeout(self.limits.deadline_s):
                asked = await self._asked(request)
            model, job = self._job(asked)
            seconds = min(asked.deadline or self.limits.deadline_s, self.limits.deadline_s) - (time.monotonic() - began)
            results = await self._results(request, asked, job, seconds)
        except TimeoutError as error:
            raise DeadlineError("it was not done in time. Ask for less at once, allow more seconds, or try again when less is asked for.") from error
        finally:
            self.active -= 1
        for result in results:
            self.metrics.inputs.labels(result["error"]["code"] if "error" in result else "captioned").inc()
        body: dict[str, Any] = {"model": model, "results": results}
        if any("error" not in result for result in results):
            return JSONResponse(body)
        codes = {result["error"]["code"]: result["error"] for result in results}
        internal = set(codes) == {"internal"}
        first = results[0]["error"]
        message = first["message"] if len(results) == 1 else f"None of the {len(results)} inputs could be captioned. The first: {first['message']}"
        return JSONResponse({**body, **problem(first["code"], message)}, 500 if internal else 422)

    async def _asked(self, request: Request) -> Asked:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "unsupported_media_type", "The body has a Content-Encoding. Send it as it is, without compression.")
        if kind == "application/json":
            asked = contract.from_json(await request.body(), self.limits.inputs)
        elif kind == "multipart/form-data":
            asked = await contract.from_form(await request.body(), request.headers["content-type"], self.limits.inputs)
        else:
            raise Refusal(415, "unsupported_media_type", "The Content-Type is neither multipart/form-data nor application/json. Send one of these.")
        if len(asked.inputs) > self.limits.inputs:
            raise contract.too_many(self.limits.inputs)
        return asked

    def _job(self, asked: Asked) -> tuple[str, _Job]:
        model = asked.model if asked.model is not None else next(iter(self.captioners))
        if model not in self.captioners:
            raise Refusal(404, "no_such_model", f"No captioner of that name is served. There are: {', '.join(self.captioners)}.")
        if asked.deadline is not None and asked.deadline > self.limits.deadline_s:
            raise Refusal(422, "bad_setting", f"deadline is at most {self.limits.deadline_s:g} seconds here. Ask for less, or leave it out.")
        captioner = self.captioners[model]
        decoding = generation.changed(captioner.decoding, dict(asked.decoding))
        captioner.check(decoding)
        if decoding.rerank == "neighbours" and not self._tells[model]:
            raise SettingError("rerank = 'neighbours' asks a memory that keeps its texts, and this captioner has none. Take another rerank, or none.")
        sure = captioner.confidence_for(decoding)
        drawn = decoding.strategy == "nucleus" or self._random[model] or (sure is not None and sure.draws > 0)
        return model, _Job(model, decoding, asked.neighbours if self._tells[model] else 0, True, next(self._requests) if drawn else None)

    async def _results(self, request: Request, asked: Asked, job: _Job, seconds: float) -> list[dict[str, Any]]:
        """One an input. Whoever waits no longer, because of time or since the client left, leaves the queue."""
        end = time.monotonic() + seconds

        async def each() -> list[dict[str, Any]]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._result(places, job, place, given, end)) for place, given in enumerate(asked.inputs)]
            return [task.result() for task in tasks]

        with self.batcher.reserve(len(asked.inputs)) as places:
            work, gone = asyncio.create_task(each()), asyncio.create_task(_gone(request))
            try:
                await asyncio.wait({work, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return work.result()
                if gone.done():
                    raise ClientDisconnect
                raise TimeoutError
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
            finally:
                work.cancel()
                gone.cancel()
                await asyncio.wait({work, gone})

    async def _result(self, places: Places, job: _Job, place: int, given: Mapping[str, Any], end: float) -> dict[str, Any]:
        name = contract.name_of(given, place)
        try:
            content = await self._opened(job.model, given, end)
            future = places.submit(job._replace(photos=isinstance(content, Image.Image)), _Item(content, place), end - time.monotonic())
            told = await asyncio.wrap_future(future)
        except Refusal as error:
            places.give_back()
            return {"name": name, **error.body()}
        except ImageError as error:
            places.give_back()
            return {"name": name, **problem("bad_url" if isinstance(error, AddressError) else "bad_image", str(error))}
        except (ClosedError, DeadlineError):
            raise
        except Exception:
            log.exception("an input failed")
            return {"name": name, **problem("internal", "This input could not be captioned, for a reason that the server has noted.")}
        result: dict[str, Any] = {"name": name, "caption": told.caption.text, "score": round(told.caption.score, 4)}
        if told.caption.confidence is not None:
            result |= {"confidence": round(told.caption.confidence, 4), "unsure": told.caption.unsure}
        if told.caption.alternatives:
            result["alternatives"] = [{"caption": other.text, "score": round(other.score, 4)} for other in told.caption.alternatives]
        if job.neighbours:
            result["neighbours"] = [{"caption": text, "cosine": round(cosine, 4)} for text, cosine in told.neighbours]
        return result

    async def _opened(self, model: str, given: Mapping[str, Any], end: float) -> Image.Image | np.ndarray:
        captioner = self.captioners[model]
        if "embedding" in given:
            return contract.as_vector(given["embedding"], captioner.backbone.dim)
        pool = self._opening
        if "url" in given:
            if not self.urls:
                raise Refusal(422, "bad_url", "This server fetches no addresses. Send the photo itself.")
            pool = self._fetching
        return await asyncio.get_running_loop().run_in_executor(pool, self._open, captioner, given, end)

    def _open(self, captioner: Captioner, given: Mapping[str, Any], end: float) -> Image.Image:
        """In a thread."""
        if "url" in given:
            seconds = min(FETCH_SECONDS, max(end - time.monotonic(), 0.1))
            url = given["url"] if "://" in given["url"] else "none://"  # else it would be a path
            photo = open_image(url, self.limits.image_pixels, LONGEST_SIDE, self.limits.body_bytes, seconds, public_only=True)
        else:
            content = given["image"] if isinstance(given["image"], bytes) else contract.from_base64(given["image"])
            photo = open_image(content, self.limits.image_pixels, LONGEST_SIDE)
        return _fitted(captioner, photo)


def _fitted(captioner: Captioner, photo: Image.Image) -> Image.Image:
    fit = getattr(captioner.backbone, "fit_photo", None)
    return photo if fit is None else fit(photo)


async def _gone(request: Request) -> None:
    """Returns when the client is."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refusal(error: Exception) -> Refusal:
    """What an error says to a client."""
    match error:
        case Refusal():
            return error
        case OverloadedError():
            return Refusal(429, "overloaded", _sentence(error), {"Retry-After": str(max(1, round(error.retry_after)))})
        case DeadlineError():
            return Refusal(504, "deadline", _sentence(error))
        case ClosedError():
            return Refusal(503, "shutting_down", _sentence(error), {"Retry-After": "10"})
        case SettingError():
            return Refusal(422, "bad_setting", _sentence(error))
        case HTTPException(status_code=404):
            return Refusal(404, "not_found", "There is nothing here. /docs lists what there is.")
        case HTTPException(status_code=405):
            return Refusal(405, "method_not_allowed", "This method is not for this address. /docs lists those that are.", error.headers)
        case HTTPException():
            return Refusal(error.status_code, "bad_request", str(error.detail), error.headers)
    log.error("a request failed", exc_info=error)
    return Refusal(500, "internal", "Something went wrong here, and the server has noted it. Try again; if it stays so, tell who runs it.")


def _sentence(error: Exception) -> str:
    said = str(error)
    return said[:1].upper() + said[1:]


class _Guard:
    """The outermost layer: bytes are counted as they come, errors get their shape, answers the headers that keep browsers safe, all is measured."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service, self.held = app, service, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, limit = time.monotonic(), self.service.limits.body_bytes
        size, status = 0, 0

        async def counted() -> Message:
            nonlocal size
            announced = next((int(value) for name, value in scope["headers"] if name == b"content-length" and value.isdigit()), 0)
            message = await receive()
            if message["type"] == "http.request":
                more = len(message.get("body", b""))
                size, self.held = size + more, self.held + more
                if max(size, announced) > limit:
                    raise Refusal(413, "too_large", f"The body has more than {limit:,} bytes. Send fewer or smaller photos in a request.")
                if self.held > HELD * limit:
                    raise OverloadedError("too much is being sent at once. Try again later.")
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = {**HEADERS, "content-security-policy": DOCS_POLICY} if scope["path"].startswith("/docs") else HEADERS
                message["headers"] = [*message["headers"], *((name.encode(), value.encode()) for name, value in more.items())]
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except ClientDisconnect:
            status = status or 499
        except Exception as error:
            refusal = _refusal(error)
            if status:
                raise
            await JSONResponse(refusal.body(), refusal.status, refusal.headers)(scope, counted, noted)
        finally:
            self.held -= size
            route = getattr(scope.get("route"), "path", "other")
            self.service.metrics.requests.labels(route, status or 499).inc()
            self.service.metrics.seconds.labels(route).observe(time.monotonic() - began)


def app(
    captioners: Mapping[str, Captioner],
    batch: int = 32,
    queue: int = 256,
    deadline: float = 30.0,
    max_body: int = 32_000_000,
    max_pixels: int = 50_000_000,
    max_inputs: int = 64,
    allow_urls: bool = False,
    api_key: str | None = None,
) -> FastAPI:
    """The application. `batch` items at most are captioned together and `queue` wait; `deadline` in seconds and `max_body` in bytes are a request's,
    `max_pixels` a photo's. With `api_key`, what is below /v1 asks for it. Raises SettingError."""
    if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable()):
        raise SettingError("an API key is made of ASCII characters, at least one, since it travels in a header. Take another, or leave it out.")
    limits = contract.Limits(body_bytes=max_body, image_pixels=max_pixels, inputs=max_inputs, deadline_s=deadline)
    service = Service(captioners, limits, batch, queue, allow_urls)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.warm_up)
        yield
        await asyncio.to_thread(service.close, deadline)

    made = FastAPIOffline(
        title="capdec", version=capdec.__version__, summary="Captions for photos and for image embeddings.",
        docs_url="/docs", redoc_url=None, static_url="/docs-files", lifespan=lifespan, redirect_slashes=False, separate_input_output_schemas=False,
    )  # fmt: skip
    made.state.service = service
    made.add_middleware(_Guard, service=service)
    made.add_exception_handler(HTTPException, _on_http_exception)
    made.openapi = _described(made, made.openapi, service)  # type: ignore[method-assign]
    _add_routes(made, service, api_key)
    return made


async def _on_http_exception(_: Request, error: Exception) -> Response:
    refusal = _refusal(error)
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)


def _described(made: FastAPI, describe: Callable[[], dict[str, Any]], service: Service) -> Callable[[], dict[str, Any]]:
    """The description with the shapes of requests, which are read here and not by FastAPI."""

    def described() -> dict[str, Any]:
        if made.openapi_schema is None:
            body, components = contract.request_schemas(list(service.captioners), service.limits.inputs, service.limits.deadline_s)
            schema = describe()
            schema["paths"]["/v1/captions"]["post"]["requestBody"] = body
            schema["components"]["schemas"] |= components
        return describe()

    return described


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    said = {
        400: "No JSON or form that can be read.", 401: "The API key is missing or another.", 404: "No such model.", 413: "More than is allowed.",
        415: "Neither JSON nor a form.", 429: "The queue is full; Retry-After says when there may be room.", 500: "The server's own fault.",
        503: "Not ready, or shutting down.", 504: "Not done in time.",
    }  # fmt: skip
    return {status: {"model": contract.Problem, "description": said[status]} for status in statuses}


def _add_routes(made: FastAPI, service: Service, api_key: str | None) -> None:
    bearer = HTTPBearer(auto_error=False, description="The server's API key.")

    async def authorised(given: HTTPAuthorizationCredentials | None = Depends(bearer)) -> None:  # noqa: B008
        if given is None or not hmac.compare_digest(given.credentials.encode(), (api_key or "").encode()):
            raise Refusal(401, "unauthorized", "This server asks for its API key. Send Authorization: Bearer KEY.", {"WWW-Authenticate": "Bearer"})

    keyed: dict[str, Any] = {"dependencies": [Depends(authorised)] if api_key else []}
    locked = (401,) if api_key else ()

    answers = {
        422: {"model": contract.NoCaptions | contract.Problem, "description": "A setting that cannot be, or no input that could be captioned."},
        500: {"model": contract.NoCaptions | contract.Problem, "description": "The server's own fault."},
        **_problems(400, *locked, 404, 413, 415, 429, 503, 504),
    }

    @made.post("/v1/captions", response_model=contract.Captions, responses=answers, **keyed)
    async def captions(request: Request) -> Response:
        """Captions photos, addresses or embeddings, several at once: a form with files called image, or JSON. The answer is 200 where at least one
        could be captioned, and the others have an error in their place."""
        return await service.answer(request)

    @made.get("/v1/models", response_model=contract.Models, responses=_problems(*locked), **keyed)
    async def models() -> Response:
        """What is served, and what a request may have."""
        return JSONResponse(service.models)

    @made.get("/healthz", response_model=contract.Status)
    async def healthz() -> Response:
        """Whether the process lives."""
        return JSONResponse({"status": "ok"})

    @made.get("/readyz", response_model=contract.Status, responses=_problems(503))
    async def readyz() -> Response:
        """Whether it takes work."""
        if service.closing:
            raise ClosedError("this server is shutting down. Ask another one, or this one when it is up again.")
        if not service.batcher.alive:
            raise Refusal(503, "not_ready", "This server cannot caption now. Ask another one, or try again later.")
        return JSONResponse({"status": "ok"})

    @made.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(prometheus.generate_latest(service.metrics.registry), media_type=prometheus.CONTENT_TYPE_LATEST)

    folder = resources.files("capdec") / "page"
    page = {name: (folder / name).read_bytes() for name in PAGE if (folder / name).is_file()}

    @made.get("/", include_in_schema=False)
    @made.get("/page/{name}", include_in_schema=False)
    async def file(name: str = "index.html") -> Response:
        if name not in page:
            raise HTTPException(404)
        return Response(page[name], headers={"content-type": PAGE[name], "cache-control": "no-cache"})


# --- the process


class _Protocol(H11Protocol):
    """HTTP/1.1 with patience that ends: a connection has HEADER_SECONDS to send a request's head. What is no HTTP is told so as all errors are."""

    _hurry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._hurry = self.loop.call_later(HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not begun and self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None
        elif begun and self._hurry is None:
            self._hurry = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        body = JSONResponse(problem("bad_request", "This is not HTTP/1.1 that can be read. Send a request as /docs says.")).body
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        with suppress(h11.LocalProtocolError):  # an answer was begun already
            for event in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=bytes(body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Server(uvicorn.Server):
    """Told to end, it takes no new work, finishes what is in hand and then ends; told twice, it ends."""

    def __init__(self, config: uvicorn.Config, service: Service, grace: float, ready: str):
        super().__init__(config)
        self.service, self.grace, self.ready, self.told = service, grace, ready, 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.ready, flush=True)

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.service.closing:
            super().handle_exit(sig, frame)
        self.service.closing, self.told = True, time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        over = self.service.closing and (not self.service.active or time.monotonic() - self.told > self.grace)
        return await super().on_tick(counter) or over


def serve(captioners: Mapping[str, Captioner], host: str = "127.0.0.1", port: int = 8000, deadline: float = 30.0, **settings: Any) -> None:
    """Serves `app(captioners, deadline=deadline, **settings)` until SIGTERM or SIGINT, and then finishes what is in hand. Says on standard output
    where it listens when it does; port 0 is any that is free. Raises SettingError."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)
    except (OSError, OverflowError) as error:
        raise SettingError(f"{host}, port {port}, cannot be listened on: {error}. Name another --port, or --host.") from error
    with listening:
        made = app(captioners, deadline=deadline, **settings)
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each broken form
        config = uvicorn.Config(
            made, http=_Protocol, ws="none", lifespan="on", log_level="warning", access_log=False, server_header=False, proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS, h11_max_incomplete_event_size=HEADER_BYTES, timeout_graceful_shutdown=round(deadline) + 1,
        )  # fmt: skip
        shown, at = (f"[{host}]" if ":" in host else host), listening.getsockname()[1]
        ready = f"capdec serves {', '.join(captioners)} on http://{shown}:{at}"
        _Server(config, made.state.service, deadline + 1, ready).run([listening])
