#!/usr/bin/env bash
# Train a denoising diffusion GAN on stacked digits, sample from it and measure its mode coverage.
# After an interruption, run it again: it continues.
set -euo pipefail
source "$(dirname "$0")/setup_env.sh"

run=work_dirs/quickstart
python tools/train.py configs/ddgan_stackeddigits.py --work-dir "$run" --resume
checkpoint="$run/$(cat "$run/last_checkpoint")"
python tools/sample.py "$checkpoint" --num 100 --out "$run/samples.png"
python tools/visualize.py curves "$run" --out "$run/curves.png"
python tools/visualize.py digits "$checkpoint" --out "$run/digits.png"
python tools/test.py "$checkpoint" --metric modes

cat <<EOF

  samples     $run/samples.png (three digits each, stacked as red, green and blue)
  digits      $run/digits.png (each sample with its three digits, as the classifier reads them)
  curves      $run/curves.png, or: .venv/bin/tensorboard --logdir $run
  checkpoint  $checkpoint
EOF
