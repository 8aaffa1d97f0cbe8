"""``cafs pull`` on a node whose snapshotter runs: has the pull run by a process that has loaded everything.

``cafs.cli.ready_pulls`` keeps such a process. It is sent this command's arguments, environment, place and
open files, and becomes this command: what it prints goes where this one's would have gone, and it reads the
credentials that this one would have read. This side then waits for the exit code, and passes on Ctrl-C.
Where nobody is ready, or it is not the same program in the same place, the command does all of it itself.

Both sides' format is here. Loads next to nothing, on purpose: on a cold node each module is a wait for the
disk, and that was most of a pull. So no ``typing``, ``socket``, ``json``, ``__future__``, and nothing of ours
but ``cafs`` itself.
"""

import _signal  # type: ignore[import-not-found]  # what ``signal`` wraps, without enum
import _socket
import os
import sys

import cafs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

SOCKET_NAME = "pull.sock"
"""In ``run_dir``."""
ACCEPTED, DECLINED, ENDED, INTERRUPT = b"+", b"-", b"=", b"i"
"""What is said after the errand: it is being run; it is not (any more), run it yourself; it has ended, the
exit code follows as one byte; and from the command: the user has pressed Ctrl-C."""
LENGTH_BYTES = 4
FILES = 4
"""Descriptors that come with an errand: standard input, output, error, and the working directory."""
_MAX_BYTES = 8 << 20
"""More than execve(2) takes for arguments and environment."""
_ACCEPT_S = 5.0
"""A process that is ready accepts at once; after this long the node is in no state to wait for."""
_FLAGS = frozenset(("--json", "--quiet", "--debug"))
_ASSIGNMENTS = ("--set=", "--config=")
_NAMESPACES = ("net", "mnt", "user")


class Errand:
    """One command line, and where it was given."""

    def __init__(
        self,
        same: "Sequence[str]",
        encodings: "Sequence[str]",
        arguments: "Sequence[bytes]",
        environment: "Mapping[bytes, bytes]",
    ) -> None:
        self.same = list(same)
        """What must be the same on both sides, see ``whereabouts``."""
        self.encodings = list(encodings)
        """Encoding and error handler of standard output, then of standard error."""
        self.arguments = list(arguments)
        self.environment = dict(environment)

    def encode(self) -> bytes:
        """As it is sent: its length, then four lists, each with its length before it. NUL ends each word."""
        lists = (
            [os.fsencode(word) for word in self.same],
            [os.fsencode(word) for word in self.encodings],
            self.arguments,
            [name + b"=" + value for name, value in self.environment.items()],
        )
        words = [word for one in lists for word in (b"%d" % len(one), *one)]
        body = b"".join(word + b"\0" for word in words)
        return len(body).to_bytes(LENGTH_BYTES, "big") + body


def parse_length(head: bytes) -> int:
    """How many bytes follow the first ``LENGTH_BYTES``.

    Raises:
        ValueError: more than any errand has.
    """
    length = int.from_bytes(head, "big")
    if length > _MAX_BYTES:
        raise ValueError(f"an errand of {length} bytes")
    return length


def parse_errand(body: bytes) -> Errand:
    """Read what ``Errand.encode`` wrote, without its length.

    Raises:
        ValueError: it is nothing of the kind.
    """
    words = body.split(b"\0")
    if words.pop():
        raise ValueError("an errand that is cut off")
    lists = []
    for _ in range(4):
        end = 1 + int(words[0] if words else b"")
        if not 1 <= end <= len(words):
            raise ValueError("an errand that lacks words")
        lists.append(words[1:end])
        del words[:end]
    same, encodings, arguments, variables = lists
    environment = {name: value for name, _, value in (one.partition(b"=") for one in variables)}
    return Errand(list(map(os.fsdecode, same)), list(map(os.fsdecode, encodings)), arguments, environment)


def whereabouts() -> list[str]:
    """Who we are and where, as far as the other side must be the same to do the same."""
    code = os.path.dirname(cafs.__file__)  # noqa: PTH120 - pathlib is not loaded here
    namespaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in _NAMESPACES]  # noqa: PTH115
    return [cafs.__version__, code, sys.getfilesystemencoding(), *namespaces]


def looks_like_pull(arguments: "Sequence[str]") -> bool:
    """Whether this command line surely pulls, as far as one sees without parsing it."""
    for at, word in enumerate(arguments):
        if word == "pull":
            return not {"-h", "--help"} & set(arguments[at:])
        if word not in _FLAGS and not word.startswith(_ASSIGNMENTS):
            break
    return False


def usual_place(arguments: "Sequence[str]", environment: "Mapping[str, str]") -> str | None:
    """The socket of this node's snapshotter, unless only the whole configuration tells; then None.

    Whoever answers there does the same as anybody else, so nothing but time depends on it.
    """
    for at in range(len(arguments) - 1, -1, -1):
        setting = arguments[at].removeprefix("--set=")
        if setting != arguments[at] or (at and arguments[at - 1] == "--set"):
            key, _, value = setting.partition("=")
            if key.strip().replace("-", "_") == "run_dir":
                return _below(value.strip())
    if (given := environment.get("CAFS_RUN_DIR")) is not None:
        return _below(given)
    if any(word.startswith("--config") for word in arguments) or "CAFS_CONFIG" in environment:
        return None
    home = environment.get("XDG_CONFIG_HOME") or environment.get("HOME", "") + "/.config"
    if any(map(_may_say_run_dir, ("/etc/cafs/config.toml", f"{home}/cafs/config.toml"))):
        return None
    return _below("/run/cafs") if os.geteuid() == 0 else None


def _below(run_dir: str) -> str | None:
    return f"{run_dir}/{SOCKET_NAME}" if run_dir.startswith("/") else None


def _may_say_run_dir(path: str) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib is not loaded here
            return b"run_dir" in file.read()
    except FileNotFoundError:
        return False
    except OSError:
        return True


def run_errand(arguments: "Sequence[str]") -> int | None:
    """Have this command line run elsewhere; its exit code, or None: it must be run here."""
    place = usual_place(arguments, os.environ)
    if place is None or None in {sys.stdin, sys.stdout, sys.stderr}:  # one that is closed cannot be sent
        return None
    before = [(number, _signal.getsignal(number)) for number in (_signal.SIGINT, _signal.SIGTERM)]
    try:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            connection.settimeout(_ACCEPT_S)
            connection.connect(place)
            send_errand(connection, arguments)
            if connection.recv(1) != ACCEPTED:
                return None
            connection.settimeout(None)
            return _await_end(connection)
        finally:
            connection.close()
    except KeyboardInterrupt:
        return _interrupted()  # whoever runs it sees the connection end
    except (OSError, ValueError):
        return None  # nobody there, or one of our own files is closed: in any case it is not running
    finally:
        for number, handler in before:
            _signal.signal(number, handler)


def send_errand(connection: "_socket.socket", arguments: "Sequence[str]") -> None:
    """Send this command line, with our environment, place and open files.

    Raises:
        OSError: nobody takes it.
        ValueError: one of our own files is closed.
    """
    encodings = [text for stream in (sys.stdout, sys.stderr) for text in (stream.encoding, stream.errors)]
    words = [os.fsencode(word) for word in arguments]
    message = Errand(whereabouts(), [text or "" for text in encodings], words, os.environb).encode()
    here = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        files = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2, here))
        sent = connection.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
    finally:
        os.close(here)
    # Whoever has all of it may have ended by now, and sending nothing to him fails, too.
    if sent < len(message):
        connection.sendall(message[sent:])


def _await_end(connection: "_socket.socket") -> int | None:
    interrupted = False

    def interrupt(_number: int, _frame: "FrameType | None") -> None:
        nonlocal interrupted
        interrupted = True
        connection.send(INTERRUPT)

    for number in (_signal.SIGINT, _signal.SIGTERM):
        _signal.signal(number, interrupt)
    told = b""
    try:
        while len(told) < 2 and not told.startswith(DECLINED) and (part := connection.recv(2)):
            told += part
    except OSError:
        told = b""
    if len(told) == 2:
        return told[1]
    if interrupted:
        return _interrupted()
    return None  # it was killed, or its node's services are being stopped; a pull may be begun again


def _interrupted() -> int:
    sys.stderr.write("cafs: interrupted\n")
    return 130
