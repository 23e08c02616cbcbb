"""The server of the page: which requests it answers, and from whom."""

import ipaddress
import json
import socket
from urllib.parse import SplitResult, urlsplit

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ddgan.demo.page import FONTS, MAX_BYTES, MONO_FONTS
from ddgan.errors import UserError

# All that the page asks for. gradio answers more, which stays closed here: uploads, files by path,
# proxying of other hosts, its own editor.
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
CALL_KEYS = {"data", "fn_index", "session_hash", "event_data", "trigger_id"}
FOLDERS = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
# A painting in base64, and the settings around it.
MAX_BODY = MAX_BYTES * 4 // 3 + 4096
BEHIND_A_PROXY = "behind a proxy, start it with --public-url and the address that browsers show"
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
    """Answers only requests that the page makes, from its own address, of a limited size.

    ``host`` is the address that the server listens on; ``public_url`` is where a proxy publishes
    the page, if one does. The arguments of a call are texts and numbers: gradio would take an
    object for a file, and read the path or fetch the address in it.
    """

    def __init__(self, app: ASGIApp, host: str, public_url: str | None = None):
        self.app = app
        self.public = urlsplit(public_url or "")
        # Another site can give its name the address of this machine; only these names are served.
        own = {"localhost", "127.0.0.1", "::1", host, self.public.hostname} - {None}
        self.hosts = own if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a status."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        # A proxy may pass the path of its own address on.
        prefix = self.public.path.rstrip("/")
        if prefix and scope["path"].startswith(prefix + "/"):
            path = scope["path"].removeprefix(prefix)
            scope = {**scope, "path": path, "raw_path": path.encode()}
        refusal = self.refusal(scope)
        if refusal is None and scope["method"] == "POST":
            body = await _body(receive)
            if body is None:
                refusal = TOO_LARGE
            elif not _is_call(body):
                refusal = 400, "this is no call of the page: its arguments are texts and numbers"
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
        """Status and text for a request that is not answered."""
        path, headers = scope["path"], Headers(scope=scope)
        if not scope["query_string"].isascii():
            return 400, "the address is not encoded"
        host = _split(f"//{headers.get('host', '')}")
        if self.hosts is not None and host.hostname not in self.hosts:
            return 400, f"this server is not {host.netloc!r}; {BEHIND_A_PROXY}"
        if "origin" in headers:
            origin = _split(headers["origin"])
            own = (self.public.scheme, self.public.netloc)
            if origin.netloc != host.netloc and (origin.scheme, origin.netloc) != own:
                return 403, f"only this page may ask; {BEHIND_A_PROXY}"
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


def _split(url: str) -> SplitResult:
    """The parts of a URL that a client states; nothing for one that is not a URL."""
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port
    except ValueError:
        return urlsplit("")
    return parts


async def _body(receive: Receive) -> bytes | None:
    """The body of a request, or None if it is longer than the limit, whatever length it states."""
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
    """Whether a body is what the page sends; gradio fails with a traceback for much else."""
    try:
        call = json.loads(body)
        # Neither NaN nor half of a character's two parts can be sent back.
        json.dumps(call, ensure_ascii=False, allow_nan=False).encode()
        arguments, function, session = call["data"], call["fn_index"], call["session_hash"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    known = call.keys() <= CALL_KEYS and type(function) is int and function == 0
    return (
        known
        and isinstance(session, str)
        and session != ""
        and isinstance(arguments, list)
        and all(value is None or isinstance(value, str | int | float) for value in arguments)
    )


def build_app(page: gr.Blocks, host: str, public_url: str | None = None) -> FastAPI:
    """The application that serves a page on ``host``, published by a proxy as ``public_url``."""
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
        root_path=public_url,
    )
    app.add_middleware(Guard, host=host, public_url=public_url)
    return app


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``, a name or an IP address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_public_url(url: str) -> str:
    """Return the URL without a slash at its end; raises UserError if it is not one of a page."""
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UserError(
            f"--public-url is {url!r}; expected the address that a browser shows, such as "
            "https://lab.example.org/paint"
        )
    return url.rstrip("/")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on a name, IPv4 or IPv6 address; port 0 takes a free one.

    Raises UserError if it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on --host {host} --port {port} ({error}); choose another port, or 0 "
            "for any that is free"
        ) from None


def serve(
    page: gr.Blocks, listener: socket.socket, host: str, public_url: str | None = None
) -> None:
    """Serve a page until interrupted."""
    app = build_app(page, host, public_url)
    config = uvicorn.Config(app, log_level="warning", server_header=False)
    uvicorn.Server(config).run(sockets=[listener])
