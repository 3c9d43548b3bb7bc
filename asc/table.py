"""Tables of aligned columns for the terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

import tabulate

from asc.errors import printable

tabulate.MIN_PADDING = 0  # by default a heading is padded by two columns


def text_table(rows: Iterable[Sequence[Any]], header: Sequence[str] = (), left: Sequence[int] = (0,)) -> str:
    """A table with a rule under its header; control characters are escaped.

    Args:
        rows: cells of each row, formatted by `str`, possibly with several lines.
        header: heading of each column, possibly with several lines.
        left: columns to align left; the others are aligned right.

    >>> print(text_table([["tram", 12], ["street", 3]], ["class", "clips"]))
    class   clips
    ------  -----
    tram       12
    street      3
    """
    cells = [[escaped(str(cell)) for cell in row] for row in rows]
    heads = [escaped(head) for head in header]
    columns = len(cells[0] if cells else heads)
    return tabulate.tabulate(
        cells,
        heads,
        tablefmt="simple" if header else "plain",
        colalign=["left" if column in left else "right" for column in range(columns)] if cells else None,
        disable_numparse=True,
        preserve_whitespace=True,
    )


def escaped(cell: str) -> str:
    """The lines of a cell with control characters escaped."""
    return "\n".join(map(printable, cell.split("\n")))
