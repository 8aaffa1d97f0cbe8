import pytest

from cafs.errors import UsageError
from cafs.node.containerd_config import ContainerdConfig, ProxyPlugin, imports_of, parse_containerd_config

V1 = """
[plugins.cri.containerd]
  snapshotter = "native"
"""
V2 = """
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "stargz"
  disable_snapshot_annotations = false
[proxy_plugins.stargz]
  type = "snapshot"
  address = "/run/stargz.sock"
[proxy_plugins.other]
  type = "content"
  address = "/run/other.sock"
"""
V3 = """
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "cafs"
  disable_snapshot_annotations = true
"""


def test_each_format_is_read() -> None:
    assert parse_containerd_config([V1]) == ContainerdConfig(
        1, False, "native", False, "plugins.cri.containerd", ()
    )
    assert parse_containerd_config([V2]) == ContainerdConfig(
        2,
        False,
        "stargz",
        True,
        'plugins."io.containerd.grpc.v1.cri".containerd',
        (ProxyPlugin("stargz", "/run/stargz.sock"),),
    )
    assert parse_containerd_config([V3]) == ContainerdConfig(
        3, False, "cafs", False, 'plugins."io.containerd.cri.v1.images"', ()
    )


def test_an_empty_file_means_the_defaults() -> None:
    config = parse_containerd_config([""])
    assert (config.format, config.snapshotter, config.snapshot_annotations) == (1, "overlayfs", False)


def test_imports_override_and_keep_the_rest() -> None:
    later = '[plugins."io.containerd.cri.v1.images"]\ndisable_snapshot_annotations = false\n'
    config = parse_containerd_config([V3, later])
    assert (config.snapshotter, config.snapshot_annotations) == ("cafs", True)
    assert imports_of(V3) == ("/etc/containerd/conf.d/*.toml",)
    assert imports_of(V2) == ()


@pytest.mark.parametrize("name", ["cri", "io.containerd.grpc.v1.cri"])
def test_a_disabled_cri_is_seen(name: str) -> None:
    assert parse_containerd_config([f'version = 2\ndisabled_plugins = ["{name}"]']).cri_disabled


@pytest.mark.parametrize("text", ["version = 4", "version = 'x'", "= 1", "version = [1]"])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_containerd_config([text])


@pytest.mark.parametrize(
    "text", ["plugins = 1", "version = 2\nproxy_plugins = 3", "plugins.cri = []\nimports = 7"]
)
def test_odd_types_are_taken_for_absent(text: str) -> None:
    assert parse_containerd_config([text]).snapshotter == "overlayfs"
    assert imports_of(text) == ()
