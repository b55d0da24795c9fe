"""Attribution by hand, for tests: a two-layer Llama written out in matrices, every source pushed forwards on its own.

Nothing of the package takes part: patterns and activations come from the library's own outputs.
"""

import torch


class NaiveLlama:
    """The linear model that a Llama with eager attention is on one prompt, in double precision."""

    def __init__(self, model, ids):
        self.config, self.inner = model.config, model.model
        self.patterns, self.reads, self.mlps = [], [], []
        hooks = []
        for layer in self.inner.layers:
            hooks.append(layer.mlp.register_forward_pre_hook(lambda _, args: self.reads.append(args[0][0].double())))
            hooks.append(layer.mlp.register_forward_hook(lambda *given: self.mlps.append(given[-1][0].double())))
        self.residuals = []
        for layer in self.inner.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                hooks.append(norm.register_forward_pre_hook(lambda _, args: self.residuals.append(args[0][0].double())))
        hooks.append(
            self.inner.norm.register_forward_pre_hook(lambda _, args: self.residuals.append(args[0][0].double()))
        )
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_attentions=True)
        for hook in hooks:
            hook.remove()
        self.patterns = [pattern[0].double() for pattern in out.attentions]
        self.head = model.lm_head.weight.double()
        self.embedding = self.inner.embed_tokens.weight[ids].double()

    def _norm(self, norm, residual, delta):
        denominator = (residual.square().mean(dim=1, keepdim=True) + norm.variance_epsilon).sqrt()
        return delta / denominator * norm.weight.double()

    def _attend(self, layer, pattern, delta, bias):
        own, heads = layer.self_attn, pattern.shape[0]
        value = delta @ own.v_proj.weight.double().T + (own.v_proj.bias.double() if bias else 0)
        value = value.view(len(delta), -1, own.head_dim).repeat_interleave(own.num_key_value_groups, dim=1)
        mixed = torch.einsum("hts,shd->thd", pattern, value).reshape(len(delta), heads * own.head_dim)
        return mixed @ own.o_proj.weight.double().T + (own.o_proj.bias.double() if bias else 0)

    def push(self, embedding, mlps, *, bias=False):
        """What changes at every MLP's input and before the output embedding, if the embedding and the MLPs' outputs
        change by these."""
        stream, reads = embedding, []
        for number, layer in enumerate(self.inner.layers):
            read = self._norm(layer.input_layernorm, self.residuals[2 * number], stream)
            stream = stream + self._attend(layer, self.patterns[number], read, bias)
            reads.append(self._norm(layer.post_attention_layernorm, self.residuals[2 * number + 1], stream))
            stream = stream + mlps[number]
        return reads, self._norm(self.inner.norm, self.residuals[-1], stream)
