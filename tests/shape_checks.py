"""The runtime type checker of the tests: tensor shapes, and nothing else.

Tests hand wrong types to functions on purpose, and names that exist for type checkers alone cannot be looked up at run
time: both are mypy's. What mypy cannot see is checked here, wherever a signature or a record names a tensor's shape.
"""

import re
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

SHAPE = re.compile(r"\[(Tensor|Any), [\"']")
"""A tensor's shape in an annotation, as `Float[Tensor, "B"]`; what takes tensors without importing torch writes Any."""


def only_where_shapes_are(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """Returns jaxtyping's decorator, which wraps everything, as one that leaves alone what names no shape."""

    def decorate(*given: Any, **options: Any) -> Any:
        if not given:  # `@jaxtyped(typechecker=...)`
            return lambda thing: decorate(thing, **options)
        return jaxtyped(*given, **options) if _names_shapes(given[0]) else given[0]

    return decorate


def _names_shapes(thing: Any) -> bool:
    """Looks at the fields of a record, and at the function in a property, a class method or a static one.

    A function inside another would be wrapped anew at every call of that one, which costs more than it does: of it,
    what is handed in and comes back is checked in the function around it.
    """
    function = getattr(thing, "fget", None) or getattr(thing, "__func__", thing)
    function = function.__init__ if isinstance(function, type) else function
    annotations = getattr(function, "__annotations__", {}).values()
    return "<locals>" not in function.__qualname__ and any(SHAPE.search(str(annotation)) for annotation in annotations)


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with its arguments and result checked."""
    # An int may stand for a float, as everywhere in Python.
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
