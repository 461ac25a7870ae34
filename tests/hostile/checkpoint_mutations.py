"""Checkpoint files that lie: real ones of every container, changed as bytes and as zip entries."""

import io
import struct
import zipfile

from hypothesis import strategies as st

EXTREMES = (0, 1, 0x7F, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes, most: int = 3, near: tuple = ()) -> bytes:
    """``data`` with a few places flipped, cut out, doubled, swapped, overwritten or put in.

    Args:
        near: offsets around which one of two changes happens: headers are small in large files.
    """
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        if near and draw(st.booleans()):
            at = min(max(draw(st.sampled_from(near)) + draw(st.integers(-40, 300)), 0), len(data))
        length = draw(st.sampled_from((1, 2, 4, 8, 30, 500)))
        data = draw(st.sampled_from(CHANGES))(draw, data, at, length)
    return data


def flipped(draw, data, at, length):
    if at >= len(data):
        return data
    return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]


def cut_off(draw, data, at, length):
    return data[:at]


def cut_out(draw, data, at, length):
    return data[:at] + data[at + length :]


def doubled(draw, data, at, length):
    return data[: at + length] + data[at:]


def swapped(draw, data, at, length):
    a, b = data[at : at + length], data[at + length : at + 2 * length]
    return data[:at] + b + a + data[at + 2 * length :]


def put_in(draw, data, at, length):
    return data[:at] + draw(st.binary(min_size=1, max_size=length)) + data[at:]


def overwritten(draw, data, at, length):
    new = draw(st.binary(min_size=1, max_size=length))
    return data[:at] + new + data[at + len(new) :]


def extreme(draw, data, at, length):
    """A number of 1, 2, 4 or 8 bytes becomes one at the edge of what it can be."""
    size = min(length, 8)
    value = draw(st.sampled_from(EXTREMES)) & (1 << 8 * size) - 1
    return (
        data[:at]
        + value.to_bytes(size, draw(st.sampled_from(("little", "big"))))
        + (data[at + size :])
    )


CHANGES = (flipped, cut_off, cut_out, doubled, swapped, put_in, overwritten, extreme)

NAMES = (
    *("../../outside", "/etc/outside", "archive/../../outside", "archive\\data.pkl", "", "/", "."),
    *("archive/data.pkl", "archive/data/0", "archive//data.pkl", "archive/data/-1", "a" * 60_000),
    *("archive/constants.pkl", "archive/\x1b[31mred\n", "archive/na\u00efve", "C:\\outside"),
    *("archive/.format_version", "archive/byteorder", "archive/.storage_alignment", "data.pkl"),
)
CONTENTS = (b"", b"\0", b"big", b"0", b"-1", b"999999999999", b"\xff" * 9, b"3\n", b"\x80\x02N.")


def entries_of(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


@st.composite
def changed_entries(draw: st.DrawFn, data: bytes) -> bytes:
    """A zip file whose entries are renamed, left out, doubled, compressed, changed inside."""
    entries = entries_of(data)
    kind = zipfile.ZIP_STORED
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(entries) - 1))
        name, content = entries[at]
        change = draw(st.integers(0, 6))
        if change == 0:
            entries[at] = draw(st.sampled_from(NAMES)), content
        elif change == 1 and len(entries) > 1:
            del entries[at]
        elif change == 2:
            entries.insert(draw(st.integers(0, len(entries))), (name, content))
        elif change == 3:
            kind = draw(st.sampled_from((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))
        elif change == 4:
            entries[at] = name, draw(st.sampled_from(CONTENTS))
        elif change == 5:
            entries.append((draw(st.sampled_from(NAMES)), draw(st.sampled_from(CONTENTS))))
        elif content:
            entries[at] = name, draw(changed_bytes(content))
    return zipped(entries, kind)


def zipped(entries: list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> bytes:
    import warnings

    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", kind) as archive:
        warnings.simplefilter("ignore")  # of two entries of one name
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return file.getvalue()


def directory_fields(data: bytes) -> list[tuple[int, int]]:
    """(Offset, size) of every number in a zip file's headers, its directory and its end."""
    layouts = {
        b"PK\x03\x04": "HHHHHIIIHH",
        b"PK\x01\x02": "HHHHHHIIIHHHHHII",
        b"PK\x05\x06": "HHHHIIH",
    }
    layouts |= {b"PK\x06\x06": "QHHIIQQQQ", b"PK\x06\x07": "IQI"}
    fields = []
    for signature, layout in layouts.items():
        at = data.find(signature)
        while at >= 0:
            place = at + 4
            for code in layout:
                fields.append((place, struct.calcsize(code)))
                place += struct.calcsize(code)
            at = data.find(signature, at + 1)
    return fields


@st.composite
def lying_directory(draw: st.DrawFn, data: bytes) -> bytes:
    """A zip file one to three of whose numbers are others: sizes, offsets, checksums, methods."""
    fields = directory_fields(data)
    for _ in range(draw(st.integers(1, 3))):
        at, size = fields[draw(st.integers(0, len(fields) - 1))]
        before = int.from_bytes(data[at : at + size], "little")
        value = draw(st.one_of(st.sampled_from(EXTREMES), st.integers(-99, 99).map(before.__add__)))
        data = (
            data[:at] + (value & (1 << 8 * size) - 1).to_bytes(size, "little") + data[at + size :]
        )
    return data
