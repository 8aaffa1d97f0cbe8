from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cafs.containerd.setup import ProxyTable, Release, containerd_lines, parse_release, proxy_table
from cafs.node.containerd_config import parse_containerd_config
from cafs.node.doctor import diagnose
from cafs.node.finding import Finding, Level
from cafs.node.machine_facts import (
    CacheFacts,
    ContainerdFacts,
    Facts,
    FuseFacts,
    KernelFacts,
    ServiceFacts,
    Support,
    Trials,
)

GIB = 1 << 30
TABLE = proxy_table(Path("/run/cafs/snapshotter.sock"), Path("/var/lib/cafs/s"), "x86_64", (6, 12))
KERNEL = KernelFacts("6.12.9", (6, 12), *[Support.YES] * 3)
TRIALS = Trials(fuse="", erofs_file="", overlay="")
NO_DEVICE = "Block device required"
FUSE = FuseFacts("", "/usr/bin/fusermount3", helper_setuid=True)
CACHE = CacheFacts("/var/lib/cafs", "ext4", 100 * GIB, 0, "")
WELL = Facts(
    is_root=True,
    kernel=KERNEL,
    fuse=FUSE,
    trials=TRIALS,
    cache=CACHE,
    quota_bytes=20 * GIB,
    address_space_bytes=None,
    open_files=4096,
    user_namespaces=1000,
    containerd=None,
)
USER = replace(WELL, is_root=False, trials=Trials(fuse=""))


def kernel(facts: Facts = WELL, **changes: Any) -> Facts:
    return replace(facts, kernel=replace(facts.kernel, **changes))


def fuse(facts: Facts, **changes: Any) -> Facts:
    return replace(facts, fuse=replace(facts.fuse, **changes))


def tried(facts: Facts = WELL, **changes: Any) -> Facts:
    return replace(facts, trials=replace(facts.trials, **changes))


def cache(**changes: Any) -> Facts:
    return replace(WELL, cache=replace(CACHE, **changes))


def containerd(text: str, version: tuple[int, int] | None = (1, 7), problem: str = "") -> Facts:
    config = None if problem else parse_containerd_config([text])
    release = None if version is None else Release(*version)
    facts = ContainerdFacts(release, "/etc/containerd/config.toml", True, config, problem, TABLE)
    return replace(WELL, containerd=facts)


def only_bad(facts: Facts) -> Finding:
    """The one finding that is not well."""
    (finding,) = [finding for finding in diagnose(facts) if finding.level is not Level.OK]
    return finding


@pytest.mark.parametrize("facts", [WELL, USER, containerd("version = 2"), containerd("version = 3", (2, 1))])
def test_a_good_machine_is_well(facts: Facts) -> None:
    assert [finding for finding in diagnose(facts) if finding.level is not Level.OK] == []


@pytest.mark.parametrize(
    ("facts", "level", "subject", "mend"),
    [
        (kernel(fuse=Support.NO), Level.FAIL, "FUSE", "apt-get install linux-image"),
        (fuse(WELL, device="No such file or directory"), Level.FAIL, "FUSE", "modprobe fuse"),
        (fuse(WELL, device="No such device"), Level.FAIL, "FUSE", "modprobe fuse"),
        (fuse(WELL, device="Permission denied"), Level.FAIL, "FUSE", "chmod"),
        (fuse(USER, helper=None), Level.FAIL, "fusermount3", "apt-get install fuse3"),
        (fuse(USER, helper_setuid=False), Level.FAIL, "fusermount3", "chmod 4755"),
        (kernel(erofs=Support.NO), Level.WARN, "EROFS", "modprobe erofs"),
        (tried(fuse="Operation not permitted"), Level.FAIL, "FUSE", "--cap-add SYS_ADMIN"),
        (tried(USER, fuse="fusermount3: mount failed"), Level.FAIL, "FUSE", "no_new_privs"),
        (tried(erofs_file="Operation not permitted"), Level.WARN, "EROFS", "--cap-add SYS_ADMIN"),
        (tried(erofs_file=NO_DEVICE, erofs_loop=""), Level.WARN, "EROFS", "6.12 or later"),
        (
            tried(erofs_file=NO_DEVICE, erofs_loop="No such file or directory"),
            Level.WARN,
            "EROFS",
            "CONFIG_EROFS_FS_BACKED_BY_FILE",
        ),
        (kernel(overlay=Support.NO), Level.WARN, "overlayfs", "modprobe overlay"),
        (tried(overlay="Operation not permitted"), Level.WARN, "overlayfs", "modprobe overlay"),
        (cache(problem="Permission denied"), Level.FAIL, "cache_dir", "cache_dir ="),
        (cache(filesystem="nfs4"), Level.FAIL, "cache_dir", "cache_dir ="),
        (cache(filesystem="fuse.sshfs"), Level.FAIL, "cache_dir", "cache_dir ="),
        (cache(filesystem="tmpfs"), Level.WARN, "cache_dir", "cache_dir ="),
        (cache(free_bytes=10 * GIB), Level.WARN, "disk space", 'store_quota_bytes = "8GiB"'),
        (cache(free_bytes=GIB // 2), Level.FAIL, "disk space", "store_quota_bytes"),
        (replace(WELL, address_space_bytes=8 * GIB), Level.FAIL, "address space", "ulimit -v"),
        (replace(WELL, open_files=256), Level.WARN, "open files", "ulimit -n"),
        (replace(WELL, user_namespaces=0), Level.WARN, "user namespaces", "sysctl"),
        (containerd("version = 2", (1, 5)), Level.WARN, "containerd", "apt-get install containerd"),
        (containerd("version = 2", None), Level.WARN, "containerd", "containerd --version"),
        (
            containerd("", problem="not valid TOML"),
            Level.WARN,
            "containerd config",
            "containerd config default",
        ),
    ],
)
def test_what_is_wrong_is_found_with_its_mend(facts: Facts, level: Level, subject: str, mend: str) -> None:
    finding = only_bad(facts)
    assert (finding.level, finding.subject) == (level, subject)
    assert finding.why
    assert mend in finding.mend


def test_an_old_kernel_loses_takeover_and_file_mounts() -> None:
    old = tried(erofs_file=NO_DEVICE, erofs_loop="")
    facts = kernel(old, release="6.1.0", version=(6, 1))
    bad = [finding.subject for finding in diagnose(facts) if finding.level is Level.WARN]
    assert bad == ["FUSE resend", "EROFS"]


def test_what_could_not_be_tried_is_told() -> None:
    nowhere = replace(WELL, trials=Trials(untried="No usable temporary directory"))
    bad = [finding for finding in diagnose(nowhere) if finding.level is not Level.OK]
    assert [finding.subject for finding in bad] == ["EROFS", "overlayfs"]
    assert all("TMPDIR" in finding.mend for finding in bad)
    without_fuse = fuse(tried(fuse=None, erofs_file=None), device="No such file or directory")
    assert only_bad(without_fuse).subject == "FUSE"


def test_a_store_that_is_already_full_needs_no_room() -> None:
    facts = cache(free_bytes=GIB // 2, used_bytes=20 * GIB)
    assert all(finding.level is Level.OK for finding in diagnose(facts))


CRI = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd]\n'
PROXY = '[proxy_plugins.stargz]\ntype = "snapshot"\naddress = "/run/s.sock"\n'


@pytest.mark.parametrize(
    ("text", "level", "subject", "mend"),
    [
        (
            CRI + 'snapshotter = "x"\ndisable_snapshot_annotations = false',
            Level.FAIL,
            "CRI snapshotter",
            '"overlayfs"',
        ),
        (CRI + 'snapshotter = "stargz"\n' + PROXY, Level.WARN, "snapshot labels", "annotations = false"),
    ],
)
def test_containerds_snapshotter_is_judged(text: str, level: Level, subject: str, mend: str) -> None:
    finding = only_bad(containerd(text))
    assert (finding.level, finding.subject) == (level, subject)
    assert mend in finding.mend
    assert '[plugins."io.containerd.grpc.v1.cri".containerd]' in finding.mend


OLD_KERNEL = replace(TABLE, maps_ids=False)
SERVICES = ServiceFacts("", "/run/cafs/mountd/mountd.sock", "")


def set_up(
    release: str = "1.7",
    services: ServiceFacts = SERVICES,
    edit: tuple[str, str] = ("", ""),
    table: ProxyTable = TABLE,
    installed: Release | None = None,
) -> Facts:
    """As ``cafs snapshotter --print-config`` has it, but for one edit."""
    lines = containerd_lines(parse_release(release), table)
    assert edit[0] in lines
    facts = containerd(lines.replace(*edit), installed or parse_release(release))
    assert facts.containerd is not None
    return replace(facts, containerd=replace(facts.containerd, services=services, table=table))


@pytest.mark.parametrize("table", [TABLE, OLD_KERNEL])
@pytest.mark.parametrize("release", ["1.6", "1.7", "2.0", "2"])
def test_what_the_snapshotter_prints_is_well(release: str, table: ProxyTable) -> None:
    findings = diagnose(set_up(release, replace(SERVICES, descriptor_store=32), table=table))
    assert [finding for finding in findings if finding.level is not Level.OK] == []
    assert "snapshotter cafs" in [finding.subject for finding in findings]
    (users,) = [finding.what for finding in findings if finding.subject == "user namespaces of pods"]
    assert ("nothing is copied" in users) is (release[0] == "2" and table is TABLE)


@pytest.mark.parametrize(
    ("facts", "level", "subject", "mend"),
    [
        (
            set_up(edit=("disable_snapshot_annotations = false", "")),
            Level.WARN,
            "snapshot labels",
            "disable_snapshot_annotations = false",
        ),
        (
            set_up(edit=('snapshotter = "cafs"', "")),
            Level.WARN,
            "CRI snapshotter",
            'snapshotter = "cafs"',
        ),
        (
            set_up(edit=("[proxy_plugins.cafs]", "[proxy_plugins.other]")),
            Level.FAIL,
            "CRI snapshotter",
            "add what 'cafs snapshotter --print-config' prints",
        ),
        (
            set_up(services=replace(SERVICES, snapshotter="No such file or directory")),
            Level.FAIL,
            "snapshotter cafs",
            "cafs snapshotter --address /run/cafs/snapshotter.sock",
        ),
        (
            set_up(services=replace(SERVICES, mountd="Connection refused")),
            Level.WARN,
            "mount server",
            "systemctl start cafs-mountd",
        ),
        (
            set_up("2", services=replace(SERVICES, descriptor_store=0)),
            Level.WARN,
            "descriptor store",
            "install-systemd.sh",
        ),
        (
            set_up(services=replace(SERVICES, snapshotter="No such file or directory", answers_at="/run/x")),
            Level.FAIL,
            "snapshotter cafs",
            'in /etc/containerd/config.toml, [proxy_plugins.cafs]: address = "/run/x"',
        ),
        (
            set_up("2", edit=('"linux/amd64"', '"linux/arm64"')),
            Level.FAIL,
            "proxy plugin",
            '[proxy_plugins.cafs]: platform = "linux/amd64"',
        ),
        (
            set_up("2", replace(SERVICES, has_root=False), ("/var/lib/cafs/s", "/elsewhere")),
            Level.WARN,
            "proxy plugin",
            '[proxy_plugins.cafs.exports]: root = "/var/lib/cafs/s"',
        ),
        (
            set_up("2", edit=('capabilities = ["remap-ids"]', "")),
            Level.WARN,
            "user namespaces of pods",
            'capabilities = ["remap-ids"]',
        ),
        (
            set_up(
                "2",
                edit=("[proxy_plugins.cafs]", '[proxy_plugins.cafs]\ncapabilities = ["remap-ids"]'),
                table=OLD_KERNEL,
            ),
            Level.FAIL,
            "user namespaces of pods",
            "out of capabilities",
        ),
        (
            set_up("2", installed=Release(1, 6)),
            Level.FAIL,
            "containerd config",
            "format 2, with what 'cafs snapshotter --print-config' prints",
        ),
        (
            set_up("2", services=replace(SERVICES, plain_registries=("reg.lan:5000",))),
            Level.WARN,
            "registries",
            'insecure_registries = ["reg.lan:5000"]',
        ),
    ],
)
def test_what_keeps_containerd_from_using_cafs_is_found(
    facts: Facts, level: Level, subject: str, mend: str
) -> None:
    finding = only_bad(facts)
    assert (finding.level, finding.subject) == (level, subject)
    assert finding.why
    assert mend in finding.mend


def test_a_containerd_without_a_file_has_its_defaults() -> None:
    facts = containerd("version = 2")
    assert facts.containerd is not None
    told = diagnose(replace(facts, containerd=replace(facts.containerd, has_file=False)))
    (finding,) = [finding for finding in told if finding.subject == "containerd config"]
    assert finding.what == "no /etc/containerd/config.toml: containerd's defaults apply"


def test_a_containerd_without_cri_is_left_alone() -> None:
    subjects = [
        finding.subject for finding in diagnose(containerd('version = 2\ndisabled_plugins = ["cri"]'))
    ]
    assert subjects[-1] == "containerd CRI"
