"""Forks a process per request; see conftest.py. A start of Python costs seconds, a fork none."""

import importlib.util
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "train.py"


def load_tool():
    specification = importlib.util.spec_from_file_location("train", TOOL)
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    return tool


def preload():
    """Import what training imports late, without computing anything."""
    import fault_hooks  # noqa: F401
    import matplotlib.backends.backend_agg
    import matplotlib.pyplot  # noqa: F401
    import mmengine
    import tensorboard.compat.proto.event_pb2  # noqa: F401
    import torch._dynamo  # noqa: F401
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    from ddgan.registry import REGISTRIES

    # mmengine formats the config of each run several times, half a second each.
    mmengine.Config.pretty_text = property(lambda self: "")
    for registry in REGISTRIES:
        registry.import_from_location()


def run(tool, request):
    """Become the process that was asked for; does not return."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.environ.update(request["environment"])
    for name, value in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    signal.setitimer(signal.ITIMER_PROF, request["cpu_seconds"])
    sys.argv = [str(TOOL), *request["arguments"]]
    status = 0
    try:
        tool.main()
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    # As at the end of any process: what is still buffered is written.
    import atexit

    atexit._run_exitfuncs()
    os._exit(status)


def wait_for(text, path):
    """Return once the file holds the text."""
    deadline = time.monotonic() + 120
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, text
        time.sleep(0.001)
    return 0


def main():
    tool = load_tool()
    preload()
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = os.fork()
            if answer == 0:
                run(tool, request["start"])
        elif "wait_for" in request:
            answer = wait_for(request["wait_for"], Path(request["in"]))
        else:
            _, code, usage = os.wait4(request["wait"], 0)
            answer = [os.waitstatus_to_exitcode(code), usage.ru_utime + usage.ru_stime]
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
