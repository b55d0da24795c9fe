"""What pages for a browser have in common: colours, tokens, preact with htm, and data that stands in scripts."""

from .assets import asset, digest
from .scripts import pack_script, put_script, put_value, script_json, unpacked
from .text import visible, word

__all__ = ["asset", "digest", "pack_script", "put_script", "put_value", "script_json", "unpacked", "visible", "word"]
