"""The page: canvas and settings on the left, results on the right."""

import base64
import binascii
import io
import math
import os
import time
from collections.abc import Iterator
from importlib import resources

from PIL import Image
from torch import Tensor

from ddgan.apis import edit
from ddgan.data.decoding import fit_image, open_image, to_image
from ddgan.editing import check_start_step
from ddgan.errors import UserError
from ddgan.models import GenerativeModel

# gradio reads these when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import gradio as gr
except ImportError as error:
    raise UserError(
        f"the web page needs gradio ({error}); install it with: pip install 'ddgan[demo]'"
    ) from None

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 8 << 20
MAX_PIXELS = 1 << 24
MAX_NUM = 16
# Smaller sides are enlarged by a whole factor for painting.
CANVAS_SIDE = 256
RESULT_SIDE = 128
# The page asks no other host for fonts.
FONTS = ["system-ui", "sans-serif"]
MONO_FONTS = ["ui-monospace", "monospace"]


def build_page(model: GenerativeModel, name: str) -> gr.Blocks:
    """The page for a model; ``name`` is shown in its title."""
    _, height, width = model.data_shape
    zoom = max(1, round(CANVAS_SIDE / max(height, width)))
    steps = model.diffusion.num_steps
    with gr.Blocks(title=f"Strokes to images: {name}", analytics_enabled=False) as page:
        gr.Markdown(
            f"### Strokes to images\n{name}: {width} × {height} pixels, {steps} steps. What is "
            "painted is diffused to step t and denoised from there."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=400):
                canvas = gr.HTML(
                    html_template=_asset("canvas.html"),
                    css_template=_asset("canvas.css"),
                    js_on_load=_asset("canvas.js"),
                    elem_id="canvas",
                    canvas_width=width * zoom,
                    canvas_height=height * zoom,
                    max_bytes=MAX_BYTES,
                )
                start_step = gr.Slider(
                    1,
                    steps,
                    value=max(1, steps // 2),
                    step=1,
                    label="t: the lower, the more closely the strokes are followed",
                    elem_id="start-step",
                )
                num = gr.Slider(1, MAX_NUM, value=8, step=1, label="images", elem_id="num")
                seed = gr.Number(0, precision=0, minimum=0, label="seed", elem_id="seed")
            with gr.Column(scale=2):
                results = gr.HTML("", elem_id="results", css_template=_asset("results.css"))

        def draw(painting: str | None, start_step: int, num: int, seed: int) -> Iterator[str]:
            try:
                yield from draw_results(model, painting, start_step, num, seed)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from None

        gr.on(
            [page.load, canvas.input, start_step.change, num.change, seed.change],
            draw,
            [canvas, start_step, num, seed],
            results,
            # While one request runs, only the newest of the later ones waits.
            trigger_mode="always_last",
            concurrency_limit=1,
            show_progress="hidden",
        )
    return page.queue(max_size=16, default_concurrency_limit=1)


def draw_results(
    model: GenerativeModel, painting: str | None, start_step: int, num: int, seed: int
) -> Iterator[str]:
    """Yield the HTML of the results so far, first without any and then after each."""
    if not painting:
        yield '<p class="hint">Paint, or open an image.</p>'
        return
    if not all(type(value) is int for value in (start_step, num, seed)):
        raise UserError(
            f"t is {start_step!r}, images {num!r}, seed {seed!r}; expected whole numbers"
        )
    if not 1 <= num <= MAX_NUM or not 0 <= seed < 2**64:
        raise UserError(
            f"images is {num} and seed {seed}; expected 1 to {MAX_NUM}, and 0 to 2^64 - 1"
        )
    check_start_step(model, start_step)
    image = decode_painting(painting, model.data_shape)
    figures = [_figure(image, "the model's view", "painting")]
    total = 0.0
    for index in range(num):
        yield _results(figures, f"drawing {index + 1} of {num} …")
        started = time.perf_counter()
        result = edit(model, image, start_step, num=1, seed=seed, first_index=index)[0].cpu()
        seconds = time.perf_counter() - started
        total += seconds
        figures.append(_figure(result, f"{seconds:.3f} s", "result"))
    yield _results(figures, f"seed {seed}, from step {start_step}: {num} drawn in {total:.2f} s")


def decode_painting(data_url: str, shape: tuple[int, ...]) -> Tensor:
    """The image of a ``data:`` URL as uint8 of ``shape`` (C, H, W); nothing touches the disk.

    The file in it must be a PNG, JPEG or WebP, whatever type the URL states, of up to 8 MiB and
    2^24 pixels; the size is taken from its header before anything is unpacked. Raises UserError
    for everything else.
    """
    if not isinstance(data_url, str):
        raise UserError("the painting is not a data: URL in base64")
    head, comma, body = data_url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise UserError("the painting is not a data: URL in base64")
    if len(body) > MAX_BYTES * 4 // 3 + 4:
        raise UserError(f"the painting is over the limit of {MAX_BYTES >> 20} MiB")
    try:
        content = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("the painting is not valid base64") from None
    _check_header(content)
    return fit_image(open_image(io.BytesIO(content), shape[0], name="sent"), shape)


def _check_header(content: bytes) -> None:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = math.inf
    # Decoders raise nearly any exception on damaged data.
    except Exception:
        raise UserError("the painting is not a PNG, JPEG or WebP image") from None
    if pixels > MAX_PIXELS:
        raise UserError(f"the painting is over the limit of {MAX_PIXELS} pixels")


def _results(figures: list[str], status: str) -> str:
    images = f'<div class="images">{"".join(figures)}</div>'
    return f'<p class="status" role="status">{status}</p>{images}'


def _figure(pixels: Tensor, caption: str, kind: str) -> str:
    """An image inside the page: results are never files that a server hands out."""
    image = to_image(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    zoom = max(1, RESULT_SIDE // max(image.size))
    size = f'width="{image.width * zoom}" height="{image.height * zoom}"'
    return (
        f'<figure class="{kind}"><img {size} alt="{kind}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _asset(name: str) -> str:
    return resources.files("ddgan.demo").joinpath("assets", name).read_text("utf-8")
