"""app.py, whose steps wait as long as a file `slowly` lies in the folder that it was started in: what runs
then is still at work when a test has done what it wants, on a busy machine too, and takes no processor.
"""

import time
from pathlib import Path

import app
from pyramid.generate.sampler import Crossing

WAIT = 0.05  # seconds
SLOWLY = Path("slowly")
step = Crossing.step


def waiting(crossing: Crossing, *inputs):
    """A step, later."""
    if SLOWLY.exists():
        time.sleep(WAIT)
    return step(crossing, *inputs)


if __name__ == "__main__":
    Crossing.step = waiting
    app.leave(app.main())
