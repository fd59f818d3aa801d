"""Llama 4: tiles, experts in most layers, attention in chunks that are counted from a row's beginning.

The chunks are why its answers do not share rows. The tower pools nothing: the forward projects what it returns.

Layers without rotary positions scale attention by place, and count padding on the left among the places. So an answer
depends on its batch beyond the 8,191 tokens (`floor_scale`) after which scales differ from 1; the probe of generation
stops it there. Training pads on the right.
"""

from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from mmdpo.models.families import Family

if not hasattr(MoeCausalLMOutputWithPast, "image_outputs"):
    # In transformers 5.24 the forward reads it of what the text model returns, which has none, and ends with an error.
    MoeCausalLMOutputWithPast.image_outputs = None

FAMILIES = (Family(("llama4",)),)
