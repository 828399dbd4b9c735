"""A local page: drop a photo, see what both checkpoints say of it, how surely, and where they looked.

    python -m pipeline page            # http://127.0.0.1:7860

    app = create_app({"frozen": Classifier.load("outputs/frozen"), "fine-tuned": Classifier.load("outputs/finetuned")})

Photos stay in memory and on this machine. The server listens to this machine alone unless told otherwise; it answers only
requests that name it by an IP address, by localhost or by the host it was told, so that no foreign site can reach it through
a browser by a name of its own (DNS rebinding), and the page may load nothing but itself.
"""

import base64
import hashlib
import io
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipeline.errors import PipelineError
from pipeline.files import megabytes
from pipeline.inference.classifier import Classifier
from pipeline.inference.photo import open_photo
from pipeline.preprocess.decode import Refused
from pipeline.progress import say

PAGE = Path(__file__).with_name("page.html")
MAX_BYTES = 20_000_000  # of a photo's file
PHOTOS_AT_ONCE = 2  # decoded and predicted; others wait, so that many large photos do not fill the memory
UPLOADS_AT_ONCE = 16  # held in memory
SECONDS_TO_UPLOAD = 60.0
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Next = Callable[[Request], Awaitable[Response]]


def serve(checkpoints: Mapping[str, Path], *, host: str, port: int) -> None:
    """Load the checkpoints and serve the page until Ctrl-C.

    Args:
        checkpoints: name -> folder, in the order in which they are shown.
        host: a name or address of this machine to listen at.
        port: 0 for any free one.

    Raises:
        PipelineError: a checkpoint is missing or broken, or nothing can listen there.
    """
    classifiers = {name: Classifier.load(folder) for name, folder in checkpoints.items()}
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    say(f"the page: http://{shown}:{listener.getsockname()[1]}  (Ctrl-C ends it)")
    config = uvicorn.Config(create_app(classifiers, host=host), log_level="warning", server_header=False, lifespan="off")
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has ended in good order
        uvicorn.Server(config).run(sockets=[listener])


def create_app(classifiers: Mapping[str, Classifier], *, host: str = "127.0.0.1") -> Starlette:
    """The page and what answers it: `GET /` the page, `POST /predict` with a photo's bytes as the body.

    The answer is JSON: {"models": [{"name", "note", "label", "probability", "probabilities", "is_ood", "heat"}]},
    with `heat` an image as a data address, or null where Grad-CAM cannot tell, and `note` mostly empty; or {"error": a
    sentence} with status 408, 413, 422 or 500.
    """
    page = PAGE.read_text(encoding="utf-8")
    headers = HEADERS | {"Content-Security-Policy": _policy(page)}
    predicting, uploading = anyio.CapacityLimiter(PHOTOS_AT_ONCE), anyio.Semaphore(UPLOADS_AT_ONCE)

    async def show(request: Request) -> Response:
        return HTMLResponse(page)

    async def predict(request: Request) -> Response:
        async with uploading:
            try:
                with anyio.fail_after(SECONDS_TO_UPLOAD):
                    photo = await _body(request)
                answer = await anyio.to_thread.run_sync(_answer, classifiers, photo, limiter=predicting)
            except _TooLarge:
                return _refused(413, f"The file is larger than {megabytes(MAX_BYTES)}. Choose a smaller one.")
            except TimeoutError:
                return _refused(408, "The upload took too long. Try again.")
            except ClientDisconnect:
                return Response(status_code=499)
            except Refused as reason:
                return _refused(422, f"This is no photo that can be read: {reason}.")
            except PipelineError as error:
                return _refused(500, str(error))
        return JSONResponse(answer)

    async def guard(request: Request, call_next: Next) -> Response:
        if not _is_own(request.headers.get("host", ""), host) or not _is_same_origin(request):
            response: Response = PlainTextResponse("This page answers only under its own address.\n", status_code=403)
        else:
            response = await call_next(request)
        response.headers.update(headers)
        return response

    routes = [Route("/", show), Route("/predict", predict, methods=["POST"])]
    return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)])


class _TooLarge(Exception):
    pass


async def _body(request: Request) -> bytes:
    """The whole body, given up as soon as it is too large, whatever length it states."""
    if int(request.headers.get("content-length", "0")) > MAX_BYTES:  # the server has checked that it is a number
        raise _TooLarge
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise _TooLarge
    return bytes(body)


def _answer(classifiers: Mapping[str, Classifier], photo: bytes) -> dict[str, Any]:
    image = open_photo(photo)
    models = []
    for name, classifier in classifiers.items():
        (prediction,) = classifier.predict([image])
        models.append(
            {
                "name": name,
                "note": classifier.note,
                "label": prediction.label,
                "probability": prediction.probability,
                "probabilities": prediction.probabilities,
                "is_ood": prediction.is_ood,
                "heat": _heat(classifier, image, prediction.label),
            }
        )
    return {"models": models}


def _heat(classifier: Classifier, image: Image.Image, label: str) -> str | None:
    try:
        heat = classifier.explain(image, label)
    except PipelineError:  # a network without a layer to look at
        return None
    buffer = io.BytesIO()
    heat.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _refused(status: int, message: str) -> JSONResponse:
    # What was not read of a body that is too large must not be taken for a next request.
    return JSONResponse({"error": message}, status, headers={"Connection": "close"})


def _is_own(named: str, host: str) -> bool:
    """Whether a request's Host names this server in a way that no foreign site can make a browser use."""
    try:
        name = urlsplit(f"//{named}").hostname or ""
        return name in ("localhost", host.lower()) or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_same_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _policy(page: str) -> str:
    """A Content-Security-Policy that allows the page's own style and script, by their hashes, and nothing from elsewhere."""
    allowed = {}
    for tag in ("style", "script"):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in content)
        allowed[tag] = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; style-src {allowed['style']}; script-src {allowed['script']}; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PipelineError(f"The page cannot listen at {host}, port {port}: {reason}. Choose another with --port.") from None
