"""The ASGI application of the page."""

from __future__ import annotations

import base64
import logging
import time
from importlib import resources
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..faults import explain
from ..images import MAX_PIXELS
from ..predictor import Predictor
from .answer import answer
from .guard import Guard
from .images import Refused, decode, encode

MAX_UPLOAD = 20 * 2**20  # bytes
_WAITING = 8  # limit of simultaneous uploads, which are kept in memory
_PATIENCE = 120  # time limit of an upload in seconds
_FILES = {
    '/': ('page.html', 'text/html'),
    '/page.css': ('page.css', 'text/css'),
    '/page.js': ('page.js', 'text/javascript'),
}


def application(
    predictor: Predictor,
    *,
    title: str,
    device: str = 'cpu',
    host: str = '127.0.0.1',
    max_upload: int = MAX_UPLOAD,
    max_pixels: int = MAX_PIXELS,
) -> Starlette:
    """The ASGI application of a model's page.

    ``GET /`` returns the page, and ``GET /model`` the data that it needs about the model. ``POST
    /predict`` takes an image file as its body, and returns JSON: the keys of
    :func:`~.answer.answer`, ``width`` and ``height`` of the image, the image as a data URL of a
    JPEG file in ``picture``, and the model's run time in ``seconds``. The model runs in a thread,
    on one image at a time. Errors are JSON with a sentence in ``error``.

    Args:
        predictor: The model.
        title: The title of the page.
        device: The name of the model's device, shown on the page.
        host: The address or name of the server; requests to other names are refused.
        max_upload: Limit of the size of a file in bytes.
        max_pixels: Limit of the number of pixels of an image.
    """
    served = _Served(predictor, title, device, max_upload, max_pixels)
    return Starlette(
        routes=[
            *(Route(path, _file(*file)) for path, file in _FILES.items()),
            Route('/model', served.model),
            Route('/predict', served.predict, methods=['POST']),
        ],
        middleware=[Middleware(Guard, host=host)],
        exception_handlers={Refused: _refused, HTTPException: _not_found},
    )


class _Served:
    def __init__(
        self, predictor: Predictor, title: str, device: str, max_upload: int, max_pixels: int
    ) -> None:
        self._predictor = predictor
        self._max_upload, self._max_pixels = max_upload, max_pixels
        self._known = dict(
            title=title,
            task=predictor.task,
            device=device,
            classes=predictor.classes,
            palette=predictor.palette.tolist(),
            max_upload=max_upload,
            max_pixels=max_pixels,
        )
        self._waiting = 0
        self._turn = anyio.Lock()

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._known)

    async def predict(self, request: Request) -> Response:
        if self._waiting >= _WAITING:
            raise Refused(503, 'Too many images are waiting already: try again in a moment.')
        self._waiting += 1
        try:
            with anyio.fail_after(_PATIENCE):
                content = await self._content(request)
            async with self._turn:
                if await request.is_disconnected():
                    return Response(status_code=499)
                return JSONResponse(await run_in_threadpool(self._answer, content))
        except ClientDisconnect:
            return Response(status_code=499)
        except TimeoutError as error:
            raise Refused(408, 'The upload took too long.') from error
        finally:
            self._waiting -= 1

    async def _content(self, request: Request) -> bytes:
        sentence = f'The file is too large: {self._max_upload / 2**20:g} MiB are allowed.'
        declared = request.headers.get('content-length', '')
        if declared.isdecimal() and int(declared) > self._max_upload:
            raise Refused(413, sentence)
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > self._max_upload:
                raise Refused(413, sentence)
        return bytes(content)

    def _answer(self, content: bytes) -> dict[str, Any]:
        image = decode(content, self._max_pixels)
        start = time.perf_counter()
        try:
            found = answer(self._predictor(image))
        except Exception as error:  # the server continues after any error of the model
            logging.getLogger(__name__).exception('the model failed')
            raise Refused(500, f'The model failed on this image: {explain(error)}.') from error
        seconds = time.perf_counter() - start
        picture = base64.b64encode(encode(image)).decode()
        return dict(
            width=image.shape[1],
            height=image.shape[0],
            seconds=seconds,
            picture=f'data:image/jpeg;base64,{picture}',
            **found,
        )


def _file(name: str, kind: str) -> Any:
    content = (resources.files(__package__) / name).read_bytes()

    async def get(request: Request) -> Response:
        return Response(content, media_type=kind)

    return get


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({'error': str(error)}, error.status)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({'error': error.detail}, error.status_code, error.headers)
