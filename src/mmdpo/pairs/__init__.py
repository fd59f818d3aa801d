"""The data engine: preference pairs from the user's own model, images and prompts.

    sample    prompts and images → samples.jsonl: K answers each. The only step that needs the policy
    judge     samples → verdicts-NAME.jsonl. The only step that may cost money; several judges one by one
    build     verdicts → dataset/, its card, and every answer that was dropped with the reason. No model

Each step can be repeated alone, and resumes: what was sampled and judged is on disk, one line each. `iterate` trains on
the pairs, and goes round again with the model that came out.
"""
