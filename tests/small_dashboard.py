"""A finished dashboard of the shared study, written once for all tests of a process; tests copy it to change it."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from crosscoders.explorer.dashboard import write_dashboard
from study_of_texts import shared_study


@cache
def small_dashboard():
    folder = tempfile.mkdtemp(prefix="crosscoders-dashboard-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_dashboard(shared_study(), Path(folder) / "dashboard", title="A small one").parent
