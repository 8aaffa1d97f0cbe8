from cafs.containerd.layer_users import Container, Snapshot, users_of_layers

BASE = Snapshot("sha256:a", "", "sha256:base")
APP = Snapshot("k8s.io/2/sha256:b", BASE.name, "sha256:app")
PLAIN = Snapshot("k8s.io/5/sha256:c", BASE.name, "")
SNAPSHOTS = [
    BASE,
    APP,
    PLAIN,
    Snapshot("k8s.io/3/one", APP.name, ""),
    Snapshot("k8s.io/4/a/b", PLAIN.name, ""),
    Snapshot("default/6/one", "", ""),
]
ONE = Container("k8s.io", "one", "app", "one")
TWO = Container("k8s.io", "two", "plain", "a/b")
OTHER = Container("default", "one", "other", "one")


def test_a_container_uses_every_layer_below_its_snapshot() -> None:
    assert users_of_layers(SNAPSHOTS, [TWO, ONE, OTHER]) == {"sha256:base": [ONE, TWO], "sha256:app": [ONE]}


def test_what_is_not_there_or_goes_round_is_nobodys() -> None:
    circle = [Snapshot("n/1/a", "n/2/b", ""), Snapshot("n/2/b", "n/1/a", "sha256:x")]
    lost = Container("k8s.io", "lost", "", "nowhere")
    assert users_of_layers(SNAPSHOTS, [lost]) == {}
    container = Container("n", "c", "", "a")
    assert users_of_layers(circle, [container]) == {"sha256:x": [container]}
