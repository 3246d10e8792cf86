"""Tables in Markdown, as the model cards, the records of measurements and `offseg variants` show them."""

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence], align: str = "") -> str:
    """A table whose columns line up in plain text too.

    Args:
        header (sequence of `str`): titles of the columns.
        rows (iterable of sequences): the cells, as many in each row as there are titles; `None` for an empty one.
        align (`str`, *optional*): a letter for each column, `"l"` for text, `"r"` for numbers, which stand at the
            right; columns beyond its end are text.

    Returns:
        `str`: its lines, without a line break at the end.

    Raises:
        ValueError: where a row has more or fewer cells than there are titles.
    """
    cells = [[_cell(value) for value in row] for row in (header, *rows)]
    for row in cells:
        if len(row) != len(header):
            raise ValueError(f"`rows` must have {len(header)} cells in each row, got {len(row)}: {row}.")
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    align = align.ljust(len(header), "l")
    rule = [("-" * (width - 1) + ":") if side == "r" else "-" * width for width, side in zip(widths, align)]
    lines = [
        [cell.rjust(width) if side == "r" else cell.ljust(width) for cell, width, side in zip(row, widths, align)]
        for row in cells
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (lines[0], rule, *lines[1:]))


def _cell(value):
    """A cell's text, in which a bar would end the cell and a line break the row."""
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
