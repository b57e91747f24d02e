"""How soon `generate` samples, beside `import torch` alone: seconds of each, in turns, and their ratio.

    python tools/start.py            # five of each
    python tools/start.py 9

Only the ratio means something on another machine: at most 2.5. The prompt is one that no cache holds, so that
the text encoders are loaded too.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

BEGUN = "Sampling"


def torch_alone() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - began


def until_sampling() -> float:
    """Seconds from the start of the command to its first step."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--prompt", "a red ball moves to the right", "--seed", "7", "--output", folder]
        began = time.perf_counter()
        run = subprocess.Popen(
            [sys.executable, "-m", "pyramid", "generate", *words],
            env=os.environ | {"PYRAMID_CACHE": folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert run.stderr
        for line in run.stderr:
            if line.startswith(BEGUN):
                seconds = time.perf_counter() - began
                run.kill()
                run.communicate()
                return seconds
        raise SystemExit(f"generate ended with {run.wait()} before it sampled")


def main() -> None:
    pairs = [(torch_alone(), until_sampling()) for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5)]
    for alone, sampling in pairs:
        print(f"torch {alone:.2f} s   sampling after {sampling:.2f} s   ratio {sampling / alone:.2f}")
    print(f"ratio {statistics.median(sampling / alone for alone, sampling in pairs):.2f}, the middle one")


if __name__ == "__main__":
    main()
