"""A web page to paint on: ``python tools/demo.py CHECKPOINT``."""

import argparse
from pathlib import Path

from ddgan.apis import load_model
from ddgan.demo.listening import is_loopback, listen
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
    return parser.parse_args()


def main() -> None:
    """Load the model and serve the page."""
    args = parse_args()
    with running(args):
        model = load_model(args.checkpoint, args.device)
        check_editable(model)
        with listen(args.host, args.port) as listener:
            # Imported late: a wrong checkpoint is reported at once, and without gradio.
            from ddgan.demo.page import build_page
            from ddgan.demo.server import serve

            page = build_page(model, Path(args.checkpoint).name)
            if not is_loopback(args.host):
                print(f"other machines can reach {args.host}, and there is no password")
            print(f"http://{args.host}:{listener.getsockname()[1]} (Ctrl-C stops it)", flush=True)
            serve(page, listener, args.host)


if __name__ == "__main__":
    main()
