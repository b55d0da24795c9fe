"""Peak memory of training steps, by the allocator's own count, against `crosscoders.training.memory`."""

import torch
from steps import trainer_of
from timing import activations, device


def measure(sites, width, latents, batch, k, **options):
    """Bytes held at the worst moment of a step, batch included, and what the formula says."""
    from crosscoders.training.memory import step_memory

    trainer = trainer_of(sites, width, latents, batch, k, **options)
    batches = activations(sites, width, batch, count=1)
    for _ in range(3):
        trainer.step([next(batches)])
    expected = step_memory(
        trainer.crosscoder.wiring,
        batch_size=batch,
        active=k,
        device=device().type,
        preselect=options.get("preselect", "fp32"),
    ).peak
    return {
        "measured": peak(lambda: trainer.step([next(batches)]), held(trainer) + next(batches).nbytes),
        "formula": expected,
    }


def held(trainer):
    """What is there between steps: weights, optimizer state, counters."""
    tensors = [*trainer.module.state_dict().values(), trainer.tokens_since_fired_F]
    for state in trainer.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(tensor.nbytes for tensor in tensors)


def peak(call, before):
    """The most bytes allocated at once while `call` runs, where `before` are allocated already."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = before
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
