"""The same graph by circuit-tracer, in its environment: `circuit_tracer_graph.py FOLDER TOKENS _ BATCH REPEATS`."""

import sys

import torch
from circuit_tracer import ReplacementModel, attribute
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from timed import measured, report


def main() -> None:
    folder, tokens, _, batch, repeats = sys.argv[1], *map(int, sys.argv[2:6])
    cpu = torch.device("cpu")
    clt = load_clt(
        f"{folder}/clt",
        "mlp.hook_in",
        "mlp.hook_out",
        scan="bench",
        device=cpu,
        dtype=torch.float32,
        lazy_decoder=False,
    )
    model = ReplacementModel.from_pretrained_and_transcoders(
        f"{folder}/model", clt, backend="nnsight", device=cpu, dtype=torch.float32
    )
    prompt = torch.tensor([1, *(3 + (7 * i) % 120 for i in range(tokens - 1))])

    def graph():
        return attribute(prompt, model, batch_size=batch)

    found, *cost = measured(graph, repeats)
    report(*cost, active=len(found.active_features), visited=len(found.selected_features))


if __name__ == "__main__":
    main()
