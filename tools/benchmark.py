"""Measures the library: ``python tools/benchmark.py train``, or another one of ``--help``."""

import argparse
import sys

import benchmark_data
import benchmark_density
import benchmark_ops
import benchmark_options
import benchmark_runner
import benchmark_sample
import benchmark_sampling
import benchmark_train


def main(arguments: list[str]) -> int:
    """Run one subcommand; each lives in a module of its own with add_arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in {
        "ops": benchmark_ops,
        "train": benchmark_train,
        "sample": benchmark_sample,
        "sampling": benchmark_sampling,
        "runner": benchmark_runner,
        "options": benchmark_options,
        "density": benchmark_density,
        "data": benchmark_data,
    }.items():
        command = commands.add_parser(name, help=module.__doc__.splitlines()[0])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
