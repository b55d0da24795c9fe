"""Model adapter `recorded` and token source `recorded_tokens`: hidden states that an engine for inference has written.

Such an engine runs a model fast and gives no logits to edit: activations and tokens are all there is. vLLM, asked to
extract hidden states, writes a safetensors file for each request, with `token_ids` (T,) and `hidden_states` (T, L, D).
Its layer id n is the residual stream that layer n reads, so what layer n − 1 gives.
"""

from pathlib import Path

import torch
from attrs import field, frozen
from attrs.validators import min_len
from safetensors import safe_open

from crosscoders import ConfigError, SiteError, TokenIds


@frozen(kw_only=True)
class RecordedConfig:
    folder: Path
    """Folder of the files that the engine wrote, one for each request."""
    model: str
    """What the engine ran: the record of a crosscoder has it as the model."""
    layers: tuple[int, ...] = field(validator=min_len(1))
    """Layer ids that the engine was asked for, in its order: `[7, 14, 21]`."""


@frozen(kw_only=True)
class RecordedTokensConfig:
    folder: Path
    """Folder of the files that the engine wrote, one for each request."""


def files_of(folder):
    """The files of a folder in the order of their names; `ConfigError` if there is none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"there is no file *.safetensors in {folder}; let the engine write there first")
    return files


def ids_of(path):
    with safe_open(path, "pt") as file:
        return tuple(file.get_tensor("token_ids").tolist())


class Recorded:
    def __init__(self, options):
        self.options, self.device = options, torch.device("cpu")
        self.places = {f"layers.{layer - 1}": place for place, layer in enumerate(options.layers)}
        self.files = {ids_of(path): path for path in files_of(options.folder)}
        with safe_open(next(iter(self.files.values())), "pt") as file:
            _, layers, self.num_columns = file.get_slice("hidden_states").get_shape()
        if layers != len(options.layers):
            raise ConfigError(f"the files have {layers} layers each, and `layers` names {len(options.layers)}")

    def describe(self):
        return {"adapter": "recorded", "model": self.options.model, "revision": ""}

    def points(self):
        return list(self.places)

    def width(self, point):
        if point not in self.places:
            raise SiteError(f"'{point}' was not recorded; there are {', '.join(self.places)}")
        return self.num_columns

    def to(self, device):
        self.device = device
        return self

    def activations(self, tokens, points):
        widths = {point: self.width(point) for point in points}
        found = {point: torch.zeros(*tokens.ids.shape, width) for point, width in widths.items()}
        for row, there_T in enumerate(tokens.attention.cpu()):
            document_T = tokens.document[row].cpu() if tokens.document is not None else torch.zeros_like(there_T)
            # A row may hold several documents, each of which was a request of its own.
            for number in document_T[there_T].unique():
                here_T = there_T & (document_T == number)
                states_TLD = self.states(tuple(tokens.ids[row].cpu()[here_T].tolist()))
                for point in points:
                    found[point][row, here_T] = states_TLD[:, self.places[point]].float()
        return {point: activation.to(self.device) for point, activation in found.items()}

    def states(self, ids):
        if ids not in self.files:
            raise ConfigError(
                f"no request of these {len(ids)} tokens was recorded: {ids[:8]}...; take the tokens of the files "
                "(the source 'recorded_tokens') and a context_length that holds the longest of them"
            )
        with safe_open(self.files[ids], "pt") as file:
            return file.get_tensor("hidden_states")


class RecordedTokens:
    def __init__(self, options):
        self.files = files_of(options.folder)

    def documents(self, *, skip=0):
        for path in self.files[skip:]:
            yield TokenIds(ids_of(path))
