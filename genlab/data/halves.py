"""Which files of a side-by-side set cannot be two pictures, told by the sizes of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

Size = tuple[int, int]

ALIKE = 0.1  # files of one set whose width over height differs by less have one shape
AS_ONE = 0.05  # so near to half of that shape a file must be to count as one picture
NARROW = 0.55  # width over height below any sheet's or camera's (9:16 is 0.56): no half is likely to be meant so


@dataclass(frozen=True)
class Misfit:
    """A file that is not two pictures side by side.

    Attributes:
        index: place of its size in the list.
        kind: "odd-width" or "unpaired".
        fault: what was expected and what is there.
        remedy: what to do about it.
    """

    index: int
    kind: str
    fault: str
    remedy: str


def misfits(sizes: Sequence[Size]) -> list[Misfit]:
    """The files that cannot be cut into A and B, in order.

    A file whose halves have another shape than most is not wrong for that: portraits lie among landscapes, and pairs
    of any size are allowed. Only a file that has the shape of *one* picture of the set is one without its partner.

    Args:
        sizes: (height, width) in pixels of every file of the set, as decoded; heights and widths above 0.
    """
    even = [size for size in sizes if size[1] % 2 == 0]
    if not even:
        return list(_judge(sizes, set(), 0.0))
    usual = _usual_shape(even)
    return list(_judge(sizes, _sizes_of_one(even, usual), usual))


def _judge(sizes: Sequence[Size], lone: set[Size], usual: float) -> Iterator[Misfit]:
    for index, (height, width) in enumerate(sizes):
        if width % 2:
            fault = f"expected an even width (A and B side by side), got {width} pixels"
            yield Misfit(index, "odd-width", fault, "make it again with halves of one width, or remove it")
        elif (height, width) in lone:
            fault = (
                f"expected A and B side by side, {usual:.2f} times as wide as high like most files, "
                f"got {width} x {height}, the shape of one picture alone"
            )
            yield Misfit(index, "unpaired", fault, "join it and its partner to one file, or remove it")


def _usual_shape(sizes: Sequence[Size]) -> float:
    """Width over height of most files; the second median is that of the files that are alike, free of the others."""
    shapes = [_shape(size) for size in sizes]
    middle = median(shapes)
    return median([shape for shape in shapes if abs(shape / middle - 1) <= ALIKE] or shapes)


def _sizes_of_one(sizes: Sequence[Size], usual: float) -> set[Size]:
    """The sizes among `sizes` that one picture without its partner has.

    Honest pairs may have such a size too: where 3:2 landscapes are the rule, a pair of 3:4 portraits is as wide for
    its height as one landscape. So the shape alone convicts only where the halves would be narrower than pictures
    are, and where all other files agree on one shape: a set that mixes shapes may well hold that one. The exact half
    of the size that most files have is more evidence; then only where the halves are of a usual format must all the
    other files agree.
    """
    counts = Counter(sizes)
    alike = {size for size in counts if abs(_shape(size) / usual - 1) <= ALIKE}
    likely = {size for size in counts if abs(2 * _shape(size) / usual - 1) <= AS_ONE and _is_narrow(size)}
    agreed = likely | alike == counts.keys() and 2 * sum(counts[size] for size in alike) > len(sizes)
    found = likely if agreed else set()
    (height, width), most = counts.most_common(1)[0]
    half = (height, width // 2)
    if 2 * most > len(sizes) and half in counts and (_is_narrow(half) or most + counts[half] == len(sizes)):
        found = found | {half}
    return found


def _shape(size: Size) -> float:
    return size[1] / size[0]


def _is_narrow(size: Size) -> bool:
    return _shape(size) / 2 < NARROW
