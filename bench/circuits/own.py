"""One graph by this package, in a process of its own: `python own.py FOLDER TOKENS MAX_NODES BATCH REPEATS`."""

import sys

from timed import measured, report

from crosscoders import Crosscoder, ModelChoice, ReplacementModel, TokenIds, attribution_graph


def main() -> None:
    folder, tokens, max_nodes, batch, repeats = sys.argv[1], *map(int, sys.argv[2:6])
    adapter = ModelChoice.of("transformers", model=f"{folder}/model", attention="eager").build()
    layers = range(len(adapter.layers))
    sites = [f"m/layers.{i}.{part}" for part in ("mlp_input", "mlp") for i in layers]
    model = ReplacementModel(Crosscoder.from_pretrained(f"{folder}/clt", sites=sites), adapter)
    prompt = TokenIds((1, *(3 + (7 * i) % 120 for i in range(tokens - 1))))

    def graph():
        return attribution_graph(
            model, prompt, max_nodes=max_nodes or None, batch_size=batch, progress=False, skip_positions=[0]
        )

    found, *cost = measured(graph, repeats)
    report(*cost, active=found.num_active, visited=found.num_latents, edges=found.edges_MM.nnz, gap=found.gap())


if __name__ == "__main__":
    main()
