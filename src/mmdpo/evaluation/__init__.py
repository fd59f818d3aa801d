"""From a model to a result: answers, scores, comparisons, the paper's table. The rooms below do the work."""
