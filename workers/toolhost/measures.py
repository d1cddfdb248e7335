"""Units of common measures and what they are of one another, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

_METRES: Final = {
    "mm": "0.001", "cm": "0.01", "m": "1", "km": "1000",
    "in": "0.0254", "ft": "0.3048", "yd": "0.9144", "mi": "1609.344", "nmi": "1852",
}  # fmt: skip
_KILOGRAMS: Final = {
    "mg": "0.000001",
    "g": "0.001",
    "kg": "1",
    "t": "1000",
    "oz": "0.028349523125",
    "lb": "0.45359237",
}
_SECONDS: Final = {"ms": "0.001", "s": "1", "min": "60", "h": "3600", "day": "86400", "week": "604800"}
_LITRES: Final = {"ml": "0.001", "l": "1", "m3": "1000", "gal": "3.785411784", "bbl": "158.987294928"}
_BYTES: Final = {
    "byte": "1", "kB": "1000", "MB": "1000000", "GB": "1000000000", "TB": "1000000000000",
    "KiB": "1024", "MiB": "1048576", "GiB": "1073741824", "TiB": "1099511627776",
}  # fmt: skip
_JOULES: Final = {"J": "1", "kJ": "1000", "Wh": "3600", "kWh": "3600000", "cal": "4.184", "kcal": "4184"}


def _table(units: Mapping[str, str]) -> dict[str, Fraction]:
    return {name: Fraction(size) for name, size in units.items()}


MEASURES: Final[Mapping[str, Mapping[str, Fraction]]] = {
    "length": _table(_METRES),
    "area": {f"sq {name}": Fraction(size) ** 2 for name, size in _METRES.items()}
    | {"ha": Fraction(10_000), "acre": Fraction("4046.8564224")},
    "mass": _table(_KILOGRAMS),
    "time": _table(_SECONDS),
    "volume": _table(_LITRES),
    "data": _table(_BYTES),
    "energy": _table(_JOULES),
}
"""For each measure its units, in the one that it is kept in."""

_TEMPERATURES: Final = {
    "C": (Fraction(1), Fraction("273.15")),
    "K": (Fraction(1), Fraction(0)),
    "F": (Fraction(5, 9), Fraction("459.67") * Fraction(5, 9)),
}
"""Kelvin are a temperature times the first number, and the second on top."""


class NoSuchMeasure(Exception):
    """Two units do not measure the same, or one is not known; the message says which."""


def convert(value: Fraction, unit: str, to: str) -> Fraction:
    """Return a value in another unit; raises `NoSuchMeasure`."""
    if unit in _TEMPERATURES and to in _TEMPERATURES:
        (by, on_top), (divided, taken) = _TEMPERATURES[unit], _TEMPERATURES[to]
        return (value * by + on_top - taken) / divided
    for units in MEASURES.values():
        if unit in units and to in units:
            return value * units[unit] / units[to]
    known = {name for units in MEASURES.values() for name in units} | set(_TEMPERATURES)
    for name in (unit, to):
        if name not in known:
            raise NoSuchMeasure(f"There is no unit {name[:20]!r} here; there are {', '.join(sorted(known))}.")
    raise NoSuchMeasure(f"{unit} and {to} do not measure the same.")
