"""Which image a command line of ``cafs pull`` is about, as far as one sees without parsing it. Pure.

A process that is ready for pulls tells the mount server of it at once: to parse the command line, and to read
the settings, takes it ten milliseconds on a node that was idle, in which the image's manifest could come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SWITCHES = frozenset(("--json", "--quiet", "--debug", "--content"))
_WITH_VALUE = frozenset(("--config", "--set", "--namespace", "-n", "--address", "-a", "--snapshotter"))


def foresee_image(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """The image's word, if this surely pulls this machine's image of that name for our own snapshotter.

    None where that cannot be told; the command, once it is parsed, knows.
    """
    words = iter(arguments)
    plain: list[str] = []
    snapshotter = environment.get("CONTAINERD_SNAPSHOTTER", "cafs")
    for word in words:
        option, has_value, value = word.partition("=")
        if option in _WITH_VALUE:
            value = value if has_value else next(words, "")
            snapshotter = value if option == "--snapshotter" else snapshotter
        elif not word.startswith("-"):
            plain.append(word)
        elif word not in _SWITCHES:
            return None  # among others --platform, and all that is misspelt
    return plain[1] if len(plain) == 2 and plain[0] == "pull" and snapshotter == "cafs" else None
