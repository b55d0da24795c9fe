"""What everything tabular has in common: pandas frames on demand, a short `repr`, a table in notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    import pandas


def data_frame(columns: Mapping[str, Sequence[Any]]) -> pandas.DataFrame:
    """A pandas frame of named columns of equal length; `ConfigError` where pandas is missing."""
    try:
        import pandas
    except ImportError as error:
        raise ConfigError("to_pandas needs the extra crosscoders[pandas]") from error
    return pandas.DataFrame(dict(columns))
