"""Jobs of the page: their database and queue, the device thread, and the recorder of a run.

It may use generate and what is below it; neither a page nor a command line is known here.
"""
