"""Train, share, load and analyse sparse crosscoders, through plugins.

The public names are listed in `__init__.pyi` and imported on first use, so that `import crosscoders` (and listing
plugins) does not import torch.
"""

import warnings
from typing import Any

import lazy_loader

# A notebook without ipywidgets gets plain progress bars; the libraries that we load warn of that at import.
warnings.filterwarnings("ignore", message="IProgress not found")

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("crosscoders")
    return _load(name)
