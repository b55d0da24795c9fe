"""What the numbers of a dashboard are called and mean, in one plain sentence each."""

from __future__ import annotations

from math import inf

from attrs import evolve, frozen


@frozen
class Field:
    """A quantity that is known of latents."""

    title: str
    help: str
    kind: str = "number"
    scale: str = "linear"
    most: float = inf
    """Beyond this, whatever its sign, it is a ratio to almost nothing, and not known."""


RATIO = 1e3
FIELDS = {
    "density": Field("Density", "The share of the tokens read here on which the latent is active.", "share", "log"),
    "firings": Field("Firings", "The number of tokens read here on which the latent is active.", "count", "log"),
    "max": Field("Largest activation", "The largest activation among the tokens read here.", "number", "log"),
    "mean_active": Field(
        "Mean activation", "The mean activation on the tokens where the latent is active.", "number", "log"
    ),
    "top_site": Field("Top site", "The written site at which the latent's decoder row is longest.", "class"),
    "group": Field("Latent group", "The group of the wiring, which says what the latent reads and writes.", "class"),
    "tuned_share": Field(
        "Share of the tuned model",
        "The share of the last model in the norms of the latent's decoder rows: 0 is only the first model, 1 only the "
        "last.",
        "share",
    ),
    "norm_share": Field(
        "Norm share of {}",
        "The share of {} in the norms of the latent's decoder rows, by the mean over each model's sites, scaled alike.",
        "share",
    ),
    "verdict": Field(
        "Verdict",
        "Where the concept of the latent is, by latent scaling: specific to one site, mostly there, rotated, shared, "
        "or undecided on this text.",
        "class",
    ),
    "verdict_without_null": Field(
        "Verdict without the null pair", "The verdict before the null pair was held against it.", "class"
    ),
    "class": Field("Class by norms", "What decoder norms alone suggest about where the latent belongs.", "class"),
    "home": Field("Home", "The site at which the latent is strongest.", "class"),
    "largest_site": Field("Largest site", "The site with the largest share of the latent's norms.", "class"),
    "nu_error": Field(
        "ν of the error{}",
        "Near 0, the latent's direction is missing{} from what the reconstruction left over; near 1, it was left out "
        "as much as at the reference.",
        most=RATIO,
    ),
    "nu_reconstruction": Field(
        "ν of the reconstruction{}",
        "Near 0, other latents do not rebuild the latent's direction{}; near 1, they do as much as at the reference.",
        most=RATIO,
    ),
    "relative_strength": Field(
        "Relative strength{}",
        "How strong the latent's concept is{}, as a share of its strength at home.",
        most=RATIO,
    ),
    "strength": Field("Strength{}", "How strongly activations go along with the latent{}.", "number", "log"),
    "borne_out": Field(
        "Borne out{}", "How much of the concept found{} is borne out by the second half of the text.", most=RATIO
    ),
    "rebuilt": Field("Rebuilt{}", "How much of the latent's concept the reconstruction has{}.", most=RATIO),
    "cosine": Field("Cosine{}", "The cosine of the concept's direction{} with that at the latent's home."),
    "beta": Field("β{}", "The factor by which the latent's row has to be multiplied to fit the activations{} best."),
    "template_share": Field(
        "Share on the template", "The share of the latent's activation on tokens of the chat template.", "share"
    ),
    "twin": Field("Twin", "A latent of the other model that writes nearly the same direction."),
    "twin_cosine": Field("Cosine of the twin", "The cosine of the latent's direction with that of its twin."),
    "twin_divergence": Field(
        "Divergence of the twin", "Near 1, the latent and its twin fire on different tokens; near 0, on the same."
    ),
    "kl_recovered": Field(
        "Share of the KL",
        "The share of the difference between the models' predictions that the latent carries alone.",
    ),
    "nearest_elsewhere": Field(
        "Nearest in other seeds", "The mean cosine with the nearest latent of crosscoders of other seeds."
    ),
    "detection": Field(
        "Detection",
        "How well the explanation tells contexts with the latent from others: balanced accuracy, 0.5 is chance.",
        "share",
    ),
    "fuzzing": Field(
        "Fuzzing",
        "How well the explanation tells the tokens where the latent is active from others: balanced accuracy, 0.5 is "
        "chance.",
        "share",
    ),
    "delta_norm": Field("Δnorm", "The decoder norms of two sites compared: 0 is only the first, 1 only the second."),
    "entropy": Field("Entropy", "How evenly the latent's norms spread over sites: 1 is evenly over all.", "share"),
    "effective_sites": Field(
        "Effective sites", "Over how many sites the latent's norms spread, as exp of the entropy."
    ),
    "centre": Field("Centre", "The mean position of the latent's norms over the sites."),
    "spread": Field("Spread", "How far the latent's norms spread over the sites."),
    "spread_shuffled": Field("Spread, shuffled", "The same spread with the sites shuffled."),
    "p": Field("p", "The share of shuffles with a spread as small: small where the latent is local.", "share"),
    "local": Field("Local", "Whether the latent surely lies on neighbouring sites.", "class"),
    "drift": Field("Drift", "How much the latent's direction turns from site to site."),
    "kind": Field("Kind", "What the latent's norm does over the snapshots of training.", "class"),
    "onset": Field("Onset", "The training step of the snapshot from which on the latent is there."),
    "settled": Field("Settled", "The training step of the snapshot from which on its direction is what it becomes."),
    "trend": Field("Trend", "The rank correlation of the latent's norm with time."),
}
"""Known quantities by the name that analyses give them; {} stands for where it is measured."""


def field_of(name: str, place: str = "", *, report: str = "") -> Field:
    """The field of that name at a site or model; one that nobody described says which report it comes from."""
    name = name.partition(" (")[0]
    known = FIELDS.get(name)
    if known is None:
        words = name.replace("_", " ").strip()
        known = Field(f"{words[:1].upper()}{words[1:]}{{}}", f"The column “{words}” of the report “{report}”{{}}.")
    where = place if name == "norm_share" else f" at {place}" if place else ""
    title, help_ = known.title, known.help
    if "{}" not in title and place:
        title, help_ = f"{title}{where}", f"{help_.rstrip('.')}{where}."
    return evolve(known, title=title.replace("{}", where), help=help_.replace("{}", where))
