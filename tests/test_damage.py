"""Damaged weights, statistics and requests are read, or end with one line; so do altered ones."""

import argparse
import base64
import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from damage import altered, damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_stores import encoded, values_of

from ddgan.apis import load_model
from ddgan.engine.checkpoint import newest_good_checkpoint, read_checkpoint, save_release
from ddgan.engine.checkpoint import read_weights as read_config_and_weights
from ddgan.errors import UserError
from ddgan.evaluation.pretrained import read_state_dict
from ddgan.evaluation.reference_files import read_reference
from ddgan.networks.official import (
    convert_model,
    discriminator_layout,
    generator_layout,
    read_official,
)

QUIETLY = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def ends_with_one_line(read, *arguments):
    message = ""
    try:
        read(*arguments)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 3000


def saved(value, legacy=False):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def sealed(archive):
    """A checkpoint with the digest that belongs to its content."""
    body = archive[:-2] + (71).to_bytes(2, "little")
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()


@st.composite
def inside(draw, archive, ending):
    """A zip file whose part with that ending is damaged, with the right checksum."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(file, "w") as new:
        for part in old.infolist():
            content = old.read(part)
            if part.filename.endswith(ending):
                content = draw(damaged(content))
            new.writestr(zipfile.ZipInfo(part.filename), content)
    return file.getvalue()


def with_config(draw, config):
    """The text of a config whose model is altered."""
    content = json.loads(config)
    return json.dumps({**content, "model": draw(altered(content["model"]))})


def test_checkpoints(trained, train, tmp_path):
    whole = trained("images") / "iter_14.pth"
    content = read_checkpoint(whole)
    archive = saved(content)
    path = tmp_path / "iter_14.pth"
    runner = train("images", tmp_path / "run", train_cfg__max_iters=1)

    def read():
        newest_good_checkpoint(tmp_path)
        load_model(path, "cpu")

    @QUIETLY
    @given(st.data())
    def check(data):
        form = data.draw(st.sampled_from(["bytes", "pickle", "config", "parts"]))
        if form == "bytes":
            path.write_bytes(data.draw(damaged(whole.read_bytes())))
        elif form == "pickle":
            path.write_bytes(sealed(data.draw(inside(archive, "data.pkl"))))
        elif form == "config":
            text = with_config(data.draw, content["meta"]["config"])
            path.write_bytes(
                sealed(saved({**content, "meta": {**content["meta"], "config": text}}))
            )
        else:
            part = data.draw(st.sampled_from(["meta", "optimizer", "param_schedulers"]))
            path.write_bytes(sealed(saved({**content, part: data.draw(altered(content[part]))})))
        ends_with_one_line(read)
        ends_with_one_line(runner.resume, str(path))

    check()
    path.write_bytes(sealed(archive))
    read()
    runner.resume(str(path))


def test_release_files(lively, tmp_path):
    config, state, info = read_config_and_weights(lively)
    state = {name: value for name, value in state.items() if name.startswith("generator_ema.")}
    whole, path = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    save_release(whole, state, config, info)
    content = whole.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])

    @QUIETLY
    @given(st.data())
    def check(data):
        form = data.draw(st.sampled_from(["bytes", "header", "config"]))
        if form == "bytes":
            path.write_bytes(data.draw(damaged(content)))
        else:
            changed = json.loads(content[8:end])
            if form == "config":
                metadata = changed["__metadata__"]
                metadata["config"] = with_config(data.draw, metadata["config"])
            else:
                changed = data.draw(altered(header))
            text = json.dumps(changed).encode()
            path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
        ends_with_one_line(load_model, path, "cpu")
        ends_with_one_line(read_state_dict, path)

    check()
    load_model(whole, "cpu")


def test_official_weights(lively, tmp_path):
    model = load_model(lively, "cpu")

    def official(network, layout):
        ours = network.state_dict()
        return {n: torch.ones(place.official_shape(ours[place.key])) for n, place in layout.items()}

    generator = official(model.generator, generator_layout(model.generator))
    moments = {i: {"ema": value} for i, value in enumerate(generator.values())}
    content = {
        "epoch": 3,
        "args": argparse.Namespace(seed=1),
        "netG_dict": generator,
        "netD_dict": official(model.discriminator, discriminator_layout(model.discriminator)),
        "optimizerG": {"state": moments, "param_groups": [{"params": list(moments)}]},
    }
    path = tmp_path / "netG_1.pth"

    def read():
        convert_model(read_official(path), model)

    @QUIETLY
    @given(st.data())
    def check(data):
        value, legacy = data.draw(st.sampled_from([generator, content])), data.draw(st.booleans())
        form = data.draw(st.sampled_from(["bytes", "pickle", "parts"]))
        if form == "parts":
            path.write_bytes(saved(data.draw(altered(value)), legacy))
        elif form == "bytes" or legacy:
            path.write_bytes(data.draw(damaged(saved(value, legacy))))
        else:
            path.write_bytes(data.draw(inside(saved(value), "data.pkl")))
        ends_with_one_line(read)
        ends_with_one_line(read_state_dict, path)

    check()
    for value in (generator, content):
        path.write_bytes(saved(value))
        read()


def test_statistics(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 4)).astype(np.float32)
    arrays = {"mu": features.mean(0), "sigma": np.cov(features, rowvar=False)}
    more = {"features": features, "num": 20, "source": "cats", "extractor": "net abc"}
    extractor = {"name": "net", "digest": "abc"}
    wholes = []
    for content in (arrays, {**arrays, **more}):
        file = io.BytesIO()
        np.savez(file, **content)
        wholes.append(file.getvalue())
    file = io.BytesIO()
    np.save(file, arrays, allow_pickle=True)
    odd = [np.array(None), np.eye(4) * np.nan, "a\nb", np.zeros(3), np.array(-1), np.array(b"x")]
    path = tmp_path / "a.npz"

    @settings(QUIETLY, max_examples=80)
    @given(st.data())
    def check(data):
        form = data.draw(st.sampled_from(["bytes", "inside", "dict", "parts"]))
        whole = data.draw(st.sampled_from(wholes))
        if form == "bytes":
            path.write_bytes(data.draw(damaged(whole)))
        elif form == "inside":
            path.write_bytes(
                data.draw(inside(whole, data.draw(st.sampled_from([".npy", "mu.npy"]))))
            )
        elif form == "dict":
            path.write_bytes(data.draw(damaged(file.getvalue())))
        else:
            key = data.draw(st.sampled_from([*arrays, *more]))
            np.savez(path, **{**arrays, **more, key: data.draw(st.sampled_from(odd))})
        ends_with_one_line(read_reference, path, 4, extractor)

    check()
    for whole in (*wholes, file.getvalue()):
        path.write_bytes(whole)
        assert read_reference(path, 4, extractor).statistics.cov.shape == (4, 4)


def test_requests(lively):
    pytest.importorskip("gradio")
    from starlette.testclient import TestClient

    from ddgan.demo.page import build_page, decode_painting, draw_results
    from ddgan.demo.server import build_app

    model = load_model(lively, "cpu")
    page = build_page(model, "name")
    client = TestClient(build_app(page, "127.0.0.1"), "http://127.0.0.1:7860")
    paintings = [encoded(values_of(0), form) for form in ("PNG", "JPEG", "WEBP")]
    address = "/gradio_api/queue/join"

    def url(content):
        return f"data:image/png;base64,{base64.b64encode(content).decode()}"

    call = {"data": [url(paintings[0]), 2, 1, 0], "fn_index": 0, "session_hash": "s"}

    def send(body):
        # Nobody works on the queue here, and gradio forgets sessions that wait for too long.
        for queue in page._queue.event_queue_per_concurrency_id.values():
            queue.queue.clear()
        headers = {"Content-Type": "application/json"}
        assert client.post(address, content=body, headers=headers).status_code < 500

    def draw_all(arguments):
        if isinstance(arguments, list) and len(arguments) == 4:
            list(draw_results(model, *arguments))

    @settings(QUIETLY, max_examples=50)
    @given(st.data())
    def check(data):
        image = data.draw(damaged(data.draw(st.sampled_from(paintings))))
        ends_with_one_line(decode_painting, url(image), (3, 8, 8))
        send(data.draw(damaged(json.dumps(call).encode())))
        changed = data.draw(altered(call))
        send(json.dumps(changed).encode())
        ends_with_one_line(draw_all, data.draw(altered(call["data"])))

    check()
    for body in ('{"data": [NaN], "fn_index": 0, "session_hash": ""}', '{"data": ["\\ud800"]}'):
        assert client.post(address, content=body).status_code == 400
    for key, value in {"fn_index": 1, "session_hash": "", "request": {}, "data": [{}]}.items():
        assert client.post(address, json={**call, key: value}).status_code == 400
    assert client.post(address, json=call).status_code in (200, 503)
