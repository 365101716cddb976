"""What libyaml objects to, in words for someone who has never written YAML. Pure."""

from __future__ import annotations

# The first part of libyaml's sentence that is found decides.
SENTENCES: tuple[tuple[str, str], ...] = (
    (
        "mapping values are not allowed",
        'unexpected ": "; put text that contains one in quotes, and start the keys of one mapping in the same column',
    ),
    (
        "did not find expected '-' indicator",
        'this line starts in a different column than the "- " of its list; align them',
    ),
    (
        "did not find expected key",
        "this line starts in a different column than the keys above it, or a quote is missing; align them",
    ),
    ("did not find expected ',' or '}'", 'a { is open here: a "," or the closing } is missing'),
    ("did not find expected ',' or ']'", 'a [ is open here: a "," or the closing ] is missing'),
    ("did not find expected node content", "something is missing here: a value, or the closing ] or }"),
    ("found unexpected end of stream", "a quote is opened and not closed before the file ends"),
    ("found unexpected document indicator", "a quote is opened and not closed before the line of ---"),
    ("cannot start any token", "a value cannot begin with this character; put it in quotes"),
    ("could not find expected ':'", 'a ":" is missing after this key, or after the one above'),
    (
        "block sequence entries are not allowed",
        'a list cannot begin here: put each "- " on a line of its own, below the key',
    ),
    ("expected alphabetic or numeric character", "text that begins with & or * must be in quotes"),
    ("unknown escape character", "in \"...\" a backslash has a meaning of its own; write \\\\ or use '...'"),
    ("did not find expected hexdecimal number", 'in "..." a backslash has a meaning of its own; write \\\\'),
    ("tab character", "indented with a tab; use spaces"),
    ("comment or line break", "nothing else is allowed on the line after | or >"),
    ("document start", "this line belongs to nothing above it; keys of the file begin in the first column"),
    ("tag", "text that begins with ! must be in quotes"),
    ("directive", "text that begins with % must be in quotes"),
    ("indentation indicator", "only a digit from 1 to 9 is allowed after | or >"),
)
OTHERWISE = (
    "this line cannot be understood; look at its quotes, brackets and indentation, and at the line above"
)


def plain_message(problem: str | None) -> str:
    """A sentence with a hint; it never quotes the file."""
    text = problem or ""
    return next((sentence for part, sentence in SENTENCES if part in text), OTHERWISE)
