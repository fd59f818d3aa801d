"""DiffusionGemma: Gemma 4's network writes blocks of tokens by diffusion, which no preference loss of mmdpo scores."""

from mmdpo.models.families import Family

FAMILY = Family(
    ("diffusion_gemma",),
    refused="it writes blocks of tokens by diffusion, and has no log-probability of a token given those before it. "
    "Take a model that writes token by token, such as Gemma 4",
)
