"""Prints what is built, for which architectures, and what will be used: ``python -m ddgan.ops``."""

from ddgan.ops.backend import report

if __name__ == "__main__":
    print(report())
