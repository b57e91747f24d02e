"""One command over several files: what cannot be done with one of them is told, and the others go on.

each(args.files, lambda file: finish(file, Finish(2)))    # prints the paths; returns the exit code
alone(args.files, "--output", args.output)                 # ValueError for what only one file can have
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pyramid.media.files import of_file


def each(files: Sequence[Path], make: Callable[[Path], Path]) -> int:
    """Print the path of what is made of each file, as soon as it is there. 1 where one of several could not
    be used; ValueError where the only one cannot, or is no file.
    """
    failed = False
    for file in files:
        try:
            if not file.is_file():
                raise ValueError(f"{str(file)!r} is not a file")
            print(make(file), flush=True)
        except ValueError as error:
            if len(files) == 1:
                raise
            print(f"error: {of_file(file.name, str(error))}", file=sys.stderr, flush=True)
            failed = True
    return 1 if failed else 0


def alone(files: Sequence[Path], flag: str, value: object) -> None:
    """ValueError for several files with a flag that says something of one."""
    if len(files) > 1 and value is not None:
        raise ValueError(f"{flag} with {len(files)} files, which is of one: name one file")
