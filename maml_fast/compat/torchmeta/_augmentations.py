"""Augmentations that make further classes of those of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image, ImageOps

from maml_fast._arguments import flag, many, number, takes

__all__ = ["HorizontalFlip", "Rotation", "VerticalFlip"]


class Rotation:
    """Rotates images counter-clockwise.

    Iterating over it yields a rotation for each angle: these are the augmentations.

    Args:
        angle: degrees, or a list of them.
        resample: False, or one of Pillow's filters.
        expand: whether the image grows so that it holds all of the rotated one.
        center: the center of the rotation; the image's center if None.

    Raises:
        TypeError, ValueError: an angle is not a finite number.
    """

    @takes(expand=flag)
    def __init__(
        self,
        angle: float | Sequence[float],
        resample: int = False,
        expand: bool = False,
        center: tuple[float, float] | None = None,
    ) -> None:
        several = isinstance(angle, list | tuple)
        self.angle = None if several else number()("angle", angle)
        self._angles = many(number())("angle", angle if several else [angle])
        self.resample, self.expand, self.center = resample, expand, center

    def __iter__(self) -> Iterator[Rotation]:
        return (Rotation(angle, self.resample, self.expand, self.center) for angle in self._angles)

    def __call__(self, image: Image.Image) -> Image.Image:
        if self.angle is None:
            raise ValueError(f"{self} has several angles; iterate over it for one rotation each")
        fill = (0,) * len(image.getbands())
        return image.rotate(
            self.angle % 360,
            Image.Resampling(int(self.resample)),
            self.expand,
            self.center,
            fillcolor=fill if len(fill) > 1 else 0,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rotation) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        angles = self._angles if self.angle is None else (self.angle % 360,)
        return f"Rotation({', '.join(f'{angle:g}' for angle in angles)})"


class HorizontalFlip:
    """Exchanges left and right."""

    def __iter__(self) -> Iterator[HorizontalFlip]:
        return iter([self])

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.mirror(image)

    def __repr__(self) -> str:
        return "HorizontalFlip()"


class VerticalFlip:
    """Exchanges top and bottom."""

    def __iter__(self) -> Iterator[VerticalFlip]:
        return iter([self])

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.flip(image)

    def __repr__(self) -> str:
        return "VerticalFlip()"
