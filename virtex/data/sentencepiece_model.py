"""Whether a file is a sentencepiece model, before C++ reads it, which is content with less."""

MOST_BYTES = 2**22  # of a vocabulary; 10 000 tokens are 400 000


def is_whole_model(content: bytes) -> bool:
    """Whether the three parts of a sentencepiece model are there, each to its end.

    A file that was cut between two tokens loads in silence, with the tokens before the cut and
    without the rules of normalization. The parts are those of sentencepiece_model.proto: 1
    (tokens, repeated), 2 (training) and 3 (normalization), each led by its number and length.
    """
    if len(content) > MOST_BYTES:
        return False
    parts, place = set(), 0
    while place < len(content):
        tag, place = _varint(content, place)
        if tag & 7 != 2:  # not led by a length: no part of a model
            return False
        length, place = _varint(content, place)
        if not length:
            return False
        parts.add(tag >> 3)
        place += length
    return place == len(content) and {1, 2, 3} <= parts


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """The number at ``place``, seven bits a byte with the lowest first, and the place after it."""
    value = shift = 0
    for shift, byte in enumerate(content[place : place + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            break
    return value, place + shift + 1
