"""Other people's errors in one line, to stand inside a sentence of ours."""


def first_line(error: BaseException) -> str:
    """The message's first line; the exception's name where it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__
