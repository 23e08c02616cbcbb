"""How OpenMP's threads wait for each other; to be imported before torch.

At the end of each parallel part of an operation threads wait for the slowest one. GNU's OpenMP lets
them spin for up to 300,000 rounds first. When another program uses a core, a thread waits for its
turn, and the others burn the time that it is waiting for: iterations of small networks take ten
times as long and more. A short spin is the compromise: it costs a small network a part of its speed
on an idle machine, and avoids the tenfold on a busy one (docs/benchmarks.md).
libgomp reads the setting when it is loaded, which torch does; hence a module without torch.
"""

import os

# The user's own choice stays.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"
