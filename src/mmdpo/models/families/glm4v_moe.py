"""GLM-4.5V: GLM-4.1V with a mixture of experts.

PEFT (0.19 to 0.21) takes the names of its dense layers and shared experts for those of experts as transformers 4 kept
them, and puts adapters of twice the rank on the experts in their place: LoRA reaches its attention alone.
"""

from mmdpo.models.families import Family

FAMILY = Family(("glm4v_moe",), shares_prefix=True, unadapted=("gate_proj", "up_proj", "down_proj"))
