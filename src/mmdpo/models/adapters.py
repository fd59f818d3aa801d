"""LoRA without a sum of its own: W x + s · B (A x), where the last product adds to what W x has left in memory.

PEFT makes B (A x), s times it, and the sum, each of the layer's whole output, and the gradient times s once more: no
operations to speak of, and a tenth of a step's time. Under autocast it copies the input to float32 besides, which the
product then casts back.
"""

from typing import Any

import torch
from jaxtyping import Float
from peft.tuners import lora
from torch import Tensor, nn

from mmdpo.models.seams import has_hooks


def sum_in_products(model: nn.Module) -> None:
    """Lets LoRA's linear layers add what they add inside the product; a model without them stays as it is."""
    for module in model.modules():
        if type(module) is lora.Linear:
            module.__class__ = SummingLinear


class SummingLinear(lora.Linear):
    """A linear layer with LoRA. What is not one plain adapter on a plain layer is left to PEFT, at every call anew."""

    def forward(self, x: Float[Tensor, "... D"], *args: Any, **kwargs: Any) -> Float[Tensor, "... O"]:
        """Returns W x + b + s · B (A x)."""
        if args or kwargs or x.dim() < 2 or not self._adds_one_product(x):
            output: Tensor = super().forward(x, *args, **kwargs)
            return output
        (name,) = self.active_adapters
        tokens = x.flatten(0, -2)
        result = self.base_layer(tokens)
        low = self.lora_A[name](self.lora_dropout[name](tokens)).to(result.dtype)
        # In place: no gradient needs W x, and a product in 16 bits adds to it in float32.
        result.addmm_(low, self.lora_B[name].weight.to(result.dtype).T, alpha=self.scaling[name])
        return result.unflatten(0, x.shape[:-1])  # type: ignore[no-any-return]

    def _adds_one_product(self, x: Tensor) -> bool:
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        (name,) = self.active_adapters
        if name not in self.lora_A or name in self.lora_variant:  # variants: DoRA and others
            return False
        up: Any = self.lora_B[name]
        is_alike = x.dtype == self.base_layer.weight.dtype == up.weight.dtype
        # B is read and not called, which whoever moves weights about (DeepSpeed, offloading) would not notice.
        return (
            all(type(layer) is nn.Linear for layer in (self.base_layer, up))
            and not has_hooks(up)
            and up.bias is None
            and (is_alike or torch.is_autocast_enabled(x.device.type))
        )
