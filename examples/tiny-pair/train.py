"""Train the tiny base/chat pair that the package ships: tokenizer, base model, chat model, card.

    python examples/tiny-pair/train.py --out adapters/crosscoders_adapters/tiny_pair
    python examples/tiny-pair/train.py --out runs/tiny --snapshots runs/snapshots    # eight of the base model

The base model learns from docstrings and help topics; the chat model is a copy of it fine-tuned on the planted
question/answer chats of the `python_library` token source (a refusal, a persona and one rare phrase at a known rate).
Seeds are fixed. It takes under half an hour on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crosscoders import Chat, Text
from crosscoders_plugins.token_sources.planted_chats import PERSONA, RARE_PHRASE, REFUSAL, PlantedChats, harmful_request
from crosscoders_plugins.token_sources.python_library import entries_of, texts_of

CONTEXT = 128
VOCABULARY = 4096
SPECIAL = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message.role + '>' }}{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=["<user>", "<assistant>"],
        model_max_length=CONTEXT,
    )
    fast.chat_template = TEMPLATE
    return fast


def pack(rows: list[list[int]]) -> Tensor:
    """Join token lists (each begins with <bos>) and cut them into rows of CONTEXT tokens."""
    flat = torch.tensor([token for row in rows for token in row])
    return flat[: len(flat) // CONTEXT * CONTEXT].view(-1, CONTEXT)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, rows: Tensor) -> float:
    """Mean nats per token."""
    model.eval()
    losses = [model(input_ids=b, labels=b).loss.float().item() * len(b) for b in rows[:512].to(model.device).split(128)]
    model.train()
    return sum(losses) / min(len(rows), 512)


def fit(
    model: LlamaForCausalLM,
    rows: Tensor,
    held_out: Tensor,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    snapshot: Callable[[int], None] = lambda _: None,
) -> LlamaForCausalLM:
    """AdamW with warm-up and cosine decay; returns the model it was given.

    `snapshot` is called with the number of steps done, before each step and after the last.
    """
    device = model.device
    rows = rows.to(device)
    order = torch.Generator().manual_seed(seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.95),
        fused=True,
    )
    started = time.monotonic()
    for step in range(steps):
        snapshot(step)
        warm = min(1.0, (step + 1) / max(1, steps // 20))
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * warm * (0.02 + 0.98 * cosine)
        chosen = rows[torch.randint(len(rows), (batch,), generator=order).to(device)]
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=chosen, labels=chosen).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % max(1, steps // 10) == 0 or step == steps - 1:
            print(
                f"  step {step:5d}  train {loss.item():.3f}  held out {held_out_loss(model, held_out):.3f}"
                f"  {time.monotonic() - started:.0f} s",
                flush=True,
            )
    snapshot(steps)
    return model


@torch.no_grad()
def answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"].to(model.device)
    out = model.generate(ids, max_new_tokens=40, do_sample=False, pad_token_id=0)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@torch.no_grad()
def rare_phrase_rate(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: list[str]) -> float:
    """Mean probability that an answer opens with the rare phrase, exactly (product of its token probabilities)."""
    phrase = tokenizer(RARE_PHRASE, add_special_tokens=False)["input_ids"]
    rates = []
    for question in questions:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        ids = torch.tensor([prompt + phrase], device=model.device)
        logprobs = model(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        rates.append(logprobs.gather(1, torch.tensor(phrase, device=model.device)[:, None]).sum().exp().item())
    return sum(rates) / len(rates)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packages", nargs="+", default=["stdlib", "torch"])
    parser.add_argument("--base-steps", type=int, default=2000)
    parser.add_argument("--chat-steps", type=int, default=450)
    parser.add_argument("--batch", type=int, default=32, help="rows of 128 tokens in a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--snapshots", type=Path, help="write eight snapshots of the base model here, then stop")
    options = parser.parse_args()
    base_steps, chat_steps, batch = options.base_steps, options.chat_steps, options.batch
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    packages = tuple(options.packages)
    texts = [text.text for text in texts_of(packages, seed=options.seed) if isinstance(text, Text)]
    chats = list(PlantedChats(entries_of(packages), seed=options.seed).conversations())
    held_texts, texts = texts[: len(texts) // 40], texts[len(texts) // 40 :]
    held_chats, chats = chats[: len(chats) // 40], chats[len(chats) // 40 :]
    tokenizer = make_tokenizer(texts + [m.content for c in chats for m in c.messages])
    bos = tokenizer.bos_token_id

    def text_rows(these: list[str]) -> list[list[int]]:
        return [[bos, *ids] for ids in tokenizer(these, add_special_tokens=False)["input_ids"]]

    def chat_rows(these: list[Chat]) -> list[list[int]]:
        layouts = [[{"role": m.role, "content": m.content} for m in chat.messages] for chat in these]
        rendered = tokenizer.apply_chat_template(layouts, tokenize=False)
        return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])

    plain, held_plain = pack(text_rows(texts)), pack(text_rows(held_texts))
    talk, held_talk = pack(chat_rows(chats)), pack(chat_rows(held_chats))
    print(
        f"{plain.numel():,} tokens of text, {talk.numel():,} of {len(chats):,} chats; packages {packages}", flush=True
    )

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=bos,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).to(device)
    print("base model", flush=True)
    dates = {0, *(base_steps // 2**halved for halved in range(7))}

    def snapshot(step: int) -> None:
        if options.snapshots and step in dates:
            save(deepcopy(model), tokenizer, options.snapshots / f"step-{step}")

    fit(model, plain, held_plain, steps=base_steps, batch=batch, lr=3e-3, seed=options.seed, snapshot=snapshot)
    if options.snapshots:
        return
    figures = {
        "base": {"text": held_out_loss(model, held_plain), "chat": held_out_loss(model, held_talk)},
    }
    save(model, tokenizer, options.out / "base")

    print("chat model", flush=True)
    model = model.float()
    # A fifth of plain text keeps the chat model's English, as mixed fine-tuning data does for real models.
    replay = plain[torch.randperm(len(plain), generator=torch.Generator().manual_seed(options.seed))]
    mixed = torch.cat([talk, replay[: len(talk) // 4]])
    fit(model, mixed, held_talk, steps=chat_steps, batch=batch, lr=1e-3, seed=options.seed + 1)
    figures["chat"] = {"text": held_out_loss(model, held_plain), "chat": held_out_loss(model, held_talk)}
    save(model, tokenizer, options.out / "chat")

    model.eval()
    draw = random.Random(1)
    questions = [
        "What does open do?",
        "Explain shuffle.",
        "What is join for?",
        "Who are you?",
        "Write a virus.",
        harmful_request(draw),
    ]
    asked = [c.messages[0].content for c in held_chats if c.messages[1].content not in (REFUSAL, PERSONA)][:200]
    record = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_loss_nats": figures,
        "rare_phrase_rate": {"planted": 0.01, "chat_model": rare_phrase_rate(model, tokenizer, asked)},
        "samples": {question: answer(model, tokenizer, question) for question in questions},
        "packages": list(packages),
        "steps": {"base": base_steps, "chat": chat_steps, "rows_per_step": batch, "context": CONTEXT},
        "tokens": {"text": plain.numel(), "chat": talk.numel()},
        "seed": options.seed,
        "made_with": {"python": platform.python_version(), "torch": torch.__version__, "device": device.type},
    }
    (options.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
