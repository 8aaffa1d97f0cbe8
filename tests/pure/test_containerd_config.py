import pytest

from cafs.containerd.setup import Release
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


def test_format_4_has_the_same_tables() -> None:
    assert parse_containerd_config([V3.replace("version = 3", "version = 4")]).snapshotter == "cafs"


def test_2_takes_imports_together_each_by_its_own_format() -> None:
    """As ``containerd config dump`` of 2.x shows it."""
    old = '[plugins."io.containerd.grpc.v1.cri".containerd]\ndisable_snapshot_annotations = false\n'
    for release in (Release(2, 0), None):
        for text in (old, "version = 2\n" + old):
            config = parse_containerd_config([V3, text], release)
            assert (config.format, config.snapshotter, config.snapshot_annotations) == (3, "cafs", True)
        ignored = parse_containerd_config([V3, "version = 3\n" + old], release)
        assert not ignored.snapshot_annotations
    config = parse_containerd_config([V2, old.replace("false", "true")], Release(2, 0))
    assert (config.snapshotter, config.snapshot_annotations) == ("stargz", False)


def test_1_takes_the_last_that_is_said_of_a_plugin() -> None:
    """The rest of it is as by default then."""
    later = '[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/certs"\n'
    for release in (Release(1, 7), None):
        config = parse_containerd_config([V2, later], release)
        assert (config.snapshotter, config.snapshot_annotations) == ("overlayfs", False)
        assert config.hosts_folders == ("/etc/certs",)
        assert [plugin.name for plugin in config.snapshotter_plugins] == ["stargz"]


def test_a_plugin_disabled_by_any_file_is_disabled() -> None:
    disabling = "disabled_plugins = ['io.containerd.grpc.v1.cri']\n"
    assert parse_containerd_config([V3, disabling, "disabled_plugins = []"]).cri_disabled
    assert parse_containerd_config([disabling + V3]).cri_disabled


def test_imports_override_and_keep_the_rest() -> None:
    later = '[plugins."io.containerd.cri.v1.images"]\ndisable_snapshot_annotations = false\n'
    config = parse_containerd_config([V3, later])
    assert (config.snapshotter, config.snapshot_annotations) == ("cafs", True)
    assert imports_of(V3) == ("/etc/containerd/conf.d/*.toml",)
    assert imports_of(V2) == ()


@pytest.mark.parametrize("name", ["cri", "io.containerd.grpc.v1.cri"])
def test_a_disabled_cri_is_seen(name: str) -> None:
    assert parse_containerd_config([f'version = 2\ndisabled_plugins = ["{name}"]']).cri_disabled


@pytest.mark.parametrize("text", ["version = 5", "version = 'x'", "= 1", "version = [1]"])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_containerd_config([text])


@pytest.mark.parametrize(
    "text", ["plugins = 1", "version = 2\nproxy_plugins = 3", "plugins.cri = []\nimports = 7"]
)
def test_odd_types_are_taken_for_absent(text: str) -> None:
    assert parse_containerd_config([text]).snapshotter == "overlayfs"
    assert imports_of(text) == ()
