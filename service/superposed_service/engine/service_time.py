"""Estimates of the engine's service time."""

# How much of what is known about the pace each new turn replaces.
_FORGETTING = 0.05

_ENOUGH_TURNS = 20

_UNUSUAL = 4.0


class ServiceTimeModel:
    """Service time of turns: `fixed + size * each`, by weighted least squares over recent turns."""

    def __init__(self) -> None:
        self._turns = 0
        self._fixed_s = self._each_s = 0.0
        self._weight = self._size = self._seconds = self._square = self._product = 0.0

    @property
    def is_known(self) -> bool:
        """True if there were enough turns to go by."""
        return self._turns >= _ENOUGH_TURNS

    def note(self, size: int, seconds: float) -> None:
        """Learn from one turn. One that took much longer than it should counts as several times as long."""
        keep = 1 - _FORGETTING
        if self.is_known:
            seconds = min(seconds, _UNUSUAL * self.seconds(1, size))
        self._turns += 1
        self._weight = keep * self._weight + 1
        self._size = keep * self._size + size
        self._seconds = keep * self._seconds + seconds
        self._square = keep * self._square + size * size
        self._product = keep * self._product + size * seconds

        if self.is_known:
            self._fit()

    def _fit(self) -> None:
        mean_size, mean_seconds = self._size / self._weight, self._seconds / self._weight
        spread = self._square / self._weight - mean_size**2
        slope = (self._product / self._weight - mean_size * mean_seconds) / spread if spread > 0.25 else 0.0
        self._each_s = min(max(slope, 0.0), mean_seconds / mean_size)
        self._fixed_s = mean_seconds - self._each_s * mean_size

    def seconds(self, turns: int, size: int) -> float:
        """Return the estimated seconds of `turns` turns over `size` rows in total; 0 while unknown."""
        return turns * self._fixed_s + size * self._each_s
