"""Control groups of the kernel, which containers limit memory and processors by: where they are.

for folder, version1 in control_groups("memory"): ...
"""

from pathlib import Path


def control_groups(
    controller: str, root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")
):
    """(folder, whether of version 1) of each control group around this process that may limit `controller`.
    ValueError where the kernel says it in no form that is known.
    """
    try:
        groups = [line.split(":", 2) for line in of.read_text().splitlines()]
    except OSError:  # not Linux
        return
    if odd := next((":".join(group) for group in groups if len(group) != 3), None):
        raise ValueError(f"{of} says {odd[:80]!r}, where a number, controllers and a path are expected")
    for _, controllers, path in groups:
        version1 = controller in controllers.split(",")
        if controllers and not version1:
            continue
        base, relative = root / controller if version1 else root, Path(path.lstrip("/"))
        for part in (relative, *relative.parents):
            yield base / part, version1
