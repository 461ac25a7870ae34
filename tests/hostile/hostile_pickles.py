"""Pickles that want to run something, take all memory, or lie; and the containers they come in."""

import io
import pickle
import struct
import zipfile

import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

CANARY = "canary"  # what an attack leaves in the current folder if anything of it runs


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def name_by_stack(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    if len(data) < 256:
        return b"\x8a" + bytes([len(data)]) + data
    return b"\x8b" + struct.pack("<i", len(data)) + data


def several(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + several(*arguments) + b"R"


def built(instance: bytes, state: bytes) -> bytes:
    return instance + state + b"b"


def mapping(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def items(*inner: bytes) -> bytes:
    return b"](" + b"".join(inner) + b"e"


TOUCH = f"touch {CANARY}"
OPEN = f"open('{CANARY}', 'w')"
NDARRAY, DTYPE = name("numpy", "ndarray"), name("numpy", "dtype")
RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
ORDERED = call(name("collections", "OrderedDict"))
LATIN_B = call(name("_codecs", "encode"), text("b"), text("latin1"))
NO_FIELDS = b"NNN"


def dtype_of(kind: str, *state: bytes) -> bytes:
    plain = call(DTYPE, text(kind), b"\x89", b"\x88")
    return built(plain, several(*state)) if state else plain


F4 = dtype_of("f4", b"K\x03", text("<"), NO_FIELDS, b"J\xff\xff\xff\xff" * 2, b"K\x00")


def array(shape: bytes, dtype: bytes, data: bytes, first: bytes = b"K\x00\x85") -> bytes:
    empty = call(RECONSTRUCT, NDARRAY, first, LATIN_B)
    return built(empty, several(b"K\x01", shape, dtype, b"\x89", data))


def storage(kind: str = "FloatStorage", key: str = "0", elements: int = 4) -> bytes:
    described = (text("storage"), name("torch", kind), text(key), text("cpu"), number(elements))
    return several(*described) + b"Q"


def tensor(offset: int = 0, size: tuple = (2, 2), stride: tuple = (2, 1), **of: int) -> bytes:
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        *(storage(**of), number(offset), several(*map(number, size))),
        *(several(*map(number, stride)), b"\x89", ORDERED),
    )


# What runs code where a pickle is believed.
RUNNING = {
    "os.system": call(name("os", "system"), text(TOUCH)),
    "posix.system": call(name("posix", "system"), text(TOUCH)),
    "os.system by stack": call(name_by_stack("os", "system"), text(TOUCH)),
    "python 2's eval": call(name("__builtin__", "eval"), text(OPEN)),
    "eval": call(name("builtins", "eval"), text(OPEN)),
    "exec": call(name("builtins", "exec"), text(OPEN)),
    "open": call(name("builtins", "open"), text(CANARY), text("w")),
    "getattr": call(name("builtins", "getattr"), name("os", "path"), text("os")),
    "import": call(name("builtins", "__import__"), text("antigravity")),
    "inst": b"(" + text(TOUCH) + b"ios\nsystem\n",
    "obj": b"(" + name("os", "system") + text(TOUCH) + b"o",
    "newobj": name("os", "system") + several(text(TOUCH)) + b"\x81",
    "newobj of a class": name("subprocess", "Popen") + several(text(CANARY)) + b"\x81",
    "newobj_ex": name("subprocess", "Popen") + several(text(CANARY)) + b"}\x92",
    "Popen": call(name("subprocess", "Popen"), items(text("touch"), text(CANARY))),
    "check_output": call(name("subprocess", "check_output"), items(text("touch"), text(CANARY))),
    "spawn": call(name("pty", "spawn"), items(text("touch"), text(CANARY))),
    "import_module": call(name("importlib", "import_module"), text("antigravity")),
    "runpy": call(name("runpy", "run_path"), text("attack.py")),
    "partial": built(
        call(name("functools", "partial"), name("os", "system")),
        several(name("os", "system"), several(text(TOUCH)), b"}", b"N"),
    ),
    "reduce": call(
        name("functools", "reduce"), name("operator", "call"), items(name("os", "system"))
    ),
    "attrgetter": call(call(name("operator", "attrgetter"), text("system")), name("os", "path")),
    "methodcaller": call(name("operator", "methodcaller"), text("system"), text(TOUCH)),
    "torch.load": call(name("torch", "load"), text("attack.pth")),
    "torch.serialization.load": call(name("torch.serialization", "load"), text("attack.pth")),
    "torch.save": call(name("torch", "save"), text("x"), text(CANARY)),
    "torch.hub": call(name("torch.hub", "load"), text("."), text("attack"), text("local")),
    "torch.hub download": call(
        name("torch.hub", "download_url_to_file"), text("file:///etc/hostname"), text(CANARY)
    ),
    "load_from_bytes": call(name("torch.storage", "_load_from_bytes"), b"C\x03cos"),
    "jit": call(name("torch.jit", "load"), text("attack.pth")),
    "torch._C": call(name("torch._C", "_import_ir_module_from_buffer"), text("x")),
    "cpp extension": call(name("torch.utils.cpp_extension", "load"), text("x"), text("attack.cc")),
    "numpy.load": call(name("numpy", "load"), text("attack.npy")),
    "numpy.save": call(name("numpy", "save"), text(CANARY), b"K\x01"),
    "tofile": call(name("numpy", "ndarray.tofile"), F4, text(CANARY)),
    "f2py": call(name("numpy.f2py", "compile"), text("x")),
    "f2py crackfortran": call(name("numpy.f2py.crackfortran", "myeval"), text(OPEN)),
    "runstring": call(name("numpy.testing._private.utils", "runstring"), text(OPEN), b"}"),
    "joblib": call(name("joblib", "load"), text("attack.pkl")),
    "yaml": call(name("yaml", "unsafe_load"), text("!!python/object/apply:os.system [x]")),
    "webbrowser": call(name("webbrowser", "open"), text("file:///")),
    "socket": call(name("socket", "create_connection"), several(text("127.0.0.1"), b"K\x09")),
    "dots": call(name_by_stack("builtins", "dict.__class__.__subclasses__")),
    "dots in torch": call(name("torch._utils", "_rebuild_tensor_v2.__globals__.get"), text("sys")),
    "dots in numpy": call(name("numpy", "dtype.__class__"), text("x")),
    "copyreg": call(name("copyreg", "__reduce_ex__"), b"K\x01", b"K\x02"),
    "reconstructor": call(name("copy_reg", "_reconstructor"), name("os", "system"), b"N", b"N"),
    "setattr": call(name("builtins", "setattr"), name("os", "path"), text("x"), b"N"),
    "ctypes": call(name("ctypes", "CDLL"), text("libc.so.6")),
    "code": call(name("types", "CodeType")),
    "gc": call(name("gc", "get_objects")),
    "shutil": call(name("shutil", "rmtree"), text("victim")),
    "extension": b"\x82\x01",
    "extension of four bytes": b"\x84\x01\x00\x00\x00",
    "a module's source": several(text("module"), name("os", "system"), text("x"), text("y")) + b"Q",
}


def with_attack(attack: bytes, beside: bytes, where: int) -> bytes:
    """A pickle of a mapping with the attack before, behind, or in place of what is beside it."""
    value = (
        mapping((text("hook"), attack), (text("state_dict"), beside)),
        mapping((text("state_dict"), beside), (text("hook"), attack)),
        mapping((text("state_dict"), attack)),
        attack,
    )[where]
    return b"\x80\x02" + value + b"."


def in_zip(pickled: bytes) -> bytes:
    """A torch file of today, with one storage of four numbers."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def in_legacy(pickled: bytes) -> bytes:
    """A torch file as it was before 1.6."""
    heads = (MAGIC_NUMBER, PROTOCOL_VERSION, {"protocol_version": 1001, "little_endian": True})
    whole = b"".join(pickle.dumps(head, protocol=2) for head in heads) + pickled
    data = struct.pack("<q4f", 4, 1, 2, 3, 4)
    return whole + pickle.dumps(["0"], protocol=2) + data


def in_file(pickled: bytes) -> bytes:
    """A numpy pickle, as Caffe2's and Detectron2's are."""
    return pickled


CONTAINERS = {"zip": in_zip, "legacy": in_legacy, "pickle": in_file}


def storages(content: object) -> bytes:
    """``content`` as ``torch.save`` writes it."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
