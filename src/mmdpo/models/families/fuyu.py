"""Fuyu: patches go through one linear layer into the text decoder; there is no vision tower."""

from mmdpo.models.families import Family

FAMILY = Family(
    ("fuyu",),
    refused="its processor writes places and ends of its own into a prompt, pads it on the left, and gives a picture "
    "under another name than its model takes. Take a model with a vision tower, such as LLaVA, Qwen-VL or Gemma 3",
)
