"""A web page to paint on: ``python tools/demo.py CHECKPOINT``."""

import argparse
from pathlib import Path

from ddgan.apis import load_model
from ddgan.demo.listening import is_loopback, listen
from ddgan.editing import check_editable
from ddgan.utils.cli import import_packages, user_errors
from ddgan.utils.cpu import set_up_cpu


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Serve a web page: paint strokes and see images that follow them."
    )
    parser.add_argument("checkpoint", help="iter_N.pth of a run, or a .safetensors release file")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1: this machine alone)",
    )
    parser.add_argument("--port", type=int, default=7860, help="0 for any free one (default 7860)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument(
        "--import", nargs="+", default=[], dest="packages", help="packages that register modules"
    )
    return parser.parse_args()


def main() -> None:
    """Load the model and serve the page."""
    args = parse_args()
    set_up_cpu()
    with user_errors():
        import_packages(args.packages)
        model = load_model(args.checkpoint, args.device)
        check_editable(model)
        with listen(args.host, args.port) as listener:
            # Here, so that a bad command line or checkpoint is told without gradio, and at once.
            from ddgan.demo.page import build_page
            from ddgan.demo.server import serve

            page = build_page(model, Path(args.checkpoint).name)
            if not is_loopback(args.host):
                print(f"other machines can reach {args.host}, and there is no password")
            print(f"http://{args.host}:{listener.getsockname()[1]} (Ctrl-C stops it)", flush=True)
            serve(page, listener, args.host)


if __name__ == "__main__":
    main()
