"""The numbers that an argument may be, stated once for each and checked in one place."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field
from typing import Any, NamedTuple


class Range(NamedTuple):
    """The finite numbers that an argument may be.

    Args:
        low (`float`): the smallest.
        high (`float`, *optional*): the largest; by default there is none.
        has_low (`bool`, *optional*, defaults to `True`): whether `low` itself is among them.
        has_high (`bool`, *optional*, defaults to `True`): whether `high` itself is.
        is_whole (`bool`, *optional*, defaults to `False`): whether they are whole numbers.
        also (`float`, *optional*): one number more, which means something else.
    """

    low: float
    high: float = math.inf
    has_low: bool = True
    has_high: bool = True
    is_whole: bool = False
    also: float | None = None

    def has(self, value: object) -> bool:
        """Whether a value is one of these numbers.

        Args:
            value (`object`): any.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        if value == self.also:
            return True
        is_inside = self.low <= value <= self.high and (self.has_low or value != self.low)
        return is_inside and (self.has_high or value != self.high) and (not self.is_whole or value == int(value))

    def __str__(self) -> str:
        kind = "a whole number, " if self.is_whole else ""
        low = f"{'at least' if self.has_low else 'above'} {self.low:g}"
        high = "" if self.high == math.inf else f" and {'at most' if self.has_high else 'below'} {self.high:.10g}"
        return f"{kind}{low}{high}" + ("" if self.also is None else f", or {self.also:g}")


def check_ranges(settings: Any, ranges: Mapping[str, Range], lengths: Mapping[str, int] | None = None) -> None:
    """Checks the numbers among the fields of a dataclass.

    Args:
        settings: an instance of a dataclass.
        ranges (`Mapping[str, Range]`): field → the numbers that it, or each of its numbers, may be; a field that is
            `None`, empty or not there passes.
        lengths (`Mapping[str, int]`, *optional*): field → how many numbers it has.

    Raises:
        ValueError: a number is out of its range, none at all, or there are more or fewer of them.
    """
    for name, field in settings.__dataclass_fields__.items():
        value = getattr(settings, name)
        if name not in ranges or value is None or value in ((), []):
            continue
        numbers, length = value if isinstance(value, (list, tuple)) else [value], (lengths or {}).get(name, 1)
        shown = " ".join(map(str, numbers))
        if len(numbers) != length:
            raise ValueError(f"`{name}` must be {length} numbers, got {shown}; {_remedy(field)}.")
        if not all(map(ranges[name].has, numbers)):
            each = "" if length == 1 else "numbers, each "
            raise ValueError(f"`{name}` must be {each}{ranges[name]}, got {shown}; {_remedy(field)}.")


def _remedy(field: Field) -> str:
    """What always works: the default."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if default is None or default is MISSING or default in ([], ()):
        return "leave it out"
    return f"leave it out for {' '.join(map(str, default)) if isinstance(default, (list, tuple)) else default}"
