"""CPU time and peak memory of a function, and a line of JSON about it; needs nothing but Python."""

import json
import resource
import time


def measured(function):
    """What it returns, and the CPU seconds of this process and its threads."""
    begin = time.process_time()
    found = function()
    return found, time.process_time() - begin


def report(seconds, **facts):
    """The line that the bench reads."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps({"cpu_seconds": seconds, "peak_mb": peak, **facts}))
