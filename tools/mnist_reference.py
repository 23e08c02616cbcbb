"""What real digits score in StackedMNIST: ``python tools/mnist_reference.py data/mnist``.

Trains the classifier if it is not in the cache, and prints a JSON record.
"""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
import json

from ddgan.evaluation import finite_sample_floor
from ddgan.evaluation.mnist_classifier import mnist_classifier, real_mode_coverage
from ddgan.utils.cli import progress_bar, user_errors


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="the folder of MNIST's IDX files, or of a set in their form")
    parser.add_argument("--num", type=int, default=25_600, help="how many triples")
    args = parser.parse_args()
    with user_errors():
        classifier = mnist_classifier(args.root, progress_bar)
        real = real_mode_coverage(classifier, args.root, args.num)
        record = {
            "classifier_accuracy": classifier.held_out_accuracy,
            "num": args.num,
            "real_modes": real.modes,
            "real_kl": real.kl,
            "kl_floor": finite_sample_floor(args.num, real.num_modes),
        }
        print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
