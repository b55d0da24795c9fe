"""Time and memory of large runs on one and more GPUs, by arithmetic: prints the tables of docs/explanation/scale.md.

Rates are of one H100: 800 TFLOP/s in bf16 and 3.0 TB/s as measured for large products and copies, half of the first
for whole language models; NVLink 450 GB/s each way within eight, 50 GB/s between machines.
"""

from crosscoders import LatentGroup, Site, Wiring
from crosscoders.training import step_memory

PRODUCT, MODEL, MEMORY = 800e12, 400e12, 3.0e12
LINK, NETWORK = 450e9, 50e9
RUNS = {
    # name: (width, latents, k, parameters of one model up to the middle layer without embeddings, bytes of one model)
    "Gemma-2-2B, layer 13 of 26, base and chat": (2304, 73_728, 100, 1.01e9, 5.2e9),
    "Llama-3.1-8B, layer 16 of 32, base and chat": (4096, 131_072, 100, 3.49e9, 16.1e9),
}
GPUS = [(1, 1), (8, 8), (8, 1), (64, 8)]
BATCH = 4096
TOKENS = 200e6


def row(width, latents, k, parameters, model_bytes, gpus, shards):
    """Milliseconds of the parts of a step, gigabytes, hours for all tokens."""
    names = ["base/x", "chat/x"]
    wiring = Wiring(sites=[Site(n, width) for n in names], groups=[LatentGroup("all", latents, names, names)])
    mine, replicas = wiring.shard(shards), gpus // shards
    columns, weights = wiring.layout.width, mine.num_weights
    product = 2 * BATCH * columns * mine.num_latents / PRODUCT
    gathers = (4 * BATCH * k / shards * columns * 4 + 4 * weights) / MEMORY
    adam = 28 * weights / MEMORY
    shared = 2 * 2 * BATCH * columns * 4 / LINK if shards > 1 else 0.0
    between = NETWORK if gpus > 8 else LINK
    averaged = 2 * 4 * weights / between if replicas > 1 else 0.0
    # Every process harvests its share of all replicas' tokens.
    harvest = 2 * parameters * 2 * BATCH * replicas / gpus / MODEL
    step = product + gathers + adam + shared + averaged
    memory = step_memory(mine, batch_size=BATCH, active=k / shards, device="cuda")
    return {
        "GPUs": gpus,
        "shards × replicas": f"{shards} × {replicas}",
        "harvest": f"{1e3 * harvest:.1f}",
        "encoder": f"{1e3 * product:.1f}",
        "gathers": f"{1e3 * gathers:.1f}",
        "Adam": f"{1e3 * adam:.1f}",
        "talk": f"{1e3 * (shared + averaged):.1f}",
        "step": f"{1e3 * step:.1f}",
        "GB crosscoder": f"{memory.peak / 1e9:.1f}",
        "GB models": f"{2 * model_bytes / 1e9:.1f}",
        "hours, live": f"{TOKENS / BATCH / replicas * (harvest + step) / 3600:.2f}",
        "hours, cached": f"{TOKENS / BATCH / replicas * step / 3600:.2f}",
    }


for name, run in RUNS.items():
    rows = [row(*run, gpus, shards) for gpus, shards in GPUS]
    print(f"\n{name}: {2 * run[0]} columns, {run[1]:,} latents, k {run[2]}, {BATCH} tokens a replica\n")
    print("| " + " | ".join(rows[0]) + " |\n" + "| --- " * len(rows[0]) + "|")
    for values in rows:
        print("| " + " | ".join(str(value) for value in values.values()) + " |")
