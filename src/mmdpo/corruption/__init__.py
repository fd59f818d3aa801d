"""Corrupted images: m_l, which looks like the original but lacks what is needed to answer.

One file per corruption; the file's name is its public name. Each defines

    def corrupt(image: Image, generator: numpy.random.Generator, *, option=default, …) -> Image

which takes an RGB picture and returns an RGB picture of the same size, and draws all its randomness from `generator`.
A corruption that shows another example's picture sets `NEEDS_OTHER_IMAGE = True` in its module and takes it as the
keyword `other`; its result may have another size. One that changes a region alone sets `NEEDS_REGION = True` and takes
the keyword `region`, [height, width] of bool. A file dropped in here is found, listed and tested; one that lives
elsewhere is named `package.module:function`. Files that start with an underscore are not corruptions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmdpo.records import derive_generator
from mmdpo.registry import Registry, is_elsewhere, load_elsewhere, name_nearest

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool
    from PIL.Image import Image


@dataclass(frozen=True)
class Corruption:
    """A corruption with its options filled in; pickles, so that data-loading workers can hold it."""

    name: str
    function: Callable[..., Image]
    options: Mapping[str, Any]
    """Every option of the function with its value."""
    needs_other_image: bool = False
    needs_region: bool = False

    def __call__(
        self,
        image: Image,
        generator: np.random.Generator,
        other: Image | None = None,
        region: Bool[np.ndarray, "h w"] | None = None,
    ) -> Image:
        """Returns the corrupted picture; `other` is for corruptions that need another example's picture, `region` for
        those that change a region alone.

        Raises ValueError for a picture that is not RGB, a missing `other` or `region`, or a result of another mode or
        size.
        """
        extra: dict[str, Any] = {"other": other} if self.needs_other_image else {}
        for given in (image, *extra.values()):
            if given is None:
                raise ValueError(f"corruption {self.name!r} needs another example's image; pass it as `other`")
            if given.mode != "RGB":
                raise ValueError(
                    f"corruption {self.name!r} takes RGB images, got mode {given.mode!r}; convert it when it is opened"
                )
        if self.needs_region:
            if region is None or region.shape != (image.height, image.width):
                raise ValueError(f"corruption {self.name!r} needs a `region` of the image's height and width")
            extra["region"] = region
        result = self.function(image, generator, **self.options, **extra)
        if not hasattr(result, "mode"):
            raise ValueError(f"corruption {self.name!r} must return a PIL image, returned a {type(result).__name__}")
        if result.mode != "RGB" or (result.size != image.size and not self.needs_other_image):
            raise ValueError(
                f"corruption {self.name!r} must return RGB of {image.size}, returned {result.mode} of {result.size}"
            )
        return result

    def with_options(self, **options: Any) -> Corruption:
        """Returns this corruption with some options changed, tried once on a small picture.

        So a value out of range fails here, and not in the first batch: ValueError says what is valid.
        """
        import numpy as np
        from PIL import Image

        known = sorted(self.options)
        for key, value in options.items():
            if key not in known:
                takes = f"{name_nearest(key, known)} It takes {', '.join(known) or 'no options'}"
                raise ValueError(f"corruption {self.name!r} has no option {key!r}{takes}")
            example = self.options[key]
            if not _fits(value, example):
                raise ValueError(
                    f"option {key!r} of corruption {self.name!r} must be {type(example).__name__}, like {example!r}; "
                    f"got {value!r}"
                )
        changed = replace(self, options={**self.options, **options})
        picture = Image.new("RGB", (16, 16))
        changed(picture, np.random.default_rng(0), other=picture, region=np.ones((16, 16), dtype=bool))
        return changed


CORRUPTIONS = Registry("corruption", "corruption", further="or package.module:function")


def names() -> tuple[str, ...]:
    """Returns the names of the corruptions of this folder, sorted, without importing them."""
    return CORRUPTIONS.names()


def load(name: str) -> Corruption:
    """Returns the corruption of that name, or somebody else's given as `package.module:function`, with its defaults.

    Raises ValueError for an unknown name, a module that cannot be imported, or an option without a default.
    """
    if is_elsewhere(name):
        module, function = load_elsewhere(name, CORRUPTIONS.kind)
    else:
        module = CORRUPTIONS.load(name)
        function = module.corrupt
    if not callable(function):
        raise ValueError(f"corruption {name!r}: it is no function")
    signature = inspect.signature(function)
    try:
        signature.bind_partial("image", "generator")
    except TypeError as error:
        raise ValueError(f"corruption {name!r}: it takes {signature}, and has to take (image, generator)") from error
    keywords = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    options = {parameter.name: parameter.default for parameter in keywords if parameter.name not in ("other", "region")}
    for option, default in options.items():
        if default is inspect.Parameter.empty:
            raise ValueError(f"corruption {name!r}: give its option {option!r} a default value")
    needs = (bool(getattr(module, key, False)) for key in ("NEEDS_OTHER_IMAGE", "NEEDS_REGION"))
    return Corruption(name, function, options, *needs)


def derive_corruption_generator(
    name: str, *, run_seed: int, example_id: str, image_index: int, epoch: int = 0
) -> np.random.Generator:
    """Returns the generator of an image, the same on every worker; `epoch` stays 0 unless each shows another m_l."""
    return derive_generator(run_seed, example_id, f"corruption:{name}:{image_index}", epoch)


def corrupt_image(
    corruption: Corruption,
    image: Image,
    *,
    run_seed: int,
    example_id: str,
    image_index: int,
    epoch: int = 0,
    other: Image | None = None,
    region: Bool[np.ndarray, "h w"] | None = None,
) -> Image:
    """Returns m_l for one RGB image of an example, a function of its arguments alone."""
    generator = derive_corruption_generator(
        corruption.name, run_seed=run_seed, example_id=example_id, image_index=image_index, epoch=epoch
    )
    return corruption(image, generator, other, region)


def _fits(value: Any, default: Any) -> bool:
    """Returns whether a value from a recipe has the type of the default; YAML reads `1e-2` as text, for one."""
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default) or not isinstance(default, bool | int | str)
