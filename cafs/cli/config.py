"""Fills ``Settings`` from files, environment and flags.

In rising order of precedence: the defaults, ``/etc/cafs/config.toml``, ``$XDG_CONFIG_HOME/cafs/
config.toml``, ``--config FILE``, ``CAFS_*`` variables, ``--set KEY=VALUE``. A key nobody knows and a
value of the wrong type are errors that name file, line and key: a misspelt setting that is silently
ignored costs its owner an afternoon.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from cafs.cli.units import parse_size
from cafs.core.settings import Kind, Settings
from cafs.errors import UsageError

SYSTEM_FILE = Path("/etc/cafs/config.toml")

# Variables of ours that are no settings, and what Kubernetes adds for a service that is called "cafs".
_NO_SETTING = re.compile(
    r"CAFS_(CONFIG|DEBUG|CACHE|(TEST|BENCH|DEMO)(_\w+)?|(\w+_)?(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\w+)?))"
)


@dataclass(frozen=True, slots=True)
class _Given:
    """One value somebody gave, with the words that name its place in an error."""

    key: str
    value: Any
    place: str
    textual: bool
    """From a variable or a flag: numbers and lists come as text."""


def load_settings(
    environment: Mapping[str, str], *, is_root: bool, config: Path | None = None, flags: Iterable[str] = ()
) -> Settings:
    """Read every source there is.

    Args:
        environment: Usually ``os.environ``.
        is_root: Chooses the default directories.
        config: The file given by ``--config`` (or ``CAFS_CONFIG``); must exist.
        flags: ``KEY=VALUE`` texts.

    Raises:
        UsageError: a file is missing or malformed, a key unknown or a value of the wrong type.
    """
    values: dict[str, Any] = _default_dirs(environment, is_root)
    everything = [
        *_from_files(environment, config),
        *_from_environment(environment),
        *_from_flags(flags),
    ]
    known = {setting.name: setting for setting in fields(Settings)}
    for given in everything:
        setting = known.get(given.key)
        if setting is None:
            raise UsageError(f"{given.place}: unknown setting {given.key!r}{_suggestion(given.key, known)}")
        values[given.key] = _checked(setting, given)
    return Settings(**values)


def _default_dirs(environment: Mapping[str, str], is_root: bool) -> dict[str, Any]:
    if is_root:
        return {"cache_dir": Path("/var/lib/cafs"), "run_dir": Path("/run/cafs")}
    cache_home = environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME') or Path.home()}/.cache"
    cache_dir = Path(cache_home) / "cafs"
    runtime = environment.get("XDG_RUNTIME_DIR")
    return {"cache_dir": cache_dir, "run_dir": Path(runtime) / "cafs" if runtime else cache_dir / "run"}


def _suggestion(key: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - a mistake has time

    close = get_close_matches(key, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else " (known: " + ", ".join(sorted(known)) + ")"


def _from_files(environment: Mapping[str, str], config: Path | None) -> Iterable[_Given]:
    home = environment.get("XDG_CONFIG_HOME") or environment.get("HOME", "") + "/.config"
    optional = [SYSTEM_FILE, Path(home) / "cafs" / "config.toml"] if home.startswith("/") else [SYSTEM_FILE]
    for path in optional:
        if _is_there(path):
            yield from _from_file(path)
    if config is not None:
        yield from _from_file(config)


def _is_there(path: Path) -> bool:
    """False also where one may not look: HOME is somebody else's after a change of user."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _from_file(path: Path) -> Iterable[_Given]:
    import tomllib  # noqa: PLC0415 - slow to load, and mostly there is no file

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise UsageError(f"cannot read configuration {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise UsageError(f"{path}: not valid TOML: it is no UTF-8 text") from e
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise UsageError(f"{path}: not valid TOML: {e}") from e
    for key, value in table.items():
        yield _Given(key, value, f"{path}, line {line_of_key(text, key)}", textual=False)


def line_of_key(text: str, key: str) -> int:
    """The line (from 1) on which top-level ``key`` of a valid TOML text begins.

    tomllib tells no positions. But the text up to a line parses when no value is left open there, so
    the key begins right after the longest such head that does not have it yet.
    """
    import tomllib  # noqa: PLC0415 - see above

    lines = text.splitlines(keepends=True)
    before = 0
    for count in range(1, len(lines) + 1):
        try:
            table = tomllib.loads("".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue
        if key in table:
            break
        before = count
    return before + 1


def _from_environment(environment: Mapping[str, str]) -> Iterable[_Given]:
    for name, value in sorted(environment.items()):
        if name.startswith("CAFS_") and not _NO_SETTING.fullmatch(name):
            yield _Given(
                name.removeprefix("CAFS_").lower(), value, f"environment variable {name}", textual=True
            )


def _from_flags(flags: Iterable[str]) -> Iterable[_Given]:
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not equals:
            raise UsageError(f"--set {flag}: expected KEY=VALUE")
        yield _Given(key.strip().replace("-", "_"), value.strip(), f"--set {flag}", textual=True)


def _checked(setting: Field[Any], given: _Given) -> Any:
    """The value as the setting's type, within its bounds."""
    kind: Kind = setting.metadata["kind"]
    try:
        value = _READERS[kind](given)
    except (TypeError, ValueError, UsageError) as e:
        raise UsageError(
            f"{given.place}: {setting.name} must be a {kind.value}, not {given.value!r}{_detail(e)}"
        ) from e
    _check_grammar(setting.name, value, given.place)
    least, most = setting.metadata["least"], setting.metadata["most"]
    if isinstance(value, int | float) and not least <= value <= most:
        bound = f"at least {least:,.12g}" if value < least else f"at most {most:,.12g}"
        raise UsageError(f"{given.place}: {setting.name} must be {bound}, not {given.value!r}")
    return value


_GRAMMARS = {
    "proxy_rules": ("cafs.core.proxying.rules", "parse_rules"),
    "proxy_allow": ("cafs.core.proxying.guard", "parse_guard"),
    "proxy_mirrors": ("cafs.core.proxying.mirror", "parse_mirrors"),
    "proxy_registry": ("cafs.core.proxying.mirror", "parse_registry"),
    "proxy_intercept": ("cafs.core.proxying.intercept", "parse_host_patterns"),
}
"""What reads the settings that have a grammar of their own: loaded only where one is given."""


def _check_grammar(name: str, value: Any, place: str) -> None:
    if name in _GRAMMARS:
        module, parser = _GRAMMARS[name]
        try:
            getattr(import_module(module), parser)(value)
        except UsageError as e:
            raise UsageError(f"{place}: {name}: {e}") from e


def _detail(error: Exception) -> str:
    return f": {error}" if isinstance(error, UsageError) else ""


def _read_path(given: _Given) -> Path:
    if not isinstance(given.value, str) or not given.value or "\0" in given.value:
        raise TypeError
    path = Path(given.value).expanduser()
    if not path.is_absolute() and not given.textual:
        raise UsageError("in a file it must be absolute")
    path = path.absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError("the chunk store needs one in UTF-8") from None
    return path


def _read_bytes(given: _Given) -> int:
    if isinstance(given.value, str):
        return parse_size(given.value)
    return _read_count(given)


def _read_count(given: _Given) -> int:
    if given.textual:
        return int(given.value)
    if isinstance(given.value, bool) or not isinstance(given.value, int):
        raise TypeError
    return given.value


def _read_seconds(given: _Given) -> float:
    value = given.value
    if given.textual:
        value = float(value.removesuffix("s"))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _read_names(given: _Given) -> tuple[str, ...]:
    value = given.value
    if given.textual:
        value = [name.strip() for name in value.split(",") if name.strip()]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError
    return tuple(value)


def _read_text(given: _Given) -> str:
    if not isinstance(given.value, str) or not given.value:
        raise TypeError
    return given.value


def _read_switch(given: _Given) -> bool:
    value = {"true": True, "false": False}.get(given.value) if given.textual else given.value
    if not isinstance(value, bool):
        raise UsageError("true or false")
    return value


_READERS: dict[Kind, Callable[[_Given], Any]] = {
    Kind.PATH: _read_path,
    Kind.BYTES: _read_bytes,
    Kind.COUNT: _read_count,
    Kind.SECONDS: _read_seconds,
    Kind.NAMES: _read_names,
    Kind.TEXT: _read_text,
    Kind.SWITCH: _read_switch,
}
