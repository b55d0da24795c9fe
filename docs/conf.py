"""Sphinx: `make docs` builds with warnings as errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "crosscoders"
author = "the crosscoders developers"
copyright = author  # noqa: A001 - the name that Sphinx reads
smartquotes = False  # types and defaults are quoted as TOML has them
# No napoleon: docstrings have no Google-style sections, and it would read "`bf16`: ..." in the docstring of a field as
# the type of the field.
extensions = ["myst_parser", "sphinx.ext.autodoc", "option_tables"]
default_role = "code"  # docstrings use single backticks for code, as Markdown does
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "crosscoders"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
nitpicky = False
suppress_warnings = ["autodoc.mocked_object"]
