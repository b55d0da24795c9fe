"""CPU time and memory of a function, and a line of JSON about it; needs nothing but Python."""

import json
import re
import resource
import time
from pathlib import Path


def measured(function, repeats):
    """What it returns, the least CPU seconds of some runs (this process and its threads), and resident MB before.

    A first run, which makes whatever is made once, is not counted.
    """
    before = resident()
    function()
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        found = function()
        seconds.append(time.process_time() - begin)
    return found, min(seconds), before


def resident():
    """MB of memory of this process at the moment."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def report(seconds, before, **facts):
    """The line that the bench reads."""
    # The kernel's other number of it, `ru_maxrss`, begins at the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    print("RESULT " + json.dumps({"cpu_seconds": seconds, "loaded_mb": before, "peak_mb": peak, **facts}))
