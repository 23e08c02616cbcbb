"""Real processes at little cost: a server that has imported all, and forks for each run."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = Path(__file__).with_name("fork_server.py")
pytest.register_assert_rewrite("run_checks")


class Process:
    """A forked ``tools/train.py``; signals are sent to it with ``os.kill(process.pid, …)``."""

    def __init__(self, server, pid, output):
        self.server, self.pid, self.output = server, pid, output

    def wait(self):
        """Return (exit status, negative for a signal; output) once it has ended."""
        status, self.cpu_seconds = self.server.ask({"wait": self.pid})
        return status, self.output.read_text()

    def wait_for(self, text):
        """Return once the output holds the text."""
        self.server.ask({"wait_for": text, "in": str(self.output)})


class ForkServer:
    """Starts processes from one that has imported everything."""

    def __init__(self, environment):
        self.process = subprocess.Popen(
            [sys.executable, SERVER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the fork server has died"
        return json.loads(answer)

    def train(self, output, *arguments, limits=None, seconds=600, cpu_seconds=0, **environment):
        """Start ``tools/train.py arguments``.

        The kernel ends it after ``seconds`` by SIGALRM, or after ``cpu_seconds`` of computing by
        SIGPROF.
        """
        request = {
            "arguments": [str(argument) for argument in arguments],
            "environment": environment,
            "output": str(output),
            "limits": limits or {},
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
        }
        return Process(self, self.ask({"start": request}), output)


@pytest.fixture(scope="session")
def fork_server(tool_environment):
    server = ForkServer(tool_environment | {"PYTHONUNBUFFERED": "1"})
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="session")
def free_port():
    """Return a function that finds a port for the processes of a run."""

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture
def start_training(fork_server, tmp_path):
    """Start training in a process of its own; returns a ``Process``."""
    count = iter(range(1000))

    def start(*arguments, **options):
        output = tmp_path / f"output_{next(count)}.txt"
        return fork_server.train(output, *arguments, "--device", "cpu", **options)

    return start


@pytest.fixture
def start_ranks(start_training, free_port):
    """Start the processes of one run; returns them by rank."""

    def start(count, *arguments, **options):
        port = str(free_port())
        return [
            start_training(
                *arguments,
                "--launcher",
                "pytorch",
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(count),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                **options,
            )
            for rank in range(count)
        ]

    return start
