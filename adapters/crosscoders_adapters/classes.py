"""As which class of the transformers library a model's files are loaded: what of it reads text, and predicts it."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from torch import nn

from crosscoders import ConfigError

from .foreign import library


@frozen
class ModelClass:
    """An automatic class of the library."""

    auto: Any
    causal: bool
    """Whether it gives next-token logits."""
    wanted: str = ""
    """What of the loaded model is wanted, where not all of it is: `encoder`, or `text_model`."""

    @classmethod
    def of(cls, config: Any) -> ModelClass:
        """A decoder as a whole; of an encoder with a decoder, the encoder; of towers of text and images, that of
        text."""
        library_ = library()
        if is_decoder_only(config):
            return cls(library_.AutoModelForCausalLM, causal=True)
        tables = library_.models.auto.modeling_auto
        # Files of an encoder alone have no weights of a decoder, so that the whole could not be loaded.
        if tables.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "").endswith("EncoderModel"):
            return cls(library_.AutoModelForTextEncoding, causal=False)
        if getattr(config, "is_encoder_decoder", False):
            headed = set(config.architectures or []) & set(tables.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values())
            auto = library_.AutoModelForSeq2SeqLM if headed else library_.AutoModel
            return cls(auto, causal=False, wanted="encoder")
        if config.model_type in tables.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            return cls(library_.AutoModelForImageTextToText, causal=True)
        if config.model_type in tables.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES:
            return cls(library_.AutoModel, causal=False, wanted="text_model")
        return cls(library_.AutoModel, causal=False)

    def part(self, model: nn.Module) -> nn.Module:
        """What is wanted of the model that was loaded; `ConfigError` where it has no such part."""
        if not self.wanted:
            return model
        whole: Any = model
        found = whole.get_encoder() if self.wanted == "encoder" else getattr(whole, self.wanted, None)
        # A model in its own right: it has to say where it is and what it is called with.
        if not isinstance(found, library().PreTrainedModel):
            raise ConfigError(f"found no part of {type(model).__name__} that reads text alone")
        part: nn.Module = found
        return part


def is_decoder_only(config: Any) -> bool:
    """Whether the model is a decoder. The saved class name decides first, because encoders such as BERT are in the
    library's table of causal models too."""
    transformers = library()
    names = " ".join(config.architectures or [])
    if "CausalLM" in names or "LMHead" in names:
        return True
    if getattr(config, "is_encoder_decoder", False):
        return False
    masked = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    return type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and not masked
