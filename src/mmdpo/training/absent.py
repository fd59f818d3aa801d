"""Options of TRL's DPOConfig, and of older versions of it, that mmdpo does not have: what to use instead."""

from __future__ import annotations

from collections.abc import Mapping

_DIVERGENCE = "rewards are those of the reverse KL divergence here: leave it out"
_SYNC = "the reference stays the start of the run: leave it out, or begin a new run from the last model"
_CUT = "the answer's end is cut, never the prompt and its images: leave it out, and set max_length"
_LOSS = "write the objective as terms, each with a weight of its own (docs/objectives.md)"
_ADAPTERS = "the reference is the policy with its adapter off, or ref_model: leave it out"
_ROWS = "rows are packed without padding (attention, max_tokens_per_row): leave it out"
_WARMUP = "give the share of all steps as warmup_steps, such as warmup_steps: 0.1"

ABSENT: Mapping[str, str] = {
    "truncation_mode": _CUT,
    "max_prompt_length": _CUT,
    "max_completion_length": _CUT,
    "label_pad_token_id": "labels are not padded: leave it out",
    "pad_token": "padding is masked, whatever its token is: leave it out, or set it on the processor's tokenizer",
    "padding_value": "padding is masked, whatever its token is: leave it out",
    "padding_free": _ROWS,
    "pad_to_multiple_of": _ROWS,
    "use_logits_to_keep": "logits are made for answers alone: leave it out",
    "use_liger_loss": "logits are made in chunks, for answers alone: leave it out",
    "activation_offloading": "leave it out, and use gradient_checkpointing",
    "router_aux_loss_coef": "the loss of a mixture's router is not added: leave it out",
    "loss_weights": _LOSS,
    "rpo_alpha": "add a term nll: [original, chosen] to the objective, or use the preset dpo_nll (weight 0.5)",
    "ld_alpha": "answers of different length are weighed by per_token: true of a term (docs/objectives.md)",
    "use_weighting": "give a weight by row with weight_column of a term (docs/objectives.md)",
    "discopop_tau": _LOSS,
    "f_divergence_type": _DIVERGENCE,
    "f_alpha_divergence_coef": _DIVERGENCE,
    "reference_free": "use the objective sft_chosen, or terms without a reference such as nll",
    "sync_ref_model": _SYNC,
    "ref_model_mixup_alpha": _SYNC,
    "ref_model_sync_steps": _SYNC,
    "model_adapter_name": _ADAPTERS,
    "ref_adapter_name": _ADAPTERS,
    "force_use_ref_model": _ADAPTERS,
    "base_model_attribute_name": "leave it out: the base model is found by itself",
    "ref_model_init_kwargs": "load the reference yourself, and give it as ref_model",
    "generate_during_eval": "set sample_answers_steps: N, which answers prompts every N steps",
    "is_encoder_decoder": "leave it out: the model's class says it",
    "tools": "write tools into the rows' prompts",
    "warmup_ratio": _WARMUP,
}
