"""Measures the library: ``python tools/benchmark.py ops`` or ``model``, with ``--help``."""

import argparse
import sys

import benchmark_model
import benchmark_ops
import benchmark_sampling


def main(arguments: list[str]) -> int:
    """Run one subcommand; each lives in a module of its own with add_arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in {
        "ops": benchmark_ops,
        "model": benchmark_model,
        "sampling": benchmark_sampling,
    }.items():
        command = commands.add_parser(name, help=module.__doc__.splitlines()[0])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
