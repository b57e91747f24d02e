"""Where results are fetched: addresses that name a job and show no folder.

    address_of(job), address_of_growing(live), address_of_export(job, path)

`pyramid.ui.security.guard` finds the files behind them.
"""

import os
import tempfile
from pathlib import Path
from urllib.parse import quote

FILE = "/file="  # what the address of a file begins with, in Gradio's interface


def address_of(job) -> str:
    """Where a job's result is fetched, below the page's own address; "" without one. It shows no folder."""
    return f"gradio_api{FILE}results/{job.id}/{quote(job.path.name)}" if job.path else ""


def address_of_growing(live) -> str:
    """Where the clip of a run's finished units is fetched, while it runs."""
    return f"gradio_api{FILE}live/{live.job.id}/{quote(live.growing.name)}"


def address_of_stream(job) -> str:
    """Where the pieces of a clip without an end are fetched, while it runs: their names follow."""
    return f"gradio_api{FILE}live/{job.id}/"


def address_of_export(job, path: Path) -> str:
    """Where a file that was exported from a job's result is fetched."""
    return f"gradio_api{FILE}{quote(f'results/{job.id}/exports/{path.name}')}"


def uploads_folder() -> Path:
    """Where Gradio keeps uploads, as its documentation has it: GRADIO_TEMP_DIR, or `gradio` in the system's
    folder for temporary files.
    """
    folder = os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio"
    return Path(folder).resolve()
