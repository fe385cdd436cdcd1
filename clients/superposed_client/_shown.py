"""Answers as notebooks and terminals show them: short, and as data frames and plots where asked for."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, TypeVar

from superposed_client._foreign import optional

T = TypeVar("T")
_BARS = "▁▂▃▄▅▆▇█"
_MOST_SHOWN, _MOST_TEXT, _MOST_BARS, _LARGEST = 4, 60, 40, 1e300


def sparkline(numbers: Sequence[float]) -> str:
    """Return at most 40 bars, each of the mean of a part of the numbers."""
    count = min(len(numbers), _MOST_BARS)
    bounds = [len(numbers) * place // count for place in range(count + 1)]
    means = [sum(numbers[start:end]) / (end - start) for start, end in pairwise(bounds)]
    low, spread = min(means), (max(means) - min(means)) or 1.0
    return "".join(_BARS[int((mean - low) / spread * (len(_BARS) - 1))] for mean in means)


def short(value: Any) -> str:
    """Return a value in a few words: of a long list its first items, its number, and for numbers a sparkline."""
    if isinstance(value, Mapping):
        return short([f"{name}: {short(one)}" for name, one in value.items()])
    if isinstance(value, list | tuple) and len(value) > _MOST_SHOWN:
        numbers = [one for one in value if type(one) in (int, float) and abs(one) < _LARGEST]
        drawn = f" {sparkline(numbers)}" if len(numbers) == len(value) else ""
        return f"{', '.join(map(_inner, value[:_MOST_SHOWN]))}, … ({len(value)} in all){drawn}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_inner, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"


def _inner(value: Any) -> str:
    return f"({short(value)})" if isinstance(value, list | tuple | Mapping) else short(value)


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Return an HTML table of values in short."""
    lines = [f"<tr>{''.join(f'<th>{escape(one)}</th>' for one in head)}</tr>"] if head else []
    lines += [f"<tr>{''.join(f'<td>{escape(short(value))}</td>' for value in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def frame(records: Any) -> Any:
    """Return a pandas DataFrame of records, or of columns by name."""
    return optional("pandas", "a data frame needs pandas", "'superposed[data]'").DataFrame(records)


class Listed(list[T]):
    """A list of answers, which notebooks show as a table."""

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row for each."""
        return frame([one.model_dump() for one in self])  # type: ignore[attr-defined]  # they are answers

    def _repr_html_(self) -> str:
        rows = [dict(one.shown()) for one in self]  # type: ignore[attr-defined]  # they are answers
        names = list(dict.fromkeys(name for row in rows for name in row))
        return table([[row.get(name, "") for name in names] for row in rows], names)


def axes() -> Any:
    """Return the axes of a new picture."""
    return optional("matplotlib.pyplot", "plots need matplotlib", "'superposed[plots]'").subplots()[1]


def plot_accuracies(evaluations: Sequence[Any], name: str) -> Any:
    """Draw a task's accuracy over the number of tasks that had been taught; return the axes."""
    drawn = axes()
    drawn.plot([one.tasks for one in evaluations], [one.accuracy for one in evaluations], marker="o")
    drawn.set(xlabel="tasks taught", ylabel="accuracy of evaluations", title=name, ylim=(0, 1.02))
    return drawn


def plot_matrix(interference: Any) -> Any:
    """Draw the crosstalk between tasks; return the axes."""
    drawn, tasks = axes(), interference.tasks
    empty = [float("nan")] * len(tasks)
    image = drawn.imshow([empty if row is None else row for row in interference.crosstalk], vmin=0)
    drawn.set_xticks(range(len(tasks)), tasks, rotation=90)
    drawn.set_yticks(range(len(tasks)), tasks)
    drawn.set(xlabel="bound by", ylabel="rows of", title="energy of the response, own context = 1")
    drawn.figure.colorbar(image)
    return drawn
