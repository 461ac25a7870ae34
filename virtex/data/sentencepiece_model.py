"""Detect truncated SentencePiece models, which the C++ library would load without an error."""

MAX_BYTES = 2**22  # 10,000 tokens take 400,000 bytes


def is_complete_model(content: bytes) -> bool:
    """Return whether ``content`` has all fields of a SentencePiece model, none truncated.

    A file that is truncated between two tokens would load without an error, with fewer tokens and
    without normalization rules. Fields of sentencepiece_model.proto: 1 (tokens, repeated),
    2 (trainer spec) and 3 (normalizer spec), each preceded by its tag and length.
    """
    if len(content) > MAX_BYTES:
        return False
    fields, offset = set(), 0
    while offset < len(content):
        tag, offset = _read_varint(content, offset)
        if tag & 7 != 2:  # not length-delimited
            return False
        length, offset = _read_varint(content, offset)
        if not length:
            return False
        fields.add(tag >> 3)
        offset += length
    return offset == len(content) and {1, 2, 3} <= fields


def _read_varint(content: bytes, offset: int) -> tuple[int, int]:
    """Decode a base-128 varint; return its value and the offset after it."""
    value = shift = 0
    for shift, byte in enumerate(content[offset : offset + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            break
    return value, offset + shift + 1
