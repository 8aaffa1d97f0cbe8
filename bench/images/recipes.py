"""The images of the container benches, and how each one's program is seen to be ready.

Built once from the Debian archive that this machine's apt is configured with, and kept in the cache (about
6 GB with what apt downloaded). Needs root and a mount namespace of its own (``demo.mount_namespace``).
"""

from __future__ import annotations

import fcntl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.images import programs
from bench.images.layers import build_layers, merged
from bench.images.layout import add_image
from bench.images.steps import DebianBase, Files, Packages, Script, Step
from demo.image import APT_ENV, Say, cache_directory
from demo.process import run


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image: its layers from the lowest on, and its program."""

    name: str
    steps: tuple[Step, ...]
    command: tuple[str, ...]
    asks: str = ""
    """What its program is asked on its socket: ``http``, ``redis``, ``postgres``; empty: it prints a line."""
    little: bool = False
    """A large image of which its program reads little."""

    @property
    def profiled(self) -> str:
        """Tag of a second image of the same layers, which profiles are attached to."""
        return f"{self.name}-profiled"


_BASE = (DebianBase(), Packages(("ca-certificates", "netbase", "tzdata")))
_PYTHON = (*_BASE, Packages(("python3",)), Packages(("python3-numpy",)))

SHELL = Recipe("shell", (*_BASE, Files((programs.SHELL,))), (programs.SHELL[0],))
PYTHON = Recipe("python", (*_PYTHON, Files((programs.PYTHON,))), ("python3", programs.PYTHON[0]))
SCIENCE = Recipe(
    "science",
    (*_PYTHON, Packages(("python3-scipy", "python3-pandas")), Files((programs.SCIENCE,))),
    ("python3", programs.SCIENCE[0]),
)
NGINX = Recipe(
    "nginx",
    (
        *_BASE,
        Packages(("nginx",)),
        Script("ln -sf /dev/stdout /var/log/nginx/access.log; mkdir -p /var/www/site"),
        Files(programs.NGINX),
    ),
    ("nginx",),
    "http",
)
REDIS = Recipe(
    "redis",
    (*_BASE, Packages(("redis-server",)), Files((programs.REDIS,))),
    ("redis-server", programs.REDIS[0]),
    "redis",
)
NODE = Recipe(
    "node",
    (*_BASE, Packages(("nodejs",)), Packages(("npm",)), Files((programs.NODE,))),
    ("node", programs.NODE[0]),
    "http",
)
_NO_CLUSTER = ("/etc/postgresql-common/createcluster.conf", "create_main_cluster = false\n")
POSTGRES = Recipe(
    "postgres",
    (
        *_BASE,
        Packages(("postgresql-common", "ssl-cert")),
        Files((_NO_CLUSTER,)),
        Packages(("postgresql-15",)),
        Files((programs.POSTGRES,)),
    ),
    (programs.POSTGRES[0],),
    "postgres",
)
TOOLCHAIN = Recipe(
    "toolchain",
    (
        *_BASE,
        Packages(("build-essential", "cmake", "git", "gfortran", "pkg-config")),
        Packages(("clang-14", "lld-14", "llvm-14-dev", "libclang-14-dev")),
        Packages(("golang-1.19", "rustc", "cargo")),
        Packages(("openjdk-17-jdk-headless", "python3-dev", "python3-scipy")),
        Files(programs.PROJECT),
    ),
    ("make", "-s", "-C", "/work", "check"),
    little=True,
)

SET = (SHELL, PYTHON, NGINX, REDIS, NODE, POSTGRES, TOOLCHAIN)
"""What starts are measured with."""

SERVICES = tuple(
    Recipe(
        f"service-{number}",
        (*_PYTHON, Files(((f"/app/service-{number}.py", programs.service(number)),))),
        ("python3", f"/app/service-{number}.py"),
    )
    for number in range(1, 11)
)
"""Ten images that share all layers but the last."""


def image_cache() -> Path:
    """Where layers, images and apt's downloads are kept."""
    path = cache_directory() / "images" / "containers"
    path.mkdir(parents=True, exist_ok=True)
    return path


def container_images(recipes: tuple[Recipe, ...], say: Say) -> Path:
    """The OCI layout that holds ``recipes``, each under its name; what is missing is built.

    Raises:
        DemoError: it cannot be built here, and why.
    """
    kept = image_cache()
    layout = kept / "layout"
    with (kept / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for recipe in recipes:
            layers = build_layers(recipe.steps, kept, say)
            add_image(layout, recipe.name, layers, recipe.command)
            add_image(layout, recipe.profiled, layers, recipe.command, label="profiled")
    return layout


def database(say: Say) -> Path:
    """A PostgreSQL data directory, as a volume that an earlier container filled. Copy it, do not use it."""
    path = image_cache() / "database"
    if path.exists():
        return path
    say("a PostgreSQL data directory: initdb in the image")
    layers = [built.tree for built in build_layers(POSTGRES.steps, image_cache(), say)]
    with tempfile.TemporaryDirectory(prefix=".database-", dir=image_cache()) as name:
        place = Path(name)
        upper = place / "upper"
        upper.mkdir(mode=0o755)
        with merged(layers, place, upper) as root:
            (root / "data").mkdir(mode=0o777)
            (root / "data").chmod(0o777)
            words = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
            words += [
                "/usr/lib/postgresql/15/bin/initdb",
                "-D",
                "/data/database",
                "--auth=trust",
                "-U",
                "postgres",
            ]
            run(["chroot", root, *words], env=APT_ENV)
        (upper / "data/database").rename(path)
    return path
