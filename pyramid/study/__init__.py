"""A blind preference study: videos without names, raters by link, and what their answers say.

`kept.py` is the study on the disk, `clips.py` its nameless copies of videos, `statistics.py` the figures.
"""

from pathlib import Path

FOLDER = Path("outputs") / "study"  # of the study that is kept, where no other folder is named
