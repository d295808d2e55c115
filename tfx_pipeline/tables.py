"""Tables on the terminal."""

from __future__ import annotations

from typing import Any


def table(header: list[str], rows: list[list[Any]]) -> None:
    """Prints a table; numbers stand to the right, None is a dash."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for place, name in enumerate(header):
        drawn.add_column(name, justify="left" if place == 0 else "right")
    for row in rows:
        drawn.add_row(
            *(
                f"{v:.4f}" if isinstance(v, float) else "–" if v is None else f"{v:,}" if isinstance(v, int) else str(v)
                for v in row
            )
        )
    Console().print(drawn)
