"""Analysis `alive`: how many latents fire on the study's tokens."""

from crosscoders import Report, Table


class Alive:
    def __init__(self, options):
        pass

    def run(self, study):
        crosscoder = study.crosscoder
        fired_F = sum(crosscoder.encode(batch.x_BX).fired_F.int() for batch in study.batches()) > 0
        rows = [
            (group.name, group.num_latents, int(fired_F[crosscoder.wiring.latent_slices[group.name]].sum()))
            for group in crosscoder.wiring.groups
        ]
        return Report(
            title="Alive latents",
            summary=f"{int(fired_F.sum())} of {crosscoder.num_latents} latents fire.",
            parts=(Table(title="Groups", columns=("group", "latents", "fire"), rows=rows),),
            data={"alive": int(fired_F.sum()), "num_latents": crosscoder.num_latents},
        )
