"""Explain a behaviour that the shipped chat model was taught: it says that it is Pip.

    crosscoders train examples/variants/tiny-pair/strictly-causal.toml --output runs/clt
    python examples/circuits/persona.py runs/clt/crosscoder

Makes the graph of the token after "Who are you?" "I am", then ablates its strongest latents, and as many others, in the
running model.
"""

from __future__ import annotations

import random
import sys

from crosscoders import (
    Crosscoder,
    Intervention,
    Text,
    TokenIds,
    attribution_graph,
    graph_fidelity,
    intervene,
    replacement_model,
    save_graph,
)


def main() -> None:
    model = replacement_model(Crosscoder.from_pretrained(sys.argv[1]))
    adapter = model.adapter
    begun = [i for i, bos in zip(*_ids(adapter.tokenize(Text("I am")))) if not bos]
    prompt = TokenIds((*adapter.prompt("Who are you?"), *begun))
    graph = attribution_graph(model, prompt)
    print(graph, f"\nreplacement score {graph.replacement_score:.3f}")
    for row in graph.top(5).rows:
        print("  layer {1}, latent {4}, at {2} {3!r}: influence {6:.3f}".format(*row))
    checked = graph_fidelity(model, graph, top=20)
    print(checked.table().title)

    def probability(nodes: list[int]) -> float:
        latents = [graph.latent_n3[node].tolist() for node in nodes]
        changes = [Intervention(layer, index, "ablate", position) for layer, position, index in latents]
        after = intervene(model, prompt, changes, hold_attention=False)
        return float(after.logits_TV[-1].softmax(dim=0)[graph.targets[0].token])

    strongest = [row[0] for row in graph.top(8).rows]
    others = random.Random(0).sample([n for n in range(graph.num_latents) if n not in strongest], 8)
    name = graph.targets[0].label
    print(f"probability of {name!r}: {probability([]):.3f}")
    print(f"without the 8 latents of most influence: {probability(strongest):.3f}")
    print(f"without 8 others of {graph.num_latents}: {probability(others):.3f}")
    for path in save_graph(graph, "persona", checked=checked, fidelity=model.fidelity(prompt)):
        print(f"wrote {path}")


def _ids(tokens):
    return tokens.ids, tokens.bos


if __name__ == "__main__":
    main()
