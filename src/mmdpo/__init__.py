"""mmdpo trains vision-language models to look at the image: mDPO and its neighbours on Hugging Face models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmdpo.diagnosis.per_token import score_tokens
    from mmdpo.diagnosis.run import diagnose
    from mmdpo.evaluation.benchmark_run import evaluate
    from mmdpo.training.config import MDPOConfig
    from mmdpo.training.trainer import MDPOTrainer

__version__ = "0.2.0"
__all__ = ["MDPOConfig", "MDPOTrainer", "__version__", "diagnose", "evaluate", "score_tokens"]

_HOMES = {
    "MDPOConfig": "mmdpo.training.config",
    "MDPOTrainer": "mmdpo.training.trainer",
    "diagnose": "mmdpo.diagnosis.run",
    "evaluate": "mmdpo.evaluation.benchmark_run",
    "score_tokens": "mmdpo.diagnosis.per_token",
}


def __getattr__(name: str) -> Any:
    """Loads what is heavy on first use, so that `import mmdpo` pulls no torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mmdpo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
