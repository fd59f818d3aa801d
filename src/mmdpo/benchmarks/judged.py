"""What benchmarks share that nothing but a judge can score."""

from __future__ import annotations

from mmdpo.benchmarks.definitions import Judge, Tools
from mmdpo.benchmarks.reading import EvaluationError


def require_judge(tools: Tools, whose: str, otherwise: str = "") -> Judge:
    """Returns the judge, which the result then names; raises EvaluationError where there is none.

    `whose` is what messages call the rule, `otherwise` how they end: what can be scored without a judge.
    """
    if tools.judge is None:
        raise EvaluationError(
            f"{whose} needs a judge: name a model (--judge_model, with --judge_url for an endpoint), or give recorded "
            f"replies (--judge_replies FILE){otherwise}"
        )
    tools.used["judge"] = tools.judge.name
    return tools.judge
