"""The compiled library: built once for this processor, kept for others, and loaded only where it can be trusted.

Loading a library runs its code. So it comes from a folder and a file that belong to this user (or root) and that nobody
else may write, and its name holds its own sha256, which is compared first: a damaged file would kill Python, not raise.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from uuid import uuid4

logger = logging.getLogger("crosscoders.kernels")

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC")


def load() -> ctypes.CDLL | None:
    """The library; None where it can be neither found nor built, which is logged."""
    # Prefer gcc to clang: clang's code needs LLVM's OpenMP runtime, which few builds of torch load.
    compilers = list(filter(None, map(shutil.which, (os.environ.get("CC", ""), "gcc", "cc", "clang"))))
    runtime = _openmp_runtime()
    if not compilers or runtime is None:
        logger.info("no compiled kernels: no %s", "C compiler" if not compilers else "OpenMP in this torch")
        return None
    for compiler in dict.fromkeys(compilers):
        try:
            return _found_or_built(compiler, runtime)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # Path.home() raises a RuntimeError
            logger.info("no compiled kernels by %s: %s", compiler, getattr(error, "stderr", None) or error)
    return None


def _found_or_built(compiler: str, runtime: str) -> ctypes.CDLL:
    """The library, kept under a name that says what it was made of, by whom and for which processor."""
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True).stdout
    made_of = [SOURCE.read_bytes(), version, repr((FLAGS, runtime, _processor())).encode()]
    stem = f"native-{hashlib.sha256(b'|'.join(made_of)).hexdigest()[:16]}"
    folder = cache_folder()
    kept = _kept(folder, stem)
    if kept is not None:
        return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory(prefix="crosscoders-") as scratch:
        object_file, library = Path(scratch) / "native.o", Path(scratch) / f"{stem}.so"
        # Compile and link separately: a compiler that links OpenMP itself adds its own runtime, whose threads would
        # compete with torch's.
        for command in (
            [*FLAGS, "-c", SOURCE, "-o", object_file],
            ["-shared", object_file, runtime, "-lm", "-o", library],
        ):
            subprocess.run([compiler, *map(str, command)], check=True, capture_output=True, text=True)
        try:
            _keep(library, folder, stem)
        except OSError as error:
            logger.info("the compiled kernels could not be cached: %s", error)
        return ctypes.CDLL(str(library))


def cache_folder() -> Path:
    """Where libraries are kept. A relative `XDG_CACHE_HOME` is ignored, as its specification asks."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if os.path.isabs(named) else Path.home() / ".cache") / "crosscoders"  # noqa: PTH117


def _kept(folder: Path, stem: str) -> Path | None:
    """The kept library, if it is there, nobody else's and whole; one that is damaged is removed."""
    try:
        found = sorted(folder.glob(f"{stem}-*.so"))
        if not found:
            return None
        _check_trusted(folder)
        for path in found:
            _check_trusted(path)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if path.name == f"{stem}-{digest}.so":
                return path
            logger.warning("the compiled kernels in %s are damaged; they are built anew", path)
            path.unlink()
    except OSError as error:
        logger.warning("the compiled kernels in %s are not used: %s", folder, error)
    return None


def _keep(library: Path, folder: Path, stem: str) -> None:
    """Put a library in the cache, whole or not at all; `OSError` where it cannot be kept there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o700)
    _check_trusted(folder)
    content = library.read_bytes()
    # At once and from a name of its own: another process may be doing the same.
    mine = folder / f".{stem}-{uuid4().hex[:8]}"
    handle = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mine.replace(folder / f"{stem}-{hashlib.sha256(content).hexdigest()}.so")
    except BaseException:
        mine.unlink(missing_ok=True)
        raise


def _check_trusted(path: Path) -> None:
    """`PermissionError` where somebody else could have put something here, or could exchange what is above it."""
    for place in (path, *path.resolve().parents):
        found = place.lstat() if place == path else place.stat()
        if stat.S_ISLNK(found.st_mode):
            raise PermissionError(f"{place} is a link")
        if found.st_uid not in (0, os.getuid()):
            raise PermissionError(f"{place} belongs to another user")
        others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a folder such as /tmp, only owners may rename. Groups often are a user's own, so those above may write.
        if others and (place == path or (others & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX)):
            raise PermissionError(f"others may write to {place}")


def _openmp_runtime() -> str | None:
    """The path of the OpenMP runtime that torch has loaded, or None."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    loaded = {line.split(maxsplit=5)[-1] for line in lines}
    return next((path for path in sorted(loaded) if re.search(r"/lib[gi]?omp\d*[-.]", path)), None)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
