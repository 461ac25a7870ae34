"""Text out of a file, as it can stand in a sentence on a terminal."""


def quoted(text: str, limit: int = 100) -> str:
    """``text`` without line breaks, terminal escapes or lone surrogates, cut at ``limit``."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
