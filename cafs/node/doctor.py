"""Judges a machine: from facts to findings, each with what it means and how to mend it. Pure.

Used by ``cafs doctor``; the facts come from ``machine_survey``. Says only what matters for what CAFS
can do now.
"""

from __future__ import annotations

from cafs.node.doctor_containerd import diagnose_containerd
from cafs.node.finding import Finding, Level
from cafs.node.machine_facts import CacheFacts, Facts, FuseFacts, KernelFacts, Support, Trials

RESEND_SINCE = (6, 9)
"""FUSE_NOTIFY_RESEND: unanswered requests are sent again to a new server."""
NETWORK_FILESYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "afs", "gfs2", "ocfs2", "virtiofs", "beegfs")
)
LEAST_FREE_BYTES = 1 << 30
LEAST_OPEN_FILES = 1024


def diagnose(facts: Facts) -> list[Finding]:
    """All findings, in the order in which they are best read."""
    return [
        _kernel(facts.kernel),
        _fuse_device(facts),
        _fuse_helper(facts.fuse, facts.is_root),
        _takeover(facts.kernel),
        _erofs(facts),
        _overlay(facts),
        _cache_directory(facts.cache),
        _cache_space(facts.cache, facts.quota_bytes),
        _address_space(facts),
        _open_files(facts.open_files),
        _user_namespaces(facts),
        *diagnose_containerd(facts.containerd),
    ]


def _kernel(kernel: KernelFacts) -> Finding:
    return Finding(Level.OK, "kernel", f"Linux {kernel.release}")


def _fuse_device(facts: Facts) -> Finding:
    subject = "FUSE"
    if facts.kernel.fuse is Support.NO:
        return Finding(
            Level.FAIL,
            subject,
            "this kernel has no FUSE",
            "nothing can be mounted",
            "boot a kernel with CONFIG_FUSE_FS, or install its modules: apt-get install linux-image-amd64",
        )
    if facts.fuse.device:
        missing = facts.fuse.device.startswith("No such ")  # also "device": the module is not loaded
        return Finding(
            Level.FAIL,
            subject,
            f"/dev/fuse cannot be opened: {facts.fuse.device}",
            "nothing can be mounted",
            "modprobe fuse (in a container: start it with --device /dev/fuse --cap-add SYS_ADMIN)"
            if missing
            else "chmod 0666 /dev/fuse (in a container: start it with --device /dev/fuse)",
        )
    if facts.trials.fuse:
        return Finding(
            Level.FAIL,
            subject,
            f"it cannot be mounted: {facts.trials.fuse}",
            "nothing can be mounted",
            "in a container: start it with --cap-add SYS_ADMIN, and where AppArmor forbids mounting, with"
            " --security-opt apparmor=unconfined"
            if facts.is_root
            else "set-id programs must be allowed (no_new_privs), in a container --cap-add SYS_ADMIN too",
        )
    return Finding(
        Level.OK,
        subject,
        "/dev/fuse can be opened" + (", and mounted (tried)" if facts.trials.fuse == "" else ""),
    )


def _fuse_helper(fuse: FuseFacts, is_root: bool) -> Finding:
    subject = "fusermount3"
    if is_root:
        return Finding(Level.OK, subject, fuse.helper or "not installed; root does not need it")
    if fuse.helper is None or not fuse.helper_setuid:
        state = "not installed" if fuse.helper is None else f"{fuse.helper} is not setuid root"
        mend = (
            "apt-get install fuse3"
            if fuse.helper is None
            else f"chown root: {fuse.helper} && chmod 4755 {fuse.helper}"
        )
        return Finding(Level.FAIL, subject, state, "users other than root cannot mount", mend)
    return Finding(Level.OK, subject, fuse.helper)


def _takeover(kernel: KernelFacts) -> Finding:
    if kernel.version >= RESEND_SINCE:
        return Finding(Level.OK, "FUSE resend", "readers survive a crash of the mount server")
    return Finding(
        Level.WARN,
        "FUSE resend",
        f"Linux {kernel.release} cannot send unanswered requests again",
        "reads under way fail with EIO when the mount server crashes; later ones work",
        "run Linux 6.9 or later: apt-get install -t bookworm-backports linux-image-amd64",
    )


def _erofs(facts: Facts) -> Finding:
    kernel, subject = facts.kernel, "EROFS"
    fallback = "--driver auto uses the slower fuse driver"
    if not facts.is_root:
        return Finding(
            Level.OK, subject, "not used: only root can mount it; --driver auto uses the fuse driver"
        )
    if kernel.erofs is Support.NO:
        return Finding(
            Level.WARN,
            subject,
            "this kernel has no EROFS",
            fallback,
            "install the kernel's modules (apt-get install linux-image-amd64), then: modprobe erofs",
        )
    tried = facts.trials
    if tried.erofs_file is None:
        return _untried(subject, tried)
    if tried.erofs_file == "":
        return Finding(Level.OK, subject, "mounts images straight from files (tried)")
    if tried.erofs_loop == "":
        return Finding(
            Level.WARN,
            subject,
            f"Linux {kernel.release} mounts images through loop devices only",
            "works, with a copy more for each read",
            "run Linux 6.12 or later, with CONFIG_EROFS_FS_BACKED_BY_FILE:"
            " apt-get install -t bookworm-backports linux-image-amd64",
        )
    loop = f"; through a loop device: {tried.erofs_loop}" if tried.erofs_loop else ""
    return Finding(
        Level.WARN,
        subject,
        f"an image could not be mounted: {tried.erofs_file}{loop}",
        fallback,
        "boot a kernel of 6.12 or later with CONFIG_EROFS_FS_BACKED_BY_FILE;"
        " in a container add --cap-add SYS_ADMIN",
    )


def _overlay(facts: Facts) -> Finding:
    subject, tried = "overlayfs", facts.trials
    if not facts.is_root:
        return Finding(Level.OK, subject, "not used: containers alone need it, and root for them")
    if facts.kernel.overlay is not Support.NO and not tried.overlay:
        return (
            _untried(subject, tried)
            if tried.overlay is None
            else Finding(Level.OK, subject, "stacks layers (tried)")
        )
    what = (
        "this kernel has no overlayfs"
        if facts.kernel.overlay is Support.NO
        else f"a trial failed: {tried.overlay}"
    )
    return Finding(
        Level.WARN,
        subject,
        what,
        "containers cannot be given a root: cafs snapshotter needs it, cafs mount does not",
        "modprobe overlay (in a container: start it with --cap-add SYS_ADMIN)",
    )


def _untried(subject: str, trials: Trials) -> Finding:
    if not trials.untried:
        return Finding(Level.OK, subject, "not tried: it is mounted on FUSE")
    mend = "set TMPDIR to a directory that can be written"
    return Finding(
        Level.WARN, subject, f"not tried: {trials.untried}", "whether it can be mounted is not known", mend
    )


def _cache_directory(cache: CacheFacts) -> Finding:
    subject = "cache_dir"
    elsewhere = 'set another one in the configuration: cache_dir = "/var/lib/cafs"'
    if cache.problem:
        return Finding(
            Level.FAIL,
            subject,
            f"{cache.path} cannot be written: {cache.problem}",
            "nothing can be stored",
            elsewhere,
        )
    if cache.filesystem in NETWORK_FILESYSTEMS or cache.filesystem.startswith("fuse."):
        return Finding(
            Level.FAIL,
            subject,
            f"{cache.path} lies on {cache.filesystem}",
            "LMDB, which the chunk store is kept in, shares memory and locks; this filesystem does not",
            elsewhere,
        )
    if cache.filesystem in {"tmpfs", "ramfs"}:
        return Finding(
            Level.WARN,
            subject,
            f"{cache.path} lies on {cache.filesystem}",
            "chunks take memory and are gone after a reboot",
            elsewhere,
        )
    return Finding(Level.OK, subject, f"{cache.path} on {cache.filesystem}")


def _cache_space(cache: CacheFacts, quota_bytes: int) -> Finding:
    subject, free = "disk space", _gib(cache.free_bytes)
    left_of_quota = max(0, quota_bytes - cache.used_bytes)
    shrink = (
        f'free some, or lower the quota: store_quota_bytes = "{max(1, cache.free_bytes * 4 // 5 >> 30)}GiB"'
    )
    if cache.free_bytes < min(LEAST_FREE_BYTES, left_of_quota):
        return Finding(
            Level.FAIL, subject, f"{free} free for {cache.path}", "chunks will find no room", shrink
        )
    if cache.free_bytes < left_of_quota:
        why = f"the chunk store may grow by {_gib(left_of_quota)}, to its quota; the disk will be full before"
        return Finding(Level.WARN, subject, f"{free} free for {cache.path}", why, shrink)
    return Finding(
        Level.OK, subject, f"{free} free, quota {_gib(quota_bytes)}, {_gib(cache.used_bytes)} used"
    )


def _address_space(facts: Facts) -> Finding:
    limit, subject = facts.address_space_bytes, "address space"
    if limit is None or limit > 2 * facts.quota_bytes:
        return Finding(Level.OK, subject, "unlimited" if limit is None else _gib(limit))
    return Finding(
        Level.FAIL,
        subject,
        f"limited to {_gib(limit)}",
        f"the chunk store maps its whole quota of {_gib(facts.quota_bytes)} into memory",
        "ulimit -v unlimited",
    )


def _open_files(limit: int) -> Finding:
    if limit >= LEAST_OPEN_FILES:
        return Finding(Level.OK, "open files", f"up to {limit}")
    why = "many layers and connections at once may find no descriptor"
    return Finding(Level.WARN, "open files", f"up to {limit}", why, f"ulimit -n {LEAST_OPEN_FILES}")


def _user_namespaces(facts: Facts) -> Finding:
    if facts.user_namespaces > 0:
        return Finding(Level.OK, "user namespaces", f"up to {facts.user_namespaces}")
    return Finding(
        Level.WARN,
        "user namespaces",
        "switched off",
        "images mount, but rootless containers cannot run from them",
        "sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1",
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB"
