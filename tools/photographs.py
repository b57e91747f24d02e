"""Fetch the photographs that the embedded model's training names: Debian's packages, unpacked to a folder.

    python tools/photographs.py photographs

Nothing is installed: apt-get downloads the packages (on Debian and its kin), dpkg unpacks them. A recipe's
`[vae] photo_folders` then names the folder. lomiri-wallpapers-20.04 is not among them: it is kept to measure
on. Whose the pictures are, and their licenses, is in pyramid/training/photos.py.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pyramid.training.photos import DEBIAN, photographs


def main() -> int:
    """Fetch what is not there yet, and say how many photographs there are to train on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to unpack them")
    folder = parser.parse_args().folder
    for package in DEBIAN:
        fetch(package, folder)
    print(f"{len(photographs('train', extra=[folder]))} photographs to train on")
    return 0


def fetch(package: str, folder: Path) -> None:
    """Download and unpack one of Debian's packages, where its notes are not there from before."""
    if (folder / "usr/share/doc" / package).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloaded:
        subprocess.run(["apt-get", "download", package], cwd=downloaded, check=True)
        (archive,) = Path(downloaded).glob("*.deb")
        subprocess.run(["dpkg", "-x", archive, folder], check=True)


if __name__ == "__main__":
    sys.exit(main())
