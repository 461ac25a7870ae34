"""Commands that bring data to where they are needed. None of them is run here."""

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from virtex.data.check.disk import Disk
from virtex.data.check.places import ARCHIVES, COMMON, UNPACK_CLASSES, VAL_CLASSES, names
from virtex.data.check.quick import HELD, class_folders, nested_images, only_folder, too_deep
from virtex.data.layouts import LAYOUTS, Need, whats_wrong

DATA_SETS = {need.path.split("/")[0] for layout in LAYOUTS.values() for need in layout.needs}
VOCDEVKIT = "vocdevkit"  # what VOC's archives unpack to, which is to be linked from
# as ``whats_wrong`` has them; the latter are what a link can take the place of
FLAT = "without class folders"
VACANT = ("no such folder", "a link to nothing", "a link to itself", "an empty folder")


@dataclass(frozen=True)
class Remedy:
    """What to do about something that is missing.

    Attributes:
        found: what lies where, in words.
        command: of a shell; "" where none can fix it.
    """

    found: str
    command: str = ""


def remedies_for(
    disk: Disk, needs: Sequence[Need], missing: Sequence[Need], lacking: Sequence[str]
) -> list[Remedy]:
    """What fixes a task's data, each once, in the order in which it is to be done.

    Args:
        needs: all that the task needs.
        missing: of these, what is not there.
        lacking: images that are named and not there, relative to the data root.
    """
    if root := another_root(disk, needs):
        return [Remedy(f"{root} holds all of it: give --data-root {quoted(root)}")]
    found = [remedy for need in missing for remedy in for_missing(disk, need)]
    for need in needs:
        if HELD[need.path].look in (class_folders, nested_images):  # these are walked through
            found += [without_loop(disk, loop) for loop in disk.tree(need.path).loops]
        if need.kind == "class folders":
            found += [one_up(disk, need.path, name) for name in too_deep(disk, need.path)]
        below = [file for file in lacking if file.startswith(f"{need.path}/")]
        found += for_lacking(disk, need.path, below) if below else []
    return list(dict.fromkeys(found))


def another_root(disk: Disk, needs: Sequence[Need]) -> Path | None:
    """The folder above the data root, or one in it, if that is the data root that was meant."""
    folders = disk.listing("").folders
    if folders & DATA_SETS:
        return None
    inside = [disk.root / name for name in sorted(folders) if name.lower() != VOCDEVKIT]
    for root in (disk.root.absolute().parent, *inside):
        if not any(whats_wrong(root / need.path, need.kind) for need in needs):
            return root
    return None


# ---- what is not there at all


def for_missing(disk: Disk, need: Need) -> Iterator[Remedy]:
    """A link to where it lies; else what unpacks or sorts it."""
    place, link = elsewhere(disk, need)
    if link:
        yield link
    if whats_wrong(disk.root / place, need.kind) is None:
        return
    for rule in (packed, packed_classes, unsorted_val, coco_2014):
        yield from rule(disk, need.path, place)


def elsewhere(disk: Disk, need: Need) -> tuple[str, Remedy | None]:
    """Where the need lies, relative to the data root, and the link that fixes it, if one does."""
    parts = need.path.split("/")
    flat = None
    for count in range(1, len(parts) + 1):
        path, rest = "/".join(parts[:count]), parts[count:]
        if not is_vacant(disk.root / path):
            continue
        for place in places(disk, path, rest):
            found = "/".join([place, *rest])
            problem = whats_wrong(disk.root / found, need.kind)
            if problem is None:
                return found, link(disk, place, path)
            if problem == FLAT and flat is None:
                flat = found, link(disk, place, path)
    return flat or (need.path, None)


def is_vacant(path: Path) -> bool:
    """Whether a link can take its place: nothing is there, or an empty folder."""
    return whats_wrong(path, "folder") in VACANT


def places(disk: Disk, path: str, rest: Sequence[str]) -> Iterator[str]:
    """Where something lies that is called like ``path``, or like it elsewhere."""
    wanted, data_set = names(path), names(path.split("/")[0])
    common = "/" in path and [path, *rest][-1].rpartition("/")[2] in COMMON
    for place in disk.outline:
        *above, name = place.lower().split("/")
        if place != path and name in wanted and (not common or data_set.intersection(above)):
            yield place


def link(disk: Disk, place: str, path: str) -> Remedy:
    target, name = (disk.root / place).absolute(), disk.root / path
    commands = []
    if name.is_symlink():
        commands = [f"rm {quoted(name)}"]  # it points at nothing, or at itself
    elif name.is_dir():
        commands = [f"rmdir {quoted(name)}"]  # it is empty
    elif "/" in path:
        commands = [f"mkdir -p {quoted(name.parent)}"]
    commands.append(f"ln -sn {quoted(target)} {quoted(name)}")
    return Remedy(f"{path} lies at {place}", " && ".join(commands))


def packed(disk: Disk, path: str, place: str) -> Iterator[Remedy]:
    for archive in ARCHIVES:
        if any(fnmatch(path, pattern) for pattern in archive.gives):
            for file in called(disk, archive.name):
                fill = {"file": disk.root / file, "target": disk.root / archive.target}
                said = f"files of {path.split('/')[0]} are in {file}; unpacking it replaces none"
                yield Remedy(said, archive.unpack.format_map(in_shell(fill)))


def packed_classes(disk: Disk, path: str, place: str) -> Iterator[Remedy]:
    names = disk.seen(place).files if path == "imagenet/train" else ()
    tars = [name for name in names if fnmatch(name, "n*.tar")]
    if tars:
        command = UNPACK_CLASSES.format_map(in_shell({"target": disk.root / path}))
        yield Remedy(f"{place} holds {len(tars)} classes that are still packed", command)


def unsorted_val(disk: Disk, path: str, place: str) -> Iterator[Remedy]:
    """ImageNet's val images come without class folders."""
    names = disk.seen(place).files if path == "imagenet/val" else ()
    count = sum(fnmatch(name, "ILSVRC2012_val_*.JPEG") for name in names)
    if not count:
        return
    said = f"{place} holds {count} images without class folders"
    for name, command in VAL_CLASSES.items():
        for file in called(disk, name)[:1]:
            there = disk.root / file
            fill = {"file": there, "folder": there.parent, "val": disk.root / path}
            yield Remedy(f"{said}; {file} tells their classes", command.format_map(in_shell(fill)))
            return
    yield Remedy(f"{said}; put {' or '.join(VAL_CLASSES)}, which tell them, into the data root")


def coco_2014(disk: Disk, path: str, place: str) -> Iterator[Remedy]:
    """The pictures of 2014 and 2017 are the same; their names and splits are not."""
    if fnmatch(path, "coco/*2017"):
        folders = [*called(disk, "train2014"), *called(disk, "val2014")]
        if folders:
            target = disk.root / path
            files = " ".join(f"{quoted((disk.root / folder).absolute())}/*" for folder in folders)
            yield Remedy(
                f"{' and '.join(folders)} hold COCO's pictures as of 2014, in other splits",
                f"mkdir -p {quoted(target)} && for file in {files}; do "
                f'ln -s "$file" {quoted(target)}/"${{file##*_}}"; done',
            )
    if fnmatch(path, "coco/annotations/*2017.json"):
        for file in called(disk, path.rpartition("/")[2].replace("2017", "2014")):
            yield Remedy(f"{file} is of 2014, whose splits are others: 2017's must be downloaded")


# ---- images that are named and not there


def for_lacking(disk: Disk, folder: str, lacking: Sequence[str]) -> Iterator[Remedy]:
    """Files that lie one folder too deep, or have their names of 2014, or are in an archive."""
    names = [file.removeprefix(f"{folder}/") for file in lacking]
    if inner := only_folder(disk, folder):
        there = frozenset().union(*disk.seen(f"{folder}/{inner}"))
        if any(name.split("/")[0] in there for name in names):
            yield one_up(disk, folder, inner)
            return
    files = disk.seen(folder).files
    if any(f"COCO_{split}2014_{name}" in files for name in names for split in ("train", "val")):
        path = quoted(disk.root / folder)
        yield Remedy(
            f"the files in {folder} have their names of 2014",
            f'for file in {path}/COCO_*2014_*; do mv -n "$file" {path}/"${{file##*_}}"; done',
        )
        return
    yield from packed(disk, folder, folder)


def one_up(disk: Disk, folder: str, inner: str) -> Remedy:
    """Of a folder without data but in the one folder in it. What links lead to is not moved."""
    path = disk.root / folder
    deep, outer = path / inner, path.with_name(f"{path.name}.outer")
    said = f"the files of {folder} lie one folder too deep, in {inner}"
    link = f"ln -sn {quoted(Path(os.path.realpath(deep)))} {quoted(path)}"
    if path.is_symlink():
        return Remedy(said, f"rm {quoted(path)} && {link}")
    if os.path.lexists(outer):
        return Remedy(f"{said}; move them by hand, for {outer.name} is there already")
    left = quoted(outer / inner)
    bring = f"{link} && rm {left}" if deep.is_symlink() else f"mv {left} {quoted(path)}"
    command = f"mv {quoted(path)} {quoted(outer)} && {bring}"
    if os.listdir(path) == [inner]:
        return Remedy(said, f"{command} && rmdir {quoted(outer)}")
    return Remedy(f"{said}; what is beside it goes to {outer.name}", command)


def without_loop(disk: Disk, loop: str) -> Remedy:
    path = disk.root / loop
    return Remedy(f"{loop} is a link into itself", f"rm {quoted(path)}" * path.is_symlink())


def called(disk: Disk, name: str) -> list[str]:
    """Where something of a name lies, in whatever case."""
    return [path for path in disk.outline if path.rpartition("/")[2].lower() == name.lower()]


def quoted(path: Path) -> str:
    return shlex.quote(str(path))


def in_shell(paths: dict[str, Path]) -> dict[str, str]:
    return {name: quoted(path) for name, path in paths.items()}
