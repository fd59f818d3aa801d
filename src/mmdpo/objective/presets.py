"""Published objectives as lists of terms, and two of our own. A new one is one entry here and nothing else.

One that is only itself with images of the dataset's own in place of corrupted ones is named in `NEED_REJECTED_IMAGES`.

Notation of the comments: w, l are the chosen and the rejected answer, or the original and the corrupted image; ∅ is no
image. R ranks, A₊ anchors above 0, NLL is supervised; see `terms/`. Every R without a factor has weight 1.
"""

from __future__ import annotations

from mmdpo.objective.terms import BCO, NLL, Anchor, Rank, Term
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, Cell

WW = Cell(ORIGINAL, CHOSEN)
WL = Cell(ORIGINAL, REJECTED)
LW = Cell(CORRUPTED, CHOSEN)
LL = Cell(CORRUPTED, REJECTED)
NW = Cell(NO_IMAGE, CHOSEN)
NL = Cell(NO_IMAGE, REJECTED)

ALTERNATIVE = "alternative"
"""A third answer: under SymMPO's second image (`rejected_images`) the right one, in OPA-DPO the corrected one."""
WA = Cell(ORIGINAL, ALTERNATIVE)
LA = Cell(CORRUPTED, ALTERNATIVE)

OW = Cell("random_image", CHOSEN)
"""Under another example's image, whatever the run's corruption."""

NEGATIVES = ("random_image", "crop_0_20", "crop_20_50", "noise")
"""Pictures that `misp` ranks the real one above."""

WEIGHT = "weight"
"""Numeric column that MMedPO reads: the clinical weight s of the pair."""

OTHER_IMAGE = "rank_image_other"
"""Name in the logs of a second conditional term."""

PRESETS: dict[str, tuple[Term, ...]] = {
    # mDPO (arXiv 2406.11839): R([w,w] > [w,l]) + R([w,w] > [l,w]) + A₊([w,w])
    "mdpo": (Rank((WW, WL)), Rank((WW, LW)), Anchor(WW)),
    # DPO (2305.18290): R([w,w] > [w,l])
    "dpo": (Rank((WW, WL)),),
    # DPO with the images taken away: R([∅,w] > [∅,l]), the control of the unconditional-preference experiment
    "dpo_no_image": (Rank((NW, NL)),),
    # mDPO without the conditional term (Table 2): R([w,w] > [w,l]) + A₊([w,w])
    "dpo_anchor": (Rank((WW, WL)), Anchor(WW)),
    # mDPO without the anchor (Table 2): R([w,w] > [w,l]) + R([w,w] > [l,w])
    "dpo_conditional": (Rank((WW, WL)), Rank((WW, LW))),
    # Re-Align's rDPO (2502.13146): the same terms with a retrieved image as the corrupted one (`rejected_images`)
    "rdpo": (Rank((WW, WL)), Rank((WW, LW))),
    # Image-DPO (2501.00569): R([w,w] > [l,w])
    "image_dpo": (Rank((WW, LW)),),
    # MFPO (2410.15334): mDPO's terms with noise on the regions that the answer speaks of (`rejected_images`)
    "mfpo": (Rank((WW, WL)), Rank((WW, LW)), Anchor(WW)),
    # S-VCO (2502.13928): R([w,w] > [∅,w]) + R([∅,w] > [l,w]) + R([l,l] > [∅,l]) + R([∅,l] > [w,l]);
    # the rejected answer is the right one under the corrupted image
    "svco": (Rank((WW, NW)), Rank((NW, LW)), Rank((LL, NL)), Rank((NL, WL))),
    # SymMPO (2506.11712): R([1,w] > [1,l]) + ½ {R([1,w] > [1,2]) + R([2,2] > [2,w])} + A₊([1,w]) + A₊([2,2]).
    # Its tie between the two margins (factor 1e-4) is no sum of terms and is left out.
    "symmpo": (
        Rank((WW, WL)),
        Rank((WW, WA), weight=0.5),
        Rank((LA, LW), weight=0.5),
        Anchor(WW),
        Anchor(LA),
    ),
    # MPO (2411.10442), what InternVL 2.5 and later are trained with: 0.8 R([w,w] > [w,l]) + 0.2 BCO + NLL([w,w])
    "mpo": (Rank((WW, WL), weight=0.8), BCO((WW, WL), weight=0.2), NLL(WW)),
    # MPO as TRL documents it, with a threshold of 0 in place of the running mean
    "mpo_trl": (Rank((WW, WL), weight=0.8), Rank((WW, WL), loss_type="bco_pair", weight=0.2, label="bco"), NLL(WW)),
    # MISP-DPO (2509.25717): R([w,w] > [w,l]) + S([w,w]; negatives). Its negative pictures are chosen by their meaning;
    # here they are another example's picture, two crops and noise
    "misp": (Rank((WW, WL)), Rank((WW, tuple(Cell(name, CHOSEN) for name in NEGATIVES)))),
    # OPA-DPO (2501.09695): chosen, and its own answer corrected (`alternative`), over its own answer (`rejected`), a
    # little of both under a mask of 30 % of the patches, and anchors. The released code anchors the corrected answer
    # below 0 instead of above, and both anchors twice
    "opa": (
        Rank((WW, WL)),
        Rank((WA, WL)),
        Rank((WW, Cell("patch_mask", CHOSEN)), weight=0.2),
        Rank((WA, Cell("patch_mask", ALTERNATIVE)), weight=0.2),
        Anchor(WW),
        Anchor(WA),
    ),
    # DA-DPO (2601.00623): R([w,w] > [w,l]) with β · `beta`, a column that says how easy the pair is
    "dadpo": (Rank((WW, WL), beta_column="beta"),),
    # MMedPO (2412.06141): s · R([w,w] > [l,l]), s a clinical weight per example. Its rows are of two kinds: another
    # answer under the same image, or the same answer under a noised one
    "mmedpo": (Rank((WW, LL), weight_column=WEIGHT),),
    # DPO with supervised training on the chosen answers: R([w,w] > [w,l]) + 0.5 NLL([w,w])
    "dpo_nll": (Rank((WW, WL)), NLL(WW, weight=0.5)),
    # The same under an older name. It is not HA-DPO (2311.16839), whose supervised term reads rows of another dataset,
    # for MiniGPT-4 alone; for LLaVA HA-DPO is `dpo`.
    "hadpo": (Rank((WW, WL)), NLL(WW, weight=0.5)),
    # Ours: they beat mDPO in both embedded worlds and on seeds that chose nothing (docs/studies/beyond/README.md).
    # mDPO with another example's image, o, as the corrupted one: R([w,w] > [w,l]) + R([w,w] > [o,w]) + A₊([w,w])
    "mdpo_other_image": (Rank((WW, WL)), Rank((WW, OW)), Anchor(WW)),
    # Half of the conditional term with each, example by example 2σ(r[·,w] − r[w,l]) times, and a little supervised:
    # R([w,w] > [w,l]) + ½ w₁ R([w,w] > [l,w]) + ½ w₂ R([w,w] > [o,w]) + A₊([w,w]) + 0.1 NLL([w,w])
    "mdpo_combined": (
        Rank((WW, WL)),
        Rank((WW, LW), weight=0.5, rival=WL),
        Rank((WW, OW), weight=0.5, rival=WL, label=OTHER_IMAGE),
        Anchor(WW),
        NLL(WW, weight=0.1),
    ),
    # Supervised training on the chosen answers: the control that every comparison needs
    "sft_chosen": (NLL(WW),),
}

NEED_REJECTED_IMAGES = frozenset({"rdpo", "mfpo", "svco", "symmpo"})
"""Presets whose corrupted image is a certain one, which the dataset has to bring: with a crop they are other methods,
and `svco` and `symmpo` teach an answer that is wrong under it."""

CORRUPT_EQUAL_ANSWERS_ONLY = frozenset({"mmedpo"})
"""Presets that see a corrupted image only where a row compares one answer with itself, and the image itself in rows
with two answers, unless the row says it (`is_corrupted`, `rejected_images`)."""
