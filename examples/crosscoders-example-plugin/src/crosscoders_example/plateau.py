"""Observer `plateau`: logs how far a run is ahead of its earlier self, and ends it where it no longer improves."""

from attrs import field, frozen
from attrs.validators import ge

from crosscoders import Observer


@frozen(kw_only=True)
class PlateauConfig:
    window: int = field(default=50, validator=ge(1))
    """Number of steps whose mean explained variance is compared with that of the same number before."""
    least: float = 1e-3
    """The least gain that is worth going on for."""


class Plateau(Observer):
    def __init__(self, options):
        self.options = options
        self.values = []

    def step_end(self, run, report):
        self.values.append(min(report.explained_variance.values()))
        window = self.options.window
        if len(self.values) % window or len(self.values) < 2 * window:
            return
        recent, before = self.values[-window:], self.values[-2 * window : -window]
        gain = (sum(recent) - sum(before)) / window
        run.log({"plateau/gain": gain})
        if gain < self.options.least:
            run.stop(f"over {window} steps the worst site gained only {gain:.4f}")
