"""Count lines of code: those with a token that is neither a comment nor a docstring.

    python tools/code_lines.py                      # the package, module by module group
    python tools/code_lines.py prefect_snapshots tests

Prints a row for each folder and file directly below each path, largest first, then the total.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

_IGNORED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """Return how many lines of a module hold code, without comments, docstrings and blank lines.

    Example:
        >>> code_lines("'''Docs.'''\\nx = 1  # one\\n\\n# why\\ny = (\\n    2)\\n")
        3
    """
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in _IGNORED
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - _docstring_lines(ast.parse(source)))


def _docstring_lines(tree: ast.Module) -> set[int]:
    """Return the lines of all expressions that are only a string: docstrings, and those below attributes."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def main(paths: list[str]) -> None:
    """Print the counts of each path."""
    for path in map(Path, paths or ["prefect_snapshots"]):
        counts: Counter[str] = Counter()
        for file in sorted(path.rglob("*.py")):
            counts[file.relative_to(path).parts[0]] += code_lines(file.read_text())
        for name, count in counts.most_common():
            print(f"{count:7,}  {path / name}")
        print(f"{counts.total():7,}  {path} in all")


if __name__ == "__main__":
    main(sys.argv[1:])
