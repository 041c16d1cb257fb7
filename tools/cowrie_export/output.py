"""Writes a result completely or not at all."""

import os
import shutil
import stat
import sys
import tempfile
from typing import Iterable, Optional

from .targets import ExportError


def write(parts: Iterable[str], path: Optional[str]) -> None:
    """Replaces the file by a new one, or copies the result to standard output after all parts exist."""
    is_file = path is not None and path != "-"
    try:
        if is_file:
            replace(parts, path)
        else:
            to_standard_output(parts)
    except OSError as error:
        # The error itself would name the temporary file.
        place = path if is_file else "to standard output"
        raise ExportError(f"could not write {place}: {error.strerror or error}") from error


def to_standard_output(parts: Iterable[str]) -> None:
    """Copies the parts to standard output. Writes nothing if a part fails."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as whole:
        whole.writelines(parts)
        whole.flush()
        whole.seek(0)
        # A file of its own reports an error of the last write here. Python would report it after the exit code is set.
        with open(sys.stdout.fileno(), "wb", closefd=False) as out:
            shutil.copyfileobj(whole.buffer, out)


def replace(parts: Iterable[str], path: str) -> None:
    """Writes a file beside the old one, and renames it when it is complete and on the disk."""
    # The target of a symbolic link is replaced, and not the link.
    path = os.path.realpath(path)
    mode = None
    if os.path.lexists(path):
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ExportError(f"{path} is not a regular file; without --output the result goes to standard output")
        mode = stat.S_IMODE(found.st_mode)
    if mode is None:
        umask = os.umask(0)
        os.umask(umask)
        mode = 0o666 & ~umask
    directory, name = os.path.split(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".new", dir=directory)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.writelines(parts)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    # The rename survives a power failure only if the directory is on the disk.
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
