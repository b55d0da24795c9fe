"""What pages for a browser have in common: colours, tokens, preact with htm, and data that stands in scripts."""

from .assets import asset, digest
from .scripts import pack_script, put_script, script_json

__all__ = ["asset", "digest", "pack_script", "put_script", "script_json"]
