"""BLIP-2 and InstructBLIP: a query transformer between vision tower and text decoder, which mmdpo does not train.

What it makes of a picture depends on the prompt (InstructBLIP), or is projected outside of the forward that takes
encoded images (BLIP-2).
"""

from mmdpo.models.families import Family

FAMILY = Family(
    ("blip-2", "instructblip", "instructblipvideo"),
    refused="its query transformer stands between pictures and text, so that a picture cannot be encoded once for all "
    "answers. Take a model that puts image features among the text, such as LLaVA, Qwen-VL or Gemma 3",
)
