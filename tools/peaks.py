"""What clips take of main memory: the peak of a process, measured, beside what was estimated before.

    python tools/peaks.py                        # clips of 1, 3, 5 and 7 s, in bfloat16 and in float32
    python tools/peaks.py --seconds 1,10 --dtype auto --model FOLDER

Each clip is made by the command `generate`, one step a stage, as the peak does not depend on their number.
1 is returned where an estimate is further off than a tenth.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a red ball moves to the right over a green meadow"
SAID = re.compile(r"peak: ([\d.]+) (GB|MB) of main memory \(([\d.]+) (GB|MB) estimated\)")
UNITS = {"GB": 1000, "MB": 1}
NEAR = 0.1


def peak(model: str, seconds: str, dtype: str) -> tuple[float, float]:
    """MB measured and estimated, of a clip in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--model", model, "--prompt", PROMPT, "--seed", "7", "--seconds", seconds, "--dtype", dtype]
        few = ["--steps", "1", "--video-steps", "1", "--device", "cpu", "--output", folder]
        done = subprocess.run(
            [sys.executable, "-m", "pyramid", "generate", *words, *few],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    found = SAID.search(done.stderr)
    if done.returncode or found is None:
        raise SystemExit(f"the clip could not be made: {done.stderr.strip()[-500:]}")
    return float(found[1]) * UNITS[found[2]], float(found[3]) * UNITS[found[4]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seconds", default="1,3,5,7")
    parser.add_argument("--dtype", default="bfloat16,float32")
    args = parser.parse_args()
    far = 0
    for dtype in args.dtype.split(","):
        for seconds in args.seconds.split(","):
            measured, estimated = peak(args.model, seconds, dtype)
            off = estimated / measured - 1
            far += abs(off) > NEAR
            print(f"{dtype:10}{seconds:>4} s  {measured:6.0f} MB  {estimated:6.0f} estimated  {off:+.0%}")
    return int(far > 0)


if __name__ == "__main__":
    sys.exit(main())
