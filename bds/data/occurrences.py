"""How often each content came before, in little memory: what makes row ids unique, over tens of millions of rows."""

from array import array
from collections import Counter

_FIRST_SLOTS = 1 << 10
_MOST_FILLED = 0.7


class Occurrences:
    """Counts by keys of 64 random bits. Those that come once, nearly all, take 11 to 23 bytes each; in a set, 90."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST_SLOTS))
        self._filled = 0
        self._repeats: Counter[int] = Counter()

    def before(self, key: int) -> int:
        """How often the key was asked for before, 0 <= key < 2^64."""
        place = self._place(key)
        # An empty slot holds 0; the key 0 is counted among the repeats from its first time.
        if key and not self._slots[place]:
            self._slots[place] = key
            self._filled += 1
            if self._filled > _MOST_FILLED * len(self._slots):
                self._grow()
            return 0
        self._repeats[key] += 1
        return self._repeats[key] - (key == 0)

    def _place(self, key: int) -> int:
        """The slot that holds the key, or the empty one where it belongs."""
        slots = self._slots
        last = len(slots) - 1
        place = key & last
        while slots[place] not in (0, key):
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        keys = self._slots
        self._slots = array("Q", bytes(16 * len(keys)))
        for key in keys:
            if key:
                self._slots[self._place(key)] = key
