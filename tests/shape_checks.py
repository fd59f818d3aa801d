"""The runtime type checker of the tests: tensor shapes, and nothing else.

Tests hand wrong types to functions on purpose, and names that exist for type checkers alone cannot be looked up at run
time: both are mypy's. What mypy cannot see is checked here, wherever a signature or a record names a tensor's shape.
"""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with its arguments and result checked, if its annotations speak of tensors."""
    annotations = map(str, getattr(function, "__annotations__", {}).values())
    if not any("Tensor" in annotation for annotation in annotations):
        return function
    # An int may stand for a float, as everywhere in Python.
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
