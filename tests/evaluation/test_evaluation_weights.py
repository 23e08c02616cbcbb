import contextlib
import hashlib
import http.server
import logging
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from ddgan.errors import CheckpointError, UserError
from ddgan.evaluation import pretrained as weights
from ddgan.evaluation.pretrained import PublishedWeights, parameters_digest, read_state_dict

CONTENT = bytes(range(256)) * 10_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def requests():
    return []


@pytest.fixture
def server(requests):
    """A server that has /good.pth, /changed.pth and /cut.pth, and its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            if self.path == "/missing.pth":
                self.send_error(404)
                return
            content = {"/changed.pth": CONTENT[::-1], "/cut.pth": CONTENT[:-5]}.get(
                self.path, CONTENT
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def log(monkeypatch):
    messages = []
    monkeypatch.setattr(
        weights,
        "print_log",
        lambda message, logger, level=logging.INFO: messages.append((level, message)),
    )
    return messages


def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_is_downloaded_once_and_then_found(cache, server, requests, log):
    published = PublishedWeights(f"{server}/good.pth", SHA256)
    for _ in range(2):
        path, digest = published.find()
        assert path == cache / "good.pth"
        assert path.read_bytes() == CONTENT
        assert digest == SHA256
    assert requests == ["/good.pth"]
    assert files(cache) == ["good.pth"]
    assert [text.startswith("downloading good.pth") for _, text in log] == [True]


@pytest.mark.parametrize("name", ["changed", "cut", "missing"])
def test_leaves_nothing_of_a_download_that_is_not_right(cache, server, name):
    published = PublishedWeights(f"{server}/{name}.pth", SHA256)
    with pytest.raises(UserError) as error:
        published.find()
    assert files(cache) == []
    for part in (f"{server}/{name}.pth", SHA256, str(cache / f"{name}.pth"), "'weights'"):
        assert part in str(error.value)


def test_offline_says_what_to_put_where(cache, server):
    """With a port that nothing listens on."""
    port = int(server.rsplit(":", 1)[1])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), None) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/good.pth"
    assert str(port) not in url
    with pytest.raises(UserError, match=r"good\.pth cannot be downloaded from http") as error:
        PublishedWeights(url, SHA256).find()
    assert f"put it at {cache / 'good.pth'}" in str(error.value)
    assert SHA256 in str(error.value)


def test_a_damaged_file_in_the_cache_is_replaced(cache, server, log):
    cache.mkdir(parents=True)
    (cache / "good.pth").write_bytes(CONTENT[:100])
    path, _ = PublishedWeights(f"{server}/good.pth", SHA256).find()
    assert path.read_bytes() == CONTENT
    assert "is damaged" in log[0][1]


def test_a_local_file_is_taken_as_it_is(tmp_path, cache, server, requests, log):
    published = PublishedWeights(f"{server}/good.pth", SHA256)
    (tmp_path / "a.pth").write_bytes(CONTENT)
    assert published.find(tmp_path / "a.pth") == (tmp_path / "a.pth", SHA256)
    assert log == []
    (tmp_path / "b.pth").write_bytes(b"other")
    other = hashlib.sha256(b"other").hexdigest()
    assert published.find(str(tmp_path / "b.pth")) == (tmp_path / "b.pth", other)
    assert log[0][0] == logging.WARNING
    assert "do not compare with published" in log[0][1]
    with pytest.raises(UserError, match="'nowhere' cannot be read"):
        published.find("nowhere")
    assert requests == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch, server):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=str(tmp_path / "file")):
        PublishedWeights(f"{server}/good.pth", SHA256).find()


def test_reads_both_forms(tmp_path):
    state = nn.Linear(3, 2).state_dict()
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        read = read_state_dict(tmp_path / name)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], value) for key, value in state.items())


class Opener:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", ["code", "list", "text", "nothing", "safetensors"])
def test_refuses_files_of_anything_else_and_runs_no_code(tmp_path, content):
    path = tmp_path / ("a.safetensors" if content == "safetensors" else "a.pth")
    if content == "code":
        torch.save({"weight": Opener(tmp_path / "executed")}, path)
    elif content == "list":
        torch.save([torch.zeros(2)], path)
    else:
        path.write_bytes({"text": b"no weights", "nothing": b"", "safetensors": b"x" * 20}[content])
    with pytest.raises(CheckpointError, match=str(path)):
        read_state_dict(path)
    assert files(tmp_path) == [path.name]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), zipped=st.booleans())
def test_damaged_files_are_refused_or_read(tmp_path_factory, data, zipped):
    path = tmp_path_factory.mktemp("damaged") / "a.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=zipped)
    content = bytearray(path.read_bytes())
    for _ in range(3):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        state = read_state_dict(path)
        assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_the_digest_of_parameters_sees_names_shapes_and_values():
    torch.manual_seed(0)
    base = nn.Linear(4, 3)
    same = nn.Linear(4, 3)
    same.load_state_dict(base.state_dict())
    changed = nn.Linear(4, 3)
    changed.load_state_dict(base.state_dict())
    with torch.no_grad():
        changed.bias[1] += 1e-6
    renamed = nn.ModuleDict({"a": base})
    digests = [parameters_digest(m) for m in (base, same, changed, renamed)]
    digests.append(parameters_digest(same.double()))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
