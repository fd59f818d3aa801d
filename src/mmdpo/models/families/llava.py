"""LLaVA-1.5 and what is loaded in its class: Bunny (SigLIP and Phi), BakLLaVA."""

from typing import Any

from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmdpo.models.families import Family

KEPT = (
    "size", "crop_size", "resample", "image_mean", "image_std", "rescale_factor",
    "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb",
)  # fmt: skip
"""Settings of an image processor that stay as they are when it learns to pad."""


class Llava(Family):
    """A vision tower, a projector of two layers and any text decoder; nothing differs from the generic family."""

    def pad_to_square(self, processor: Any) -> None:
        """Pads with the mean colour before resizing, as the original does; llava-hf's processor crops to the centre.

        Source: `expand2square` of https://github.com/haotian-liu/LLaVA.
        """
        old = processor.image_processor
        kept = {name: getattr(old, name) for name in KEPT if getattr(old, name, None) is not None}
        processor.image_processor = LlavaImageProcessorPil(**kept, do_pad=True)


FAMILIES = (Llava(("llava",), shares_prefix=True),)
