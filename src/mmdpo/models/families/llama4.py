"""Llama 4: tiles, experts in most layers, attention in chunks that are counted from a row's beginning.

The chunks are why its answers do not share rows. The tower pools nothing: the forward projects what it returns.
"""

from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from mmdpo.models.families import Family

if not hasattr(MoeCausalLMOutputWithPast, "image_outputs"):
    # In transformers 5.24 the forward reads it of what the text model returns, which has none, and ends with an error.
    MoeCausalLMOutputWithPast.image_outputs = None

FAMILY = Family(("llama4",))
