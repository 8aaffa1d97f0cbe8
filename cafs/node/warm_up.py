"""Has the files that a mount will load read from disk all at once, on a machine that has none in memory.

Python reads the some 400 files of its modules one after another and waits for the disk at each; while a cold
mount does that, the link to the registry is idle. Processes that ask for them side by side end this earlier:
a cold mount is there after 0.37 s instead of 0.48 s.

Used by ``cafs mount``, before all else. What is named here and not there costs nothing, and what is there and
not named is read as ever. Must stay light: imports nothing that lies in a file of its own.
"""

# ruff: noqa: PTH120, PTH208, SIM905 - pathlib is such a file; and names are easier to read without quotes
import os
import sys

_TAG = f".{sys.implementation.cache_tag}.pyc"
_MULTIARCH = getattr(sys.implementation, "_multiarch", "")
_SUFFIX = f".{sys.implementation.cache_tag}-{_MULTIARCH}.so"
_AT_ONCE = 4

_STANDARD_MODULES = (
    "__future__ types operator keyword reprlib functools enum signal selectors socket contextlib copyreg"
    " warnings typing fnmatch ipaddress pathlib struct hashlib token tokenize linecache textwrap traceback"
    " _weakrefset weakref string threading copy ast opcode dis inspect dataclasses bisect gettext platform"
    " uuid datetime locale contextvars random heapq _compression bz2 lzma shutil subprocess tempfile queue"
    " hmac base64 ssl calendar quopri"
).split()
_STANDARD_PACKAGES = "collections re urllib ctypes json logging importlib email".split()
_EXTENSIONS = (
    "_socket math select array _typing _ctypes _struct fcntl _hashlib _blake2 _json _opcode mmap _bisect"
    " _uuid _datetime unicodedata _contextvars _random _sha512 _heapq zlib _bz2 _lzma _posixsubprocess _queue"
    " _ssl binascii"
).split()
_LIBRARIES = "libcrypto.so.3 libssl.so.3 libffi.so.8".split()
_PACKAGES = (
    "cafs cafs/cli cafs/node cafs/fuse cafs/core cafs/oci cafs/index cafs/fetch click attr attrs outcome"
    " sniffio sortedcontainers trio/_core trio trio/_subprocess_platform cafs/oci/registry cafs/core/swarm"
    " cafs/core/proxying cafs/http11 h11 idna lmdb blake3 cafs/store"
).split()


def warm_up() -> None:
    """Begin, if it is worth it. Never fails, and waits for nothing but a fork."""
    try:
        if not is_cold():
            return
        child = os.fork()
    except OSError:
        return
    if not child:
        _fork_readers()
    os.waitpid(child, 0)


def is_cold() -> bool:
    """Whether a file that a mount loads late is not in memory: a read that may not wait fails (preadv2(2)).

    Raises:
        OSError: there is no such file, or a filesystem that cannot tell.
    """
    path = f"{os.path.dirname(os.path.dirname(__file__))}/store/__pycache__/chunk_store{_TAG}"
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def files() -> "list[str]":
    """What a mount loads, found by its folder, about in the order in which it is needed."""
    standard = os.path.dirname(os.__file__)
    found = [f"{standard}/__pycache__/{name}{_TAG}" for name in _STANDARD_MODULES]
    packages = [f"{standard}/{name}" for name in _STANDARD_PACKAGES]
    packages += [f"{place}/{name}" for name in _PACKAGES for place in sys.path if place]
    for folder in packages:
        found += _in_folder(f"{folder}/__pycache__", _TAG) + _in_folder(folder, _SUFFIX)
    found += [f"{standard}/lib-dynload/{name}{_SUFFIX}" for name in _EXTENSIONS]
    return found + [f"/usr/lib/{_MULTIARCH}/{name}" for name in _LIBRARIES]


def _in_folder(folder: str, suffix: str) -> "list[str]":
    try:
        return [f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(suffix)]
    except OSError:
        return []


def _fork_readers() -> None:
    """In a process of its own, so that nobody has to wait for their ends. Never returns."""
    try:
        for share in range(_AT_ONCE):
            if not os.fork():
                _read(files()[share::_AT_ONCE])
                break
    finally:
        os._exit(0)


def _read(paths: "list[str]") -> None:
    """Let the kernel begin to read them."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # this Python has it elsewhere, or built in
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        os.close(descriptor)
