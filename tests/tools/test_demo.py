"""The page in a browser, and what its server refuses."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import socket
import struct
import sys
import zlib
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan.apis import edit, load_model
from ddgan.errors import UserError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking "
    "--disable-component-update --disable-sync --no-first-run --disable-quic"
).split()
SHAPE = (3, 8, 8)
MAX_BYTES = 8 << 20
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def model(lively):
    return load_model(lively, device="cpu")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """Where the server would put files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def url(start_tool, lively, load_tool, tmp_path_factory, temporary):
    tool = load_tool("demo").__file__
    command = [sys.executable, tool, lively, "--port", 0, "--device", "cpu"]
    process = start_tool(command, tmp_path_factory.mktemp("cwd"), GRADIO_TEMP_DIR=str(temporary))
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("http://127.0.0.1:"):
            break
    else:
        pytest.fail(f"the server did not start: {''.join(lines)}")
    yield line.split()[0]
    process.terminate()
    process.communicate(timeout=30)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    found = [path for name in BROWSERS if (path := shutil.which(name))]
    path = os.environ.get("DDGAN_BROWSER") or (found[0] if found else None)
    if path is None:
        pytest.fail(
            f"none of {BROWSERS} is installed; install chromium (on Debian: apt-get install "
            "chromium), or set DDGAN_BROWSER to the path of one"
        )
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, url):
    """The page once it answers; afterwards, all that it asked for was on its own server."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(WAIT_MS)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.locator("#results .hint").wait_for()
    yield page
    page.close()
    assert errors == []
    assert len(asked) > 10
    assert [a for a in asked if not a.startswith((f"{url}/", "data:", "blob:"))] == []


def stroke(page, *points):
    """Draw on the canvas with the mouse, through points in shares of its sides."""
    canvas = page.locator("#canvas canvas.strokes")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots:
        page.mouse.move(*spot, steps=4)
    page.mouse.up()


SOURCES = """kind => [...document.querySelectorAll(`#results .${kind} img`)].map(i => i.src)"""
SETTLED = """([count, old]) => {
    const images = [...document.querySelectorAll('#results .result img')].map(i => i.src);
    return images.length === count && images.every(i => !old.includes(i));
}"""


def results(page, count=8, after=()):
    """Wait for ``count`` results of which none is in ``after``; return (painting, results)."""
    page.wait_for_function(SETTLED, arg=[count, list(after)])
    return page.evaluate(SOURCES, "painting")[0], page.evaluate(SOURCES, "result")


def image(source):
    image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_strokes_become_images(page, model):
    assert page.locator("#canvas [aria-pressed=true]").get_attribute("title") == "#000000"
    page.locator("#canvas button[title='#ff0000']").click()
    stroke(page, (0.2, 0.2), (0.8, 0.8))
    painting, first = results(page)
    seen = image(painting)
    assert seen.shape == SHAPE
    red = torch.tensor([255, 0, 0])[:, None]
    assert (seen[:, [2, 5], [2, 5]] - red).abs().max() <= 30
    assert (seen[:, [0, 7], [7, 0]] == 255).all()
    for index, source in enumerate(first):
        expected = edit(model, seen, 2, num=1, seed=0, first_index=index)[0]
        assert torch.equal(image(source), expected)
    status = page.locator("#results .status").inner_text()
    assert re.fullmatch(r"seed 0, from step 2: 8 drawn in \d+\.\d\d s", status)
    captions = page.locator("#results .result figcaption").all_inner_texts()
    assert len(captions) == 8
    assert all(caption.endswith(" s") and float(caption[:-2]) > 0 for caption in captions)

    page.locator("#seed input").fill("5")
    same, second = results(page, after=first)
    assert same == painting
    assert torch.equal(image(second[0]), edit(model, seen, 2, num=1, seed=5)[0])
    page.locator("#start-step input[type=number]").fill("1")
    page.locator("#start-step input[type=number]").press("Enter")
    _, third = results(page, after=second)
    assert torch.equal(image(third[0]), edit(model, seen, 1, num=1, seed=5)[0])
    page.locator("#num input[type=number]").fill("3")
    page.locator("#num input[type=number]").press("Enter")
    assert results(page, count=3)[1] == third[:3]


def test_colours_eraser_undo_and_clear(page):
    page.locator("#canvas button[title='#0000ff']").click()
    page.locator("#canvas input.size").fill("40")
    stroke(page, (0.5, 0.5))
    painting, drawn = results(page)
    blue = image(painting)
    assert blue[:, 4, 4].tolist() == [0, 0, 255]
    page.locator("#canvas .eraser").click()
    page.locator("#canvas input.size").fill("100")
    stroke(page, (0.3, 0.5), (0.7, 0.5))
    painting, erased = results(page, after=drawn)
    assert (image(painting) == 255).all()
    page.locator("#canvas .undo").click()
    painting, undone = results(page, after=erased)
    assert torch.equal(image(painting), blue)
    assert undone == drawn
    page.locator("#canvas .clear").click()
    assert (image(results(page, after=undone)[0]) == 255).all()


def encoded(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=kind)
    return buffer.getvalue()


CHOOSE_LARGE = """size => {
    const files = new DataTransfer();
    files.items.add(new File([new Uint8Array(size)], 'large.png', {type: 'image/png'}));
    const input = document.querySelector('#canvas .file');
    input.files = files.files;
    input.dispatchEvent(new Event('change'));
}"""


def test_an_image_can_be_opened(page):
    array = np.full((40, 60, 3), (10, 200, 30), np.uint8)
    opened = {"name": "a.png", "mimeType": "image/png", "buffer": encoded(array)}
    page.locator("#canvas .file").set_input_files(opened)
    painting, _ = results(page)
    assert (image(painting) == torch.tensor([10, 200, 30])[:, None, None]).all()
    message = page.locator("#canvas .message")
    for file in ({**opened, "buffer": b"text"}, {**opened, "mimeType": "text/html"}):
        page.locator("#canvas .file").set_input_files(file)
        message.get_by_text("a.png is not a PNG, JPEG or WebP image").wait_for()
        page.evaluate("document.querySelector('#canvas .message').textContent = ''")
    page.evaluate(CHOOSE_LARGE, MAX_BYTES + 1)
    message.get_by_text("large.png is over the limit of 8 MiB").wait_for()
    assert page.evaluate(SOURCES, "painting")[0] == painting


def data_url(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def bomb(width, height):
    """A PNG of a hundred bytes that claims a size."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


GREY = np.full((8, 8, 3), 100, np.uint8)
REFUSED = [
    (data_url(encoded(GREY, "GIF")), "not a PNG, JPEG or WebP image"),
    (data_url(encoded(GREY, "BMP")), "not a PNG, JPEG or WebP image"),
    (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not a PNG, JPEG or WebP image"),
    (data_url(encoded(GREY)[:20]), "not a PNG, JPEG or WebP image"),
    (data_url(encoded(GREY)[:-30]), "cannot be read"),
    (data_url(bomb(30_000, 30_000)), "over the limit of 16777216 pixels"),
    (data_url(bomb(4097, 4096)), "over the limit of 16777216 pixels"),
    (data_url(b"\0" * (MAX_BYTES + 10)), "over the limit of 8 MiB"),
    ("data:image/png;base64,!!!", "not valid base64"),
    ("data:image/png,abc", "not a data: URL in base64"),
    ({"path": "/etc/hostname"}, "not a data: URL in base64"),
    ("/etc/hostname", "not a data: URL in base64"),
    ("file:///etc/hostname", "not a data: URL in base64"),
]


@pytest.mark.parametrize(("painting", "message"), REFUSED, ids=range(len(REFUSED)))
def test_only_images_within_limits_are_decoded(painting, message):
    from ddgan.demo.page import decode_painting

    with pytest.raises(UserError, match=message):
        decode_painting(painting, SHAPE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images_of_three_kinds_are_decoded(kind):
    from ddgan.demo.page import decode_painting

    x = decode_painting(data_url(encoded(GREY.repeat(4, 0), kind), "image/png"), SHAPE)
    assert (x.shape, x.dtype) == (SHAPE, torch.uint8)
    assert (x.int() - 100).abs().max() <= 3


def ask(url, method, path, body=None, **headers):
    """Return status and body, with the path sent as it is."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    status, content = response.status, response.read()
    connection.close()
    return status, content


def draw(url, session, *data):
    """Ask for images as the page does; return the first results' event and the last one."""
    call = {"data": data, "fn_index": 0, "session_hash": session}
    body = json.dumps(call)
    status, content = ask(
        url, "POST", "/gradio_api/queue/join", body, Content_Type="application/json"
    )
    assert status == 200, content
    _, events = ask(url, "GET", f"/gradio_api/queue/data?session_hash={session}")
    messages = [json.loads(line[6:]) for line in events.decode().split("\n\n") if line]
    first = next((m for m in messages if m["msg"] == "process_generating"), None)
    return first, next(m for m in messages if m["msg"] == "process_completed")


GOOD = data_url(encoded(GREY))


def test_requests_past_the_page_are_checked(url, model):
    first, done = draw(url, "good", GOOD, 2, 2, 0)
    assert done["success"]
    # Before the first image is drawn, the page says what it is doing.
    (html,) = first["output"]["data"]
    assert "drawing 1 of 2" in html
    assert (html.count('class="painting"'), html.count('class="result"')) == (1, 0)
    refused = {
        "type": ((data_url(encoded(GREY, "GIF")), 2, 1, 0), "not a PNG, JPEG or WebP image"),
        "bomb": ((data_url(bomb(30_000, 30_000)), 2, 1, 0), "over the limit"),
        "path": (("/etc/hostname", 2, 1, 0), "not a data: URL"),
        "step": ((GOOD, 9, 1, 0), "9"),
        "num": ((GOOD, 2, 1000, 0), "1000"),
        "seed": ((GOOD, 2, 1, -1), "-1"),
        "text": ((GOOD, 2, 1, "many"), ""),
    }
    for session, (data, message) in refused.items():
        first, done = draw(url, session, *data)
        assert first is None
        assert not done["success"], session
        assert message in str(done["output"]["error"]), session


def stored_files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_arguments_that_gradio_takes_for_files_are_refused(url, temporary):
    path, kind = "/gradio_api/queue/join", {"Content_Type": "application/json"}
    meta = {"_type": "gradio.FileData"}
    for argument in (
        {"path": "/etc/hostname", "meta": meta},
        {"path": f"{url}/config", "meta": meta},
        [{"path": "/etc/hostname", "meta": meta}],
    ):
        for data in ([argument, 2, 1, 0], [GOOD, 2, 1, argument], argument):
            call = {"data": data, "fn_index": 0, "session_hash": "files"}
            assert ask(url, "POST", path, json.dumps(call), **kind)[0] == 400
    for body in ("", "[]", "{}", "[" * 100_000, "\0"):
        assert ask(url, "POST", path, body, **kind)[0] == 400
    assert stored_files(temporary) == []


def test_large_requests_are_refused(url):
    path, kind = "/gradio_api/queue/join", {"Content_Type": "application/json"}
    assert ask(url, "POST", path, None, **kind, Content_Length="12000000")[0] == 413
    assert ask(url, "POST", path, iter([b"{}"]), **kind, Transfer_Encoding="chunked")[0] == 411


def test_a_body_longer_than_it_says_is_not_kept(url):
    """A request that states a length and is sent in chunks: the chunks count."""
    address = urlsplit(url)
    head = "POST /gradio_api/queue/join HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n"
    head += "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(head.format(address.netloc).encode())
        answer = b""
        # The server may close the connection before it has all, and its answer be lost.
        with contextlib.suppress(ConnectionError):
            for _ in range(MAX_BYTES * 3 // 2**20):
                connection.sendall(chunk)
            connection.sendall(b"0\r\n\r\n")
            answer = connection.recv(100)
    assert answer[:12] in (b"", b"HTTP/1.1 413")


def test_no_path_reaches_the_file_system(url, lively, temporary):
    secret = temporary / "secret.txt"
    secret.write_text("precious")
    try:
        for path in (
            f"/gradio_api/file={secret}",
            f"/gradio_api/file={lively}",
            f"/file={secret}",
            f"/gradio_api/file/{secret}",
            "/gradio_api/file=/etc/hostname",
            "/../../../../../../../../etc/hostname",
            "/assets/../../../../../../../../etc/hostname",
            "/assets/..%2f..%2f..%2f..%2f..%2f..%2fetc/hostname",
            "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/hostname",
            "/assets//etc/hostname",
            "/svelte/%2fetc%2fhostname",
            "/gradio_api/proxy=http://127.0.0.1:1/",
            "/gradio_api/upload_progress?upload_id=a",
            "/monitoring",
            "/openapi.json",
        ):
            status, content = ask(url, "GET", path)
            assert status in (403, 404), path
            assert b"precious" not in content
            assert len(content) < 200
        for path in ("/gradio_api/upload", "/gradio_api/run/draw", "/gradio_api/vibe-edit"):
            assert ask(url, "POST", path, b"{}")[0] == 404, path
    finally:
        secret.unlink()
    assert stored_files(temporary) == []


def test_other_sites_are_refused(url):
    own = urlsplit(url).netloc
    assert ask(url, "GET", "/", Host="evil.example")[0] == 400
    call = ("POST", "/gradio_api/queue/join", b"{}")
    assert ask(url, *call, Origin="http://evil.example")[0] == 403
    assert ask(url, *call, Origin=f"http://{own}")[0] == 400


PUBLIC = "https://lab.example.org/paint"


@pytest.fixture(scope="module")
def client(model):
    """Ask the application in this process: published at PUBLIC, or (False) only on this machine."""
    from starlette.testclient import TestClient

    from ddgan.demo.page import build_page
    from ddgan.demo.server import build_app

    clients = {}

    def get(public):
        if public not in clients:
            app = build_app(build_page(model, "name"), "127.0.0.1", PUBLIC if public else None)
            clients[public] = TestClient(app, "http://127.0.0.1:7860")
        return clients[public]

    return get


@pytest.mark.parametrize("path", ["/config", "/paint/config"])
@pytest.mark.parametrize("host", ["lab.example.org", "127.0.0.1:7860", "localhost:7860"])
def test_behind_a_proxy(client, path, host):
    """Proxies pass on the host and the path that the browser asked for, or replace them."""
    response = client(public=True).get(path, headers={"Host": host})
    assert (response.status_code, response.json()["root"]) == (200, PUBLIC)
    call = {"data": [None, 2, 1, 0], "fn_index": 0, "session_hash": "proxy"}
    for origin, status in {
        "https://lab.example.org": 200,
        "http://lab.example.org": 200 if host == "lab.example.org" else 403,
        "https://evil.example": 403,
        "null": 403,
        "https://[": 403,
    }.items():
        headers = {"Host": host, "Origin": origin}
        path = path.replace("/config", "/gradio_api/queue/join")
        assert client(public=True).post(path, json=call, headers=headers).status_code == status


@pytest.mark.parametrize("host", ["evil.example", "lab.example.org", "[", "[::1", "127.0.0.1.evil"])
def test_other_names_of_this_machine_are_refused(client, host):
    response = client(public=False).get("/", headers={"Host": host})
    assert response.status_code == 400
    assert "--public-url" in response.text
    assert client(public=False).get("/paint/config").status_code == 404


def test_the_address_of_a_proxy_is_a_url():
    from ddgan.demo.server import check_public_url

    assert check_public_url("https://lab.example.org/paint/") == PUBLIC
    for url in ("lab.example.org", "ftp://lab.example.org", "https://", "https://[", PUBLIC + "?a"):
        with pytest.raises(UserError, match="--public-url"):
            check_public_url(url)


@pytest.mark.parametrize("host", ["::1", "127.0.0.1", "localhost"])
def test_addresses_of_both_kinds(host, client):
    from ddgan.demo.server import is_loopback, listen

    assert is_loopback(host)
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listen(host, 0) as listener:
        socket.create_connection((host, listener.getsockname()[1])).close()
        with pytest.raises(UserError, match=f"--host {host} --port"):
            listen(host, listener.getsockname()[1])
    name = f"[{host}]:7860" if ":" in host else host
    assert client(public=False).get("/", headers={"Host": name}).status_code == 200


def test_the_tool_says_what_is_wrong(url, call_tool, lively, trained, monkeypatch):
    port = urlsplit(url).port
    status, output = call_tool("demo", lively, "--port", port, "--device", "cpu")
    assert (status, output.count("error:")) == (1, 1)
    assert f"cannot listen on --host 127.0.0.1 --port {port}" in output
    points = trained("points") / "iter_6.pth"
    status, output = call_tool("demo", points, "--device", "cpu")
    assert (status, output.count("error:")) == (1, 1)
    assert "only images can be edited" in output
    monkeypatch.delitem(sys.modules, "ddgan.demo.page", raising=False)
    monkeypatch.delitem(sys.modules, "ddgan.demo.server", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    status, output = call_tool("demo", lively, "--port", 0, "--device", "cpu")
    assert (status, output.count("error:")) == (1, 1)
    assert "pip install 'ddgan[demo]'" in output
