"""A web page to paint on: ``python tools/demo.py CHECKPOINT``."""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
from pathlib import Path

from ddgan.apis import load_model
from ddgan.editing import check_editable
from ddgan.utils.cli import add_options, running


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Serve a web page: paint strokes and see images that follow them."
    )
    add_options(parser, "checkpoint", "--device", "--import")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1: this machine alone)",
    )
    parser.add_argument("--port", type=int, default=7860, help="0 for any free one (default 7860)")
    parser.add_argument(
        "--public-url",
        metavar="URL",
        help="where a proxy publishes the page, such as https://lab.example.org/paint",
    )
    return parser.parse_args()


def main() -> None:
    """Load the model and serve the page."""
    args = parse_args()
    with running(args):
        model = load_model(args.checkpoint, args.device)
        check_editable(model)
        # Imported late: a wrong checkpoint is reported without gradio, and seconds earlier.
        from ddgan.demo.page import build_page
        from ddgan.demo.server import check_public_url, is_loopback, listen, serve

        public_url = args.public_url and check_public_url(args.public_url)
        with listen(args.host, args.port) as listener:
            page = build_page(model, Path(args.checkpoint).name)
            if not is_loopback(args.host):
                print(f"other machines can reach {args.host}, and there is no password")
            host = f"[{args.host}]" if ":" in args.host else args.host
            address = f"http://{host}:{listener.getsockname()[1]}"
            print(f"{public_url or address} (Ctrl-C stops it)", flush=True)
            serve(page, listener, args.host, public_url)


if __name__ == "__main__":
    main()
