"""Small random models of transformers, for tests of what takes them."""

import torch
import transformers

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def made(model_class, config):
    """A model whose biases and norms are not 0 and 1, which would hide mistakes."""
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def llama(layers=2):
    config = transformers.LlamaConfig(**{**SIZES, "num_hidden_layers": layers}, num_key_value_heads=1, head_dim=8)
    return made(transformers.LlamaForCausalLM, config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return made(transformers.GPT2LMHeadModel, config)


def mixtral():
    config = transformers.MixtralConfig(
        **SIZES, num_key_value_heads=1, head_dim=8, num_local_experts=4, num_experts_per_tok=2
    )
    return made(transformers.MixtralForCausalLM, config)


def bert():
    return made(transformers.BertModel, transformers.BertConfig(**SIZES))


def mamba():
    config = transformers.MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=2)
    return made(transformers.MambaForCausalLM, config)
