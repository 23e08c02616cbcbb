"""The server of the page: what it answers at all, and to whom."""

import json
import socket
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ddgan.demo.listening import is_loopback
from ddgan.demo.page import FONTS, MONO_FONTS
from ddgan.demo.paintings import MAX_BYTES

# All that the page asks for. gradio has more, and answers none of it here: uploads to files, files
# by path, proxying of other hosts, its own editor.
PATHS = {
    "/",
    "/config",
    "/favicon.ico",
    "/manifest.json",
    "/theme.css",
    "/gradio_api/info",
    "/gradio_api/queue/data",
    "/gradio_api/startup-events",
}
CALL = "/gradio_api/queue/join"
FOLDERS = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
# A painting in base64, and the settings around it.
MAX_BODY = MAX_BYTES * 4 // 3 + 4096
TOO_LARGE = 413, f"the request is over the limit of {MAX_BODY} bytes"
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "frame-ancestors 'none'",
        "form-action 'none'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Answers the requests that the page makes, from the page itself, of a limited size.

    A call's arguments are texts and numbers: gradio would take an object in their place for a file,
    and read the path or fetch the address that stands in it.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a status."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self.refusal(scope)
        if refusal is None and scope["method"] == "POST":
            body = await _body(receive)
            if body is None:
                refusal = TOO_LARGE
            elif not _is_call(body):
                refusal = 400, "the arguments of a call are texts and numbers"
            else:
                receive = _replay(body, receive)
        if refusal is not None:
            status, text = refusal
            await PlainTextResponse(text, status, HEADERS)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and text for a request that is not answered."""
        path, headers = scope["path"], Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return 403, "only this page may ask"
        if scope["method"] in ("GET", "HEAD"):
            known = (path in PATHS or path.startswith(FOLDERS)) and ".." not in path
            return None if known else (404, "not found")
        if (scope["method"], path) != ("POST", CALL):
            return 404, "not found"
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return 411, "the length of the request is missing"
        if int(length) > MAX_BODY:
            return TOO_LARGE
        return None


async def _body(receive: Receive) -> bytes | None:
    """Return the body of a request, None of one that goes on beyond the limit."""
    # What a request says of its length need not be true: one sent in chunks may say anything.
    body = bytearray()
    while len(body) <= MAX_BODY:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)
    return None


def _replay(body: bytes, receive: Receive) -> Receive:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _is_call(body: bytes) -> bool:
    try:
        arguments = json.loads(body)["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(arguments, list) and all(
        value is None or isinstance(value, str | int | float) for value in arguments
    )


def build_app(page: gr.Blocks, host: str) -> FastAPI:
    """Return the application that serves a page to ``host``."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=FONTS, font_mono=MONO_FONTS),
    )
    app.add_middleware(Guard)
    if is_loopback(host):
        # Against other sites' names that are made to point here.
        own = list({"localhost", "127.0.0.1", host})
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=own, www_redirect=False)
    return app


def serve(page: gr.Blocks, listener: socket.socket, host: str) -> None:
    """Serve a page until interrupted."""
    config = uvicorn.Config(build_app(page, host), log_level="warning", server_header=False)
    uvicorn.Server(config).run(sockets=[listener])
