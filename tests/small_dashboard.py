"""A finished dashboard of the shared study, written once for all tests of a process; tests copy it to change it."""

import tempfile
from functools import cache
from pathlib import Path

from crosscoders.explorer.dashboard import write_dashboard
from study_of_texts import shared_study

_folder = tempfile.TemporaryDirectory(prefix="crosscoders-dashboard-")


@cache
def small_dashboard():
    return write_dashboard(shared_study(), Path(_folder.name) / "dashboard", title="A small one").parent
