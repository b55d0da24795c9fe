"""How strongly each latent's concept is there at each site, in that site's own terms: under its own direction.

Two kinds of evidence that a concept is at site m, which add up to the vector

    v_j^m = d_j^m + Σ f_j ε^m / Σ f_j²  (+ Cov(f_j, z_j^m) / Var(f_j))

- *its own row and what is left over*: the latent's decoder row, corrected by what of the residual ε goes with the
latent.
  This is the vector of which ν^ε compares one component: that along the reference row;
- *other latents in its place*: z_j^m is what other latents add at m and do not add everywhere else, Σ_{k≠j} κ_k^m f_k
d_k^m
  with κ_k^m = 1 − min_s ‖d_k^s‖ / ‖d_k^m‖, 0 where that minimum is within a third of it. A linear readout of z_j^m that
  predicts f_j shows that the concept is at m under another latent. Latents that write everywhere alike are taken out,
  so that a parent or a topic that is in every model is not taken as evidence.

What the latents say must be borne out by the activations as they are: beside ‖v‖ there is the slope of x^m along v^m
on f, Cov(f, x^m·v^m/‖v^m‖) / Var(f), as a share of ‖v^m‖. Where it is missing, the row only cancels what other
latents put there by mistake.

Directions and readouts are fitted on the first half of the text; every number is then measured on the second half, in
contiguous blocks of rows.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from torch import Tensor
from torch.nn import functional

from crosscoders import Crosscoder, Latents
from crosscoders.authoring import accumulator, precise, row_dots

from .intervals import Estimate, jackknife

ALIKE = 2 / 3
"""A latent whose smallest row is this share of that at a site, or more, is at all sites alike."""
RIDGE = 1e-3
"""Least ridge of a readout, relative to the mean variance."""
REBUILT = 0.5
"""Correlation from which on other latents count as standing in a latent's place."""


@frozen(eq=False)
class SiteRows:
    """What stays fixed at one site: decoder rows, and how much of each latent is at this site beyond the others."""

    name: str
    row_FD: Tensor
    beyond_F: Tensor

    @property
    def width(self) -> int:
        return self.row_FD.shape[1]


@frozen(eq=False)
class Directions:
    """What the first half of the text gave for one site."""

    readout_FD: Tensor
    """w: p = w·z predicts f."""
    unit_FD: Tensor
    """v / ‖v‖."""
    home_F: Tensor
    """The site where the latent's row is largest in units of √D, the same for all sites."""
    elsewhere_F: Tensor
    """Boolean: whether other latents count in v."""
    others_F: Tensor
    """Cosine of v with what all other latents write on average where the latent fires: near −1 where they cancel."""


def site_rows(crosscoder: Crosscoder) -> list[SiteRows]:
    """Rows and shares of every written site."""
    names = crosscoder.written.names
    widths = torch.tensor([site.width for site in crosscoder.written.sites], device=crosscoder.device)
    norms_FS = crosscoder.decoder_norms().detach() / widths.sqrt()
    found = []
    for s, name in enumerate(names):
        others_F = torch.cat([norms_FS[:, :s], norms_FS[:, s + 1 :]], dim=1).min(dim=1).values
        ratio_F = others_F / norms_FS[:, s].clamp_min(1e-12)
        beyond_F = (1 - ratio_F).clamp_min(0) * (ratio_F < ALIKE)
        found.append(SiteRows(name, crosscoder.decoder_rows(name).detach(), beyond_F))
    return found


class FirstHalf:
    """Sums from which directions and readouts follow: (F, D) three times and (D, D) for each site."""

    def __init__(self, rows: list[SiteRows]) -> None:
        self.rows, self.num_tokens = rows, 0
        F, kept = rows[0].row_FD.shape[0], accumulator(rows[0].row_FD.device)
        self.sum_F = torch.zeros(F, **kept)
        self.square_F = torch.zeros_like(self.sum_F)
        self.left_FD = [torch.zeros_like(site.row_FD) for site in rows]
        self.beyond_FD = [torch.zeros_like(site.row_FD) for site in rows]
        self.rebuilt_FD = [torch.zeros_like(site.row_FD) for site in rows]
        self.mean_rebuilt_D = [torch.zeros(site.width, **kept) for site in rows]
        self.mean_D = [torch.zeros(site.width, **kept) for site in rows]
        self.moment_DD = [torch.zeros(site.width, site.width, **kept) for site in rows]

    def add(self, latents: Latents, parts: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Add some tokens: their latents and, for each site, ε, z and x."""
        self.num_tokens += latents.num_tokens
        f_N = precise(latents.value_N)
        add_rows(self.sum_F, latents.latent_N, f_N)
        add_rows(self.square_F, latents.latent_N, f_N.square())
        for s, (left_BD, z_BD, x_BD) in enumerate(parts):
            self.rebuilt_FD[s] += sums_by_latent(latents, x_BD - left_BD)
            self.mean_rebuilt_D[s] += precise(x_BD - left_BD).sum(dim=0)
            self.left_FD[s] += sums_by_latent(latents, left_BD)
            self.beyond_FD[s] += sums_by_latent(latents, z_BD)
            self.mean_D[s] += precise(z_BD).sum(dim=0)
            self.moment_DD[s] += precise(z_BD.T @ z_BD)

    def directions(self) -> list[Directions]:
        """For each site, of every latent that fired. Other latents count away from home alone: at home a latent has a
        row of its own, and others beside it would be the same concept counted twice."""
        N = max(1, self.num_tokens)
        mean_F, found = self.sum_F / N, []
        variance_F = (self.square_F / N - mean_F.square()).clamp_min(1e-30)
        own = [precise(site.row_FD) + precise(self.left_FD[s]) / self.square_F.clamp_min(1e-30)[:, None]
               for s, site in enumerate(self.rows)]  # fmt: skip
        home_F = torch.stack([precise(site.row_FD.norm(dim=1)) / site.width**0.5 for site in self.rows]).argmax(dim=0)
        for s, site in enumerate(self.rows):
            mean_D, d_FD, kappa_F = self.mean_D[s] / N, precise(site.row_FD), precise(site.beyond_F)
            S_DD = self.moment_DD[s] / N - mean_D[:, None] * mean_D
            c_FD = precise(self.beyond_FD[s]) / N - mean_F[:, None] * mean_D
            ridge = max(RIDGE, site.width / N) * float(S_DD.diagonal().mean()) + 1e-12
            inverse_DD = torch.linalg.inv(S_DD + ridge * torch.eye(site.width, dtype=S_DD.dtype, device=S_DD.device))
            others_FD = c_FD - (kappa_F * variance_F)[:, None] * d_FD
            readout_FD = _without_own(inverse_DD, c_FD, d_FD, kappa_F, variance_F, others_FD)
            explained_F = (readout_FD * others_FD).sum(dim=1) / variance_F
            elsewhere_F = (explained_F >= REBUILT**2) & (home_F != s)
            v_FD = own[s] + elsewhere_F[:, None] * others_FD / variance_F[:, None]
            norm_F = v_FD.norm(dim=1).clamp_min(1e-30)
            together_FD = precise(self.rebuilt_FD[s]) / N - mean_F[:, None] * self.mean_rebuilt_D[s] / N
            beside_FD = together_FD / variance_F[:, None] - d_FD
            against_F = functional.cosine_similarity(beside_FD, v_FD, dim=1)
            rows_FD = site.row_FD
            found.append(
                Directions(
                    readout_FD.to(rows_FD),
                    (v_FD / norm_F[:, None]).to(rows_FD),
                    home_F.to(rows_FD.device),
                    elsewhere_F,
                    against_F,
                )
            )
        return found


def _without_own(A_DD: Tensor, c_FD: Tensor, d_FD: Tensor, kappa_F: Tensor, variance_F: Tensor, b_FD: Tensor) -> Tensor:
    """(S_j)⁻¹ b_j for the covariance of z without latent j's own part, S − κ(c dᵀ + d cᵀ) + κ² Var(f) d dᵀ, from A =
    S⁻¹.

    By Woodbury's identity with U = (c, d): two rows and a 2 × 2 system for each latent.
    """
    U_F2D = torch.stack([c_FD, d_FD], dim=1)
    AU_F2D, Ab_FD = U_F2D @ A_DD, b_FD @ A_DD
    G_F22 = AU_F2D @ U_F2D.transpose(1, 2)
    B_F22 = torch.zeros_like(G_F22)
    B_F22[:, 0, 1] = B_F22[:, 1, 0] = -kappa_F
    B_F22[:, 1, 1] = kappa_F.square() * variance_F
    inner_F22 = torch.eye(2, dtype=G_F22.dtype, device=G_F22.device) + B_F22 @ G_F22
    right_F2 = (B_F22 @ (AU_F2D @ b_FD[:, :, None])).squeeze(2)
    readout_FD: Tensor = Ab_FD - (torch.linalg.solve(inner_F22, right_F2)[:, :, None] * AU_F2D).sum(dim=1)
    return readout_FD


@frozen(eq=False)
class Presence:
    """What the second half of the text says of each latent (F) at each site (S)."""

    firings_F: Tensor
    square_F: Tensor
    """Σ f²"""
    home_F: Tensor
    """The site where the latent's row is largest: its home."""
    unit: list[Tensor]
    """For each site the directions, (F, D)."""
    strength_FS: Tensor
    """Along the fitted direction, in units of √D."""
    ratio: list[Estimate]
    """For each site: strength over that at home."""
    borne_out: list[Estimate]
    """For each site: slope of the activations themselves along the fitted direction, over the strength there."""
    rebuilt: list[Estimate]
    """For each site: correlation of f with the readout of other latents there."""
    cosine: list[Estimate | None]
    """For each site: cosine of the concept's direction with that at home; None where widths differ."""
    others_FS: Tensor
    """Cosine of the concept's direction with what all other latents write there on average where the latent fires."""
    num_blocks: int


@frozen(eq=False)
class SecondHalf:
    """Sums over blocks (G) of the second half, along what the first gave."""

    rows: list[SiteRows]
    directions: list[Directions]
    num_blocks: int
    sums: dict[str, Tensor] = field(factory=dict)

    def add(self, latents: Latents, block_B: Tensor, parts: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Add some tokens: their latents, the block of each, and for each site ε, z and x."""
        f_N, F = precise(latents.value_N), latents.num_latents
        slot_N = block_B[latents.token_N] * F + latents.latent_N
        self._add("tokens", block_B, torch.ones_like(block_B, dtype=f_N.dtype), ())
        self._add("firings", slot_N, torch.ones_like(f_N), (F,))
        self._add("sum", slot_N, f_N, (F,))
        self._add("square", slot_N, f_N.square(), (F,))
        for s, (left_BD, z_BD, x_BD) in enumerate(parts):
            self._add(f"mean {s}", block_B, precise(z_BD), (z_BD.shape[1],))
            self._add(f"mean x {s}", block_B, precise(x_BD), (x_BD.shape[1],))
            dots_N = precise(row_dots(x_BD, self.directions[s].unit_FD, latents))
            self._add(f"x {s}", slot_N, f_N * dots_N, (F,))
            moment = precise(z_BD.T @ z_BD)
            self.sums[f"moment {s}"] = self.sums.get(f"moment {s}", torch.zeros_like(moment)) + moment
            tables = {
                "own": self.directions[s].unit_FD,
                "home": self._home(s),
                "readout": self.directions[s].readout_FD,
            }
            for name, table in tables.items():
                if table is not None:
                    for kind, rows_BD in (("left", left_BD), ("beyond", z_BD)):
                        if (name, kind) != ("readout", "left"):
                            dots_N = precise(row_dots(rows_BD, table, latents))
                            self._add(f"{name} {kind} {s}", slot_N, f_N * dots_N, (F,))

    @property
    def home_F(self) -> Tensor:
        """The site where each latent's row is largest."""
        return self.directions[0].home_F

    def _home(self, s: int) -> Tensor | None:
        """For each latent the direction at its home, where that has the width of site `s`; else zero."""
        width = self.rows[s].width
        same = [i for i, site in enumerate(self.rows) if site.width == width]
        if len(same) < 2:
            return None
        home_F, table = self.home_F, torch.zeros_like(self.rows[s].row_FD)
        for i in same:
            table = torch.where((home_F == i)[:, None], self.directions[i].unit_FD, table)
        return table

    def _add(self, name: str, slot_N: Tensor, value_N: Tensor, shape: tuple[int, ...]) -> None:
        if name not in self.sums:
            self.sums[name] = torch.zeros(self.num_blocks, *shape, **accumulator(slot_N.device))
        add_rows(self.sums[name].view(-1, *value_N.shape[1:]), slot_N, value_N)

    def presence(self) -> Presence:
        """Strengths, correlations and cosines with errors."""
        sums = {name: value.cpu() for name, value in self.sums.items()}
        home_F, weight_GF = self.home_F.cpu(), sums["square"]
        G, S = len(weight_GF), range(len(self.rows))
        own = [self._along(s, "own", self.directions[s].unit_FD, sums) for s in S]
        readouts = [self._along(s, "readout", self.directions[s].readout_FD, sums) for s in S]
        activations = [self._activations(s, sums) for s in S]
        homes = [None if (table := self._home(s)) is None else self._along(s, "home", table, sums) for s in S]

        def at_home(weight_RG: Tensor) -> Tensor:
            found = torch.stack([along.strength(weight_RG) for along in own])
            return found.gather(0, home_F.expand(1, *found.shape[1:])).squeeze(0).clamp_min(1e-30)

        def ratio(s: int) -> Estimate:
            return jackknife(lambda w: own[s].strength(w) / at_home(w), G, weight_GF)

        def borne_out(s: int) -> Estimate:
            return jackknife(lambda w: activations[s].slope(w) / own[s].strength(w).clamp_min(1e-30), G, weight_GF)

        def rebuilt(s: int) -> Estimate:
            spread_F = self._spread(s, readouts[s], sums)
            return jackknife(lambda w: readouts[s].correlation(w, spread_F), G, weight_GF)

        def cosine(s: int) -> Estimate | None:
            home = homes[s]
            if home is None:
                return None
            return jackknife(lambda w: (home.strength(w) / own[s].strength(w).clamp_min(1e-30)).clamp(-1, 1),
                             G, weight_GF)  # fmt: skip

        ratios = [ratio(s) for s in S]
        strength_F = at_home(weight_GF.new_ones(1, G))[0]
        return Presence(
            firings_F=sums["firings"].sum(dim=0).long(),
            square_F=sums["square"].sum(dim=0),
            home_F=home_F,
            unit=[found.unit_FD.cpu() for found in self.directions],
            strength_FS=torch.stack([found.value * strength_F for found in ratios], dim=1),
            ratio=ratios,
            borne_out=[borne_out(s) for s in S],
            rebuilt=[rebuilt(s) for s in S],
            cosine=[cosine(s) for s in S],
            others_FS=torch.stack([found.others_F.cpu() for found in self.directions], dim=1),
            num_blocks=G,
        )

    def _along(self, s: int, name: str, table_FD: Tensor, sums: dict[str, Tensor]) -> Along:
        site = self.rows[s]
        return Along(
            sums=sums,
            own_F=precise((site.row_FD * table_FD).sum(dim=1)).cpu(),
            beyond_F=precise(site.beyond_F).cpu(),
            elsewhere_F=precise(self.directions[s].elsewhere_F).cpu(),
            left_GF=sums.get(f"{name} left {s}"),
            product_GF=sums[f"{name} beyond {s}"],
            total_GF=sums[f"mean {s}"] @ precise(table_FD).cpu().T,
            scale=site.width**-0.5,
        )

    def _activations(self, s: int, sums: dict[str, Tensor]) -> Along:
        """The activations along the fitted directions; nothing in them is the latent's own part to be taken out."""
        unit_FD = self.directions[s].unit_FD
        none_F = sums["sum"].new_zeros(len(unit_FD))
        return Along(
            sums=sums, own_F=none_F, beyond_F=none_F, elsewhere_F=none_F, left_GF=None, product_GF=sums[f"x {s}"],
            total_GF=sums[f"mean x {s}"] @ precise(unit_FD).cpu().T, scale=self.rows[s].width**-0.5,
        )  # fmt: skip

    def _spread(self, s: int, readout: Along, sums: dict[str, Tensor]) -> Tensor:
        """Variance over the whole half of what the readout gives without the latent's own part, (F,)."""
        one = sums["tokens"].new_ones(1, len(sums["tokens"]))
        covariance_1F, variance_1F = readout.moments(one)
        w_FD = precise(self.directions[s].readout_FD).cpu()
        N = sums["tokens"].sum()
        mean_D = sums[f"mean {s}"].sum(dim=0) / N
        S_DD = sums[f"moment {s}"] / N - mean_D[:, None] * mean_D
        # Var(w·z − a f) = wᵀSw − 2a Cov(f, w·z) + a² Var(f), where the covariance at hand is without a Var(f) already.
        a_F = readout.beyond_F * readout.own_F
        spread_F = ((w_FD @ S_DD) * w_FD).sum(dim=1) - 2 * a_F * covariance_1F[0] - a_F.square() * variance_1F[0]
        # Below a millionth of the latent's own variance there is nothing but rounding.
        return spread_F.clamp_min(0) + 1e-6 * variance_1F[0]


@frozen(eq=False)
class Along:
    """Sums over blocks (G) at one site along one direction u for each latent."""

    sums: dict[str, Tensor]
    own_F: Tensor
    """d·u"""
    beyond_F: Tensor
    elsewhere_F: Tensor
    left_GF: Tensor | None
    """Σ f (ε·u)"""
    product_GF: Tensor
    """Σ f (z·u)"""
    total_GF: Tensor
    """Σ z·u"""
    scale: float

    def moments(self, weight_RG: Tensor) -> tuple[Tensor, Tensor]:
        """Cov(f, z·u) without the latent's own part in z, and Var(f): (R, F) each."""
        N_R1 = (weight_RG @ self.sums["tokens"])[:, None].clamp_min(1.0)
        mean_RF = weight_RG @ self.sums["sum"] / N_R1
        variance_RF = (weight_RG @ self.sums["square"] / N_R1 - mean_RF.square()).clamp_min(1e-30)
        covariance_RF = (weight_RG @ self.product_GF - mean_RF * (weight_RG @ self.total_GF)) / N_R1
        return covariance_RF - self.beyond_F * self.own_F * variance_RF, variance_RF

    def strength(self, weight_RG: Tensor) -> Tensor:
        """v·u / √D, (R, F)."""
        covariance_RF, variance_RF = self.moments(weight_RG)
        left_RF = torch.zeros_like(variance_RF)
        if self.left_GF is not None:
            left_RF = weight_RG @ self.left_GF / (weight_RG @ self.sums["square"]).clamp_min(1e-30)
        return self.scale * (self.own_F + left_RF + self.elsewhere_F * covariance_RF / variance_RF)

    def slope(self, weight_RG: Tensor) -> Tensor:
        """Cov(f, z·u) / Var(f) / √D, (R, F)."""
        covariance_RF, variance_RF = self.moments(weight_RG)
        return self.scale * covariance_RF / variance_RF

    def correlation(self, weight_RG: Tensor, spread_F: Tensor) -> Tensor:
        """Of f with z·u, whose variance is given, (R, F)."""
        covariance_RF, variance_RF = self.moments(weight_RG)
        return covariance_RF / (spread_F * variance_RF).sqrt()


def add_rows(sums: Tensor, index_N: Tensor, value_N: Tensor) -> None:
    """Add values to the rows of `sums` numbered by `index_N`, wherever the sums are kept."""
    sums.index_add_(0, index_N.to(sums.device), value_N.to(sums))


def beyond(latents: Latents, site: SiteRows) -> Tensor:
    """z of one site, (B, D): what latents add there and do not add everywhere else."""
    return functional.embedding_bag(
        latents.latent_N, site.beyond_F[:, None] * site.row_FD, latents.token_starts_B, mode="sum",
        per_sample_weights=latents.value_N.to(site.row_FD.dtype),
    )  # fmt: skip


def sums_by_latent(latents: Latents, x_BD: Tensor) -> Tensor:
    """Σ over tokens of f · x, (F, D)."""
    return functional.embedding_bag(
        latents.token_of_latent_N, x_BD.contiguous(), latents.latent_starts_F, mode="sum",
        per_sample_weights=latents.value_N[latents.by_latent].to(x_BD.dtype),
    )  # fmt: skip


def of_tokens(latents: Latents, keep_B: Tensor) -> Latents:
    """The latents of some tokens, which are numbered anew."""
    part = latents.select(keep_B[latents.token_N])
    number_B = keep_B.cumsum(0) - 1
    return Latents(number_B[part.token_N], part.latent_N, part.value_N, int(keep_B.sum()), latents.num_latents)
