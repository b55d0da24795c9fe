"""Which points of which family of transformers are right: every decoder and encoder that can be built small.

    python bench/families.py            prints a line for each family, and writes bench/results/families.json
    python bench/families.py gpt2 opt   only these

Models are made of tiny random configs, so nothing is downloaded. Of each, on two rows of different lengths that the
adapter has not seen before:

* residual: `layers.i` is what `layers.i+1.input` reads, replacing either by itself changes no logits, adding to it does
* attention, mlp: input + attention + MLP = output in each layer, to rounding; where a norm follows each sum (BERT),
  each sum is what that norm reads
* mlp_input: replacing it by itself changes no logits, adding to it does
* packed: documents of a row are read as if each were alone
* logits: (rows, positions, vocabulary), finite

"left out" is what the adapter itself does not offer, with its reason; "wrong" would be a promise that is not kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.models.auto import modeling_auto

from crosscoders import Edit, TokenBatch
from crosscoders.models.choice import keeps_documents_apart
from crosscoders.models.tokens import Tokenized
from crosscoders_adapters.transformers import TransformersAdapter

RESULTS = Path(__file__).parent / "results" / "families.json"
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "true_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers"), 3),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "d_ff"), 48),
    **dict.fromkeys(("ffn_hidden_size", "ffn_hidden", "d_inner", "moe_intermediate_size"), 48),
    **dict.fromkeys(("shared_expert_intermediate_size", "expert_ffn_hidden_size", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "block_size"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "experts_per_token", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "d_kv"), 8),
    "vocab_size": 64,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "word_embed_proj_dim": 32,
    "query_pre_attn_scalar": 8,
}
"""Sizes by the names that configs give them."""
RELAXED = ("head_dim", "num_key_value_heads", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""Sizes left as they are, one after the other, where a config or model refuses them."""
LARGEST = 30_000_000
LETTERS = 29


class Tokenizer:
    """Letters as tokens: the models' vocabularies mean nothing."""

    all_special_ids = (0, 1, 2)
    bos_token_id, eos_token_id, cls_token_id, chat_template = 1, 2, None, None

    def get_vocab(self) -> dict[str, int]:
        return {chr(97 + number): number for number in range(64)}

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [3 + ord(letter) % LETTERS for letter in text]}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(97 + number) for number in ids)


def build(family: str, *, causal: bool) -> torch.nn.Module:
    """A small random model of a family; raises what the library raises where none of the sizes suit it."""
    kind = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    config_class = type(AutoConfig.for_model(family))
    problem: Exception | None = None
    for left in range(len(RELAXED) + 1):
        sizes = {key: value for key, value in SIZES.items() if key not in RELAXED[:left]}
        try:
            config = _config(config_class, sizes, causal)
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in kind.from_config(config).parameters())
            if size > LARGEST:
                raise ValueError(f"{size:,} parameters at its smallest")
            torch.manual_seed(0)
            return kind.from_config(config).float().eval()
        except Exception as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _config(config_class: Any, sizes: dict[str, Any], causal: bool) -> Any:
    known = set(config_class().to_dict()) | set(getattr(config_class, "attribute_map", {}))
    chosen = {key: value for key, value in sizes.items() if key in known}
    if causal and "is_decoder" in known:
        chosen["is_decoder"] = True
    for name in ("text_config", "decoder", "decoder_config"):
        part = getattr(config_class(), name, None)
        if hasattr(part, "to_dict"):
            chosen[name] = _config(type(part), sizes, causal)
    return config_class(**chosen)


def rows(*lengths: int) -> TokenBatch:
    ids = torch.randint(3, 3 + LETTERS, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(3))
    attention = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    none = torch.zeros_like(attention)
    return TokenBatch(ids * attention, attention, none, none)


def judged(adapter: TransformersAdapter) -> dict[str, str]:
    """The verdict on each kind of point."""
    tokens, points = rows(9, 6), list(adapter.points())
    keep = tokens.attention
    found = {point: adapter.activations(tokens, [point])[point] for point in points}
    verdicts = {}
    layers = range(len(adapter.layers))
    for part in ("", "attention", "mlp", "mlp_input"):
        offered = [n for n in layers if (f"layers.{n}.{part}" if part else f"layers.{n}") in found]
        name = part or "residual"
        if not offered:
            reason = adapter._parts[0].reason or "replacing it by itself changes what the model gives"
            verdicts[name] = f"left out: {reason}"
            continue
        wrong = _wrong(adapter, tokens, found, keep, part, offered)
        some = "" if len(offered) == len(adapter.layers) else f" in {len(offered)} of {len(adapter.layers)} layers"
        verdicts[name] = f"wrong: {wrong}" if wrong else f"right{some}"
    return verdicts


def _wrong(adapter: Any, tokens: TokenBatch, found: Any, keep: torch.Tensor, part: str, offered: list[int]) -> str:
    for n in offered:
        point = f"layers.{n}.{part}" if part else f"layers.{n}"
        before, after = found[f"layers.{n}.input"], found[f"layers.{n}"]
        if part == "" and n + 1 < len(adapter.layers) and not _close(found[f"layers.{n + 1}.input"], after, keep):
            return f"layer {n + 1} reads something else"
        if part in ("attention", "mlp") and f"layers.{n}.attention" in found and f"layers.{n}.mlp" in found:
            middle = before + found[f"layers.{n}.attention"]
            if adapter._parts[n].normed_after:
                if not any(_close(each, middle, keep) for each in _read_by_norms(adapter, tokens, n)):
                    return f"in layer {n} no norm reads input + attention"
            elif not _close(middle + found[f"layers.{n}.mlp"], after, keep):
                return f"in layer {n} input + attention + MLP is not the output"
        if not adapter.causal:
            continue
        plain = adapter.logits(tokens)
        if not _close(adapter.logits(tokens, [Edit.replace(point, found[point])]), plain, keep):
            return f"replacing {point} by itself changes the logits"
        shift = torch.linspace(-2.0, 2.0, adapter.width(point))
        if _close(adapter.logits(tokens, [Edit.add(point, shift)]), plain, keep, 1e-6):
            return f"adding to {point} changes nothing"
    return ""


def _read_by_norms(adapter: Any, tokens: TokenBatch, n: int) -> list[torch.Tensor]:
    read: list[torch.Tensor] = []
    norms = [module for module in adapter.layers[n].modules() if "norm" in type(module).__name__.lower()]
    hooks = [module.register_forward_pre_hook(lambda _, args: read.append(args[0])) for module in norms]
    adapter.activations(tokens, [f"layers.{len(adapter.layers) - 1}"])
    for hook in hooks:
        hook.remove()
    return [each for each in read if each.shape[:2] == tokens.ids.shape]


def _close(left: torch.Tensor, right: torch.Tensor, keep: torch.Tensor, tolerance: float = 1e-4) -> bool:
    left, right = left[keep].double(), right[keep].double()
    return bool((left - right).norm() <= tolerance * right.norm().clamp_min(1e-9))


def of_family(family: str, *, causal: bool) -> dict[str, Any]:
    """What there is to say of one family."""
    try:
        model = build(family, causal=causal)
    except Exception as error:
        return {"built": f"no: {_line(error)}"}
    try:
        adapter = TransformersAdapter.wrap(model, Tokenizer(), name=family)
        verdicts = judged(adapter)
        if adapter.causal:
            logits = adapter.logits(rows(9, 6))
            right = logits.shape[:2] == (2, 9) and bool(torch.isfinite(logits[rows(9, 6).attention]).all())
            verdicts["logits"] = "right" if right else f"wrong: {tuple(logits.shape)}"
        flags = [False] * 3
        documents = [Tokenized(list(range(5, 8)), flags, flags)] * 2
        last = list(adapter.points())[-1]
        verdicts["packed"] = "right" if keeps_documents_apart(adapter, last, documents) else "one document in a row"
    except Exception as error:
        return {"built": "yes", "refused": _line(error)}
    return {"built": "yes", **verdicts}


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*")
    chosen = parser.parse_args().families
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    kinds = (
        ("decoder", modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        ("encoder", modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    )
    found: dict[str, Any] = {}
    for kind, families in kinds:
        for family in families:
            if chosen and family not in chosen:
                continue
            began = time.perf_counter()
            verdict = of_family(family, causal=kind == "decoder")
            found[f"{kind} {family}"] = verdict
            print(f"{kind} {family}: {verdict} ({time.perf_counter() - began:.1f} s)", flush=True)
    if not chosen:
        RESULTS.write_text(json.dumps({"transformers": transformers.__version__, "families": found}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
