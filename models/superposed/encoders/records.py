"""Records: rows of named values (numbers, categories, dates, missing ones) as rows of numbers.

The names and kinds of a task's features are learned from its first update, or declared. Numbers and dates
have a column each. Categories, parts of dates and marks of missing values share the other columns by signed
hashing: an unseen category is fine, and two of them rarely meet.

Source: Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009.
"""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from superposed.config import Config
from superposed.errors import CapacityExceeded, InputError, NonFiniteInput, ShapeError, check_most, redacted

Kind: TypeAlias = Literal["number", "category", "date"]
MOST_FEATURES, LONGEST_NAME, LONGEST_TEXT = 1024, 128, 256
# Largest number whose square still leaves room in float64.
LARGEST = 1e150
# Values of one request, missing ones too: each is looked at.
_MOST_VALUES = 2**17
# Size of a hashed value beside numbers of variance 1: a half generalised better than 1 on ten tables.
_HASHED = 0.5


class Feature(Config):
    """A named value of records: a number, a category, or a date as ISO 8601 text."""

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    kind: Kind


def check_records(records: object, features: FeatureTable | None = None) -> None:
    """Check the form of records, and their number of values against the features of their task where those are known.

    Raise `InputError` where they are no list of records, or a name or value cannot be one; `CapacityExceeded` where a
    record, or all together, have too many values, or a text is too long; `NonFiniteInput` where a number is not finite.
    """
    if not isinstance(records, Sequence) or isinstance(records, str) or not len(records):
        raise InputError("records are no list", expected="at least one record", received=redacted(records))
    values = len(records) * len(features.features if features is not None else ())
    if values > _MOST_VALUES:
        expected = f"{_MOST_VALUES} values in all at most, missing ones too"
        raise CapacityExceeded("too many records for the task's number of features", expected=expected, received=values)
    for row, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise InputError(f"record {row} is no object", expected="values by name", received=redacted(record))
        check_most(f"record {row} has too many values", len(record), MOST_FEATURES)
        for name, value in record.items():
            _check_value(row, name, value)


def _check_value(row: int, name: object, value: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        expected = f"a text of 1 to {LONGEST_NAME} characters"
        raise InputError(f"record {row} has a name that cannot be one", expected=expected, received=redacted(name))
    if isinstance(value, str):
        check_most(f"record {row}: a text is too long to be a category", len(value), LONGEST_TEXT, " characters")
    elif isinstance(value, int | float):
        if not (abs(value) <= LARGEST or (isinstance(value, float) and math.isnan(value))):
            problem = f"record {row} holds a number that is too large"
            raise NonFiniteInput(problem, expected=f"{LARGEST:g} at most", received=str(value)[:30])
    elif value is not None:
        raise InputError(f"record {row} holds something else than a number, a text or null", received=redacted(value))


class FeatureTable:
    """Features of a task's records, and their columns.

    `features` has each name's kind, in order; None where no value of it was seen yet. `columns` are the names that
    have a column of their own, in order; None until the features are known. A name keeps both for good.
    """

    def __init__(self, features: Mapping[str, Kind | None] | None = None, columns: Iterable[str] | None = None) -> None:
        self.features: dict[str, Kind | None] = dict(features or {})
        self._columns = None if columns is None else {name: place for place, name in enumerate(columns)}

    @classmethod
    def declared(cls, features: Sequence[Feature]) -> FeatureTable:
        """Return the table of declared features."""
        kinds = {one.name: one.kind for one in features}
        return cls(kinds, [name for name, kind in kinds.items() if kind != "category"])

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FeatureTable:
        """Return the inverse of `to_json`."""
        return cls(dict(values["features"]), values["columns"])

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; the order of features counts, so they are a list."""
        columns = None if self._columns is None else list(self._columns)
        return {"features": [list(one) for one in self.features.items()], "columns": columns}

    def copy(self) -> FeatureTable:
        """Return the same table, apart from this one."""
        return FeatureTable(self.features, self._columns)

    @property
    def known(self) -> bool:
        """True once the names are known."""
        return self._columns is not None

    @property
    def numbers(self) -> int:
        """Number of columns for numbers and dates."""
        return len(self._columns or ())

    def learn(self, records: Sequence[Mapping[str, Any]], width: int) -> None:
        """Learn names from the first records, kinds from first values; raise `ShapeError` for too few columns."""
        if not self.known:
            names = dict.fromkeys(name for record in records for name in record)
            if not names:
                return
            check_most("the records have too many names", len(names), MOST_FEATURES)
            self.features = dict.fromkeys(names)
        for name in [name for name, kind in self.features.items() if kind is None]:
            self.features[name] = _kind([record.get(name) for record in records])
        if self._columns is None:
            own = [name for name, kind in self.features.items() if kind != "category"]
            self._columns = {name: place for place, name in enumerate(own)}
        hashed = any(kind in {"category", "date"} for kind in self.features.values())
        if self.numbers + hashed > width:
            problem = "the records have more features than the task has columns"
            received = f"{self.numbers} numbers" + (" and categories" if hashed else "")
            raise ShapeError(problem, expected=f"{width} at most, and one of them for categories", received=received)

    def encode(self, records: Sequence[Mapping[str, Any]], width: int, *, ignore_extra: bool) -> NDArray[np.float64]:
        """Return rows (B, width): numbers as they are, NaN where one is missing, and hashed categories.

        Raise `ShapeError` where a record has a name that the task does not have; `InputError` where a value is of
        another kind than its feature.
        """
        rows = np.zeros((len(records), width))
        for row, record in enumerate(records):
            names = () if ignore_extra or not self.known else record
            extra = next((name for name in names if name not in self.features), None)
            if extra is not None:
                advice = "leave it out, or register the task with extra_features=ignore"
                problem = f"record {row} has a feature that the task does not have: {advice}"
                expected = f"some of the task's {len(self.features)} features"
                raise ShapeError(problem, expected=expected, received=extra[:LONGEST_NAME])
            for name, kind in self.features.items():
                self._encode(rows[row], name, kind, record.get(name), row)
        return rows

    def _encode(self, row: NDArray[np.float64], name: str, kind: Kind | None, value: Any, place: int) -> None:
        columns = self._columns or {}
        if value is None or (isinstance(value, float) and math.isnan(value)):
            if name in columns:
                row[columns[name]] = math.nan
            self._hash(row, name, "missing")
        elif kind == "category":
            self._hash(row, name, "=" + _category(value))
        elif kind == "number" and isinstance(value, int | float):
            row[columns[name]] = value
        elif kind == "date" and (when := _date(value)) is not None:
            row[columns[name]] = when.timestamp()
            for part, number in (("weekday", when.weekday()), ("month", when.month), ("hour", when.hour)):
                self._hash(row, name, f"{part}={number}")
        elif kind is not None:  # of a kind that is not known yet, nothing can be said
            problem = f"record {place} holds a value of another kind than the feature has"
            raise InputError(problem, expected=f"{name} to be a {kind}", received=redacted(value))

    def _hash(self, row: NDArray[np.float64], name: str, value: str) -> None:
        shared = len(row) - self.numbers
        if shared > 0:
            number, sign = _hashed(f"{name}\0{value}")
            row[self.numbers + number % shared] += sign


@lru_cache(maxsize=65_536)
def _hashed(text: str) -> tuple[int, float]:
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return number >> 1, _HASHED if number & 1 else -_HASHED


def _category(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, float) or not value.is_integer():
        return str(value)
    return str(int(value))  # a column with holes makes 1 a 1.0


def _kind(values: Sequence[Any]) -> Kind | None:
    seen = [one for one in values if one is not None and not (isinstance(one, float) and math.isnan(one))]
    if not seen:
        return None
    if all(isinstance(one, int | float) for one in seen):
        return "number"
    return "date" if all(_date(one) is not None for one in seen) else "category"


@lru_cache(maxsize=65_536)
def _date(value: object) -> datetime.datetime | None:
    """Return a date that a text is in ISO 8601; of days, months and years alone the text has dashes."""
    if not isinstance(value, str) or len(value) < len("2026-01-01") or "-" not in value:
        return None
    try:
        found = datetime.datetime.fromisoformat(value)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)
