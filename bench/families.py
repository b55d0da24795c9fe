"""Which points of which family of transformers are right: every decoder and encoder that can be built small.

    python bench/families.py            prints a line for each family, and writes bench/results/families.json and the
                                        table of docs/reference/models.md
    python bench/families.py gpt2 opt   only these anew

Models are made of tiny random configs, so nothing is downloaded. Of each, on two rows of different lengths that the
adapter has not seen before:

* residual: `layers.i` is what `layers.i+1.input` reads, replacing either by itself changes no logits, adding to it does
* attention, mlp: input + attention + MLP = output in each layer, to rounding; where a norm follows each sum (BERT),
  each sum is what that norm reads
* mlp_input: replacing it by itself changes no logits, adding to it does
* all points: a row has the activations that it has alone, without padding
* packed: documents of a row are read as if each were alone
* logits: (rows, positions, vocabulary), finite

"left out" is what the adapter itself does not offer, with its reason; "wrong" would be a promise that is not kept.
"""

from __future__ import annotations

import argparse
import inspect
import json
import signal
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
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "models.md"
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
    "rotary_dim": 4,
    "prompt_length": 4,
    "moe_layer_freq": 1,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "n_shared_experts": 1,
    **dict.fromkeys(("n_input_layers", "n_recurrent_layers", "n_output_layers"), 1),
    "num_shared_experts": 1,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 64,
}
"""Sizes by the names that configs give them."""
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"head_dim": None},
    {"num_key_value_heads": 4},
    {"head_dim": None, "num_key_value_heads": 4},
    {"head_dim": 16, "num_key_value_heads": 4},
    {"head_dim": None, "num_key_value_heads": None},
    {"num_hidden_layers": 4},
    {"num_hidden_layers": None, "n_layer": None},
    {"intermediate_size": None},
    {"num_attention_heads": None, "num_key_value_heads": None, "head_dim": None},
    {"max_position_embeddings": None},
    {"num_layers": None, "num_hidden_layers": None},
    {"qk_rope_head_dim": None, "qk_nope_head_dim": None, "v_head_dim": None},
)
"""Other sizes, tried in turn where a config or model refuses the usual ones; None leaves the family's own."""
PARTS = ("text_config", "decoder", "decoder_config", "attn_config", "ffn_config", "patcher_config", "encoder_config")
"""Configs within configs."""
LIMIT = 90
"""Seconds of the processor for one family: other work on the machine does not shorten them."""
LARGEST = 100_000_000
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
    """A small random model of a family that runs; raises what the library raises where none of the sizes suit it."""
    kind = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    config_class = type(AutoConfig.for_model(family))
    problems: list[Exception] = []
    for variant in VARIANTS:
        sizes = {key: value for key, value in {**SIZES, **variant}.items() if value is not None}
        try:
            config = _config(config_class, sizes, causal)
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in kind.from_config(config).parameters())
            if size > LARGEST:
                raise ValueError(f"{size:,} parameters at its smallest")
            torch.manual_seed(0)
            model = kind.from_config(config).float().eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    # Biases and norms start at 0 and 1, which would hide mistakes.
                    parameter += 0.02 * torch.randn_like(parameter)
            keywords = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
            with torch.no_grad():
                model(input_ids=rows(9).ids, **keywords)
            return model
        except Exception as error:
            problems.append(error)
    raise problems[0]


def _config(config_class: Any, sizes: dict[str, Any], causal: bool) -> Any:
    defaults = config_class()
    known = set(defaults.to_dict()) | set(getattr(config_class, "attribute_map", {}))
    chosen = {key: value for key, value in sizes.items() if key in known}
    if causal and "is_decoder" in known:
        chosen["is_decoder"] = True
    for name in PARTS:
        part = getattr(defaults, name, None)
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
    verdicts, reads_padding = {}, _reads_padding(adapter, tokens)
    layers = range(len(adapter.layers))
    for part in ("", "attention", "mlp", "mlp_input"):
        offered = [n for n in layers if (f"layers.{n}.{part}" if part else f"layers.{n}") in found]
        name = part or "residual"
        if not offered:
            reason = adapter._parts[0].reason or "replacing it by itself changes what the model gives"
            verdicts[name] = f"left out: {reason}"
            continue
        wrong = _wrong(adapter, tokens, found, keep, part, offered)
        if not wrong and (changed := _changed_by_others(adapter, tokens, found, part, offered)):
            verdicts[name] = f"{'padding' if reads_padding else 'wrong'}: {changed}"
            continue
        some = "" if len(offered) == len(adapter.layers) else f" in {len(offered)} of {len(adapter.layers)} layers"
        verdicts[name] = f"wrong: {wrong}" if wrong else f"right{some}"
    return verdicts


def _wrong(adapter: Any, tokens: TokenBatch, found: Any, keep: torch.Tensor, part: str, offered: list[int]) -> str:
    for n in offered:
        point = f"layers.{n}.{part}" if part else f"layers.{n}"
        before, after = found[f"layers.{n}.input"], found[f"layers.{n}"]
        read = found.get(f"layers.{n + 1}.input")
        if part == "" and read is not None and not _close(read, after, keep):
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


def _alone(tokens: TokenBatch) -> TokenBatch:
    """The second row without its padding."""
    length = int(tokens.attention[1].sum())
    return tokens.sequences(1, 2).mapped(lambda tensor: tensor[:, :length])


@torch.no_grad()
def _reads_padding(adapter: Any, tokens: TokenBatch) -> bool:
    """Whether the model itself, without us, gives something else for a row with padding."""
    outputs = []
    # A cache of states alone does not tell the library's masks how long it is.
    keywords = {"use_cache": False} if "use_cache" in inspect.signature(adapter.model.forward).parameters else {}
    for each in (tokens, _alone(tokens)):
        given = adapter.model(input_ids=each.ids, attention_mask=each.attention.long(), **keywords)[0]
        outputs.append(given[-1:, : int(tokens.attention[1].sum())])
    return not _close(outputs[0], outputs[1], _alone(tokens).attention, 1e-3)


def _changed_by_others(adapter: Any, tokens: TokenBatch, found: Any, part: str, offered: list[int]) -> str:
    """Whether a row gives something else among others, longer ones, than alone."""
    alone = _alone(tokens)
    length = alone.ids.shape[1]
    for n in offered:
        point = f"layers.{n}.{part}" if part else f"layers.{n}"
        own = adapter.activations(alone, [point])[point]
        if not _close(found[point][1:2, :length], own, alone.attention, 1e-3):
            return f"{point} of a row depends on the rows beside it or on padding"
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
        if points := list(adapter.points()):
            apart = keeps_documents_apart(adapter, points[-1], documents)
            verdicts["packed"] = "right" if apart else "one document in a row"
    except Exception as error:
        return {"built": "yes", "refused": _line(error)}
    return {"built": "yes", **verdicts}


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class GaveUp(BaseException):
    """A family takes too long; not an error of its own, so that no handler of those takes it."""


def within(seconds: int, family: str, *, causal: bool) -> dict[str, Any]:
    """`of_family`, given up after some time: some families have loops of Python where no kernel for GPUs can run."""

    def give_up(number: int, frame: Any) -> None:
        raise GaveUp(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return of_family(family, causal=causal)
    except GaveUp as error:
        return {"built": f"no: {error}"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def recorded() -> dict[str, Any]:
    """The verdicts that are recorded of this version of transformers."""
    if not RESULTS.exists():
        return {}
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    return dict(results["families"]) if results["transformers"] == transformers.__version__ else {}


SIGNS = ("residual", "attention", "mlp", "mlp_input", "logits", "packed")


def _sign(verdict: str | None) -> str:
    if verdict is None:
        return ""
    if verdict.startswith("right in "):
        _, _, some, _, all_, _ = verdict.split()
        return f"✓ {some}/{all_}"
    return {"right": "✓", "one": "1", "left": "–", "padding:": "p"}.get(verdict.split()[0], "✗")


def page_table(results: dict[str, Any]) -> str:
    """The part of the documentation's page that this script writes."""
    lines = [f"With transformers {results['transformers']}:"]
    for kind, what in (("decoder", "Decoders"), ("encoder", "Encoders")):
        of_kind = {name.split()[1]: v for name, v in results["families"].items() if name.split()[0] == kind}
        judged_ = {family: verdict for family, verdict in of_kind.items() if "residual" in verdict}
        lines += ["", f"## {what}", ""]
        titles = ("family", "residual", "attention", "MLP", "MLP input", "logits", "packed rows")
        lines += [f"| {' | '.join(titles)} |", "|---|" + "---|" * len(SIGNS)]
        lines += [
            f"| {family} | {' | '.join(_sign(verdict.get(name)) for name in SIGNS)} |"
            for family, verdict in judged_.items()
        ]
        refused = {family: verdict["refused"] for family, verdict in of_kind.items() if "refused" in verdict}
        if refused:
            lines += ["", "Refused:", ""]
            lines += [f"- {family}: {_told(reason)}" for family, reason in refused.items()]
        unbuilt = [family for family, verdict in of_kind.items() if verdict["built"] != "yes"]
        if unbuilt:
            lines += ["", f"Not judged, because no small one could be built here or ran in time: {', '.join(unbuilt)}."]
    return "\n".join(lines) + "\n"


def _told(reason: str) -> str:
    return reason.partition(": ")[2].replace("|", "/").replace("<", "&lt;")


def write_page() -> None:
    """Put the table of the recorded results into the page."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- table -->\n")
    table = page_table(json.loads(RESULTS.read_text(encoding="utf-8")))
    PAGE.write_text(f"{head}<!-- table -->\n{table}<!-- end -->{rest.partition('<!-- end -->')[2]}", encoding="utf-8")


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
    found = recorded() if chosen else {}
    for kind, families in kinds:
        for family in families:
            if chosen and family not in chosen:
                continue
            began = time.perf_counter()
            verdict = within(LIMIT, family, causal=kind == "decoder")
            found[f"{kind} {family}"] = verdict
            print(f"{kind} {family}: {verdict} ({time.perf_counter() - began:.1f} s)", flush=True)
            results = {"transformers": transformers.__version__, "families": found}
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_page()


if __name__ == "__main__":
    sys.exit(main())
