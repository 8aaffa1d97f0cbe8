from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.cli import config
from cafs.cli.config import line_of_key, load_settings
from cafs.core.settings import Settings
from cafs.errors import UsageError


@pytest.fixture(autouse=True)
def system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for /etc/cafs/config.toml."""
    path = tmp_path / "system.toml"
    monkeypatch.setattr(config, "SYSTEM_FILE", path)
    return path


def test_defaults_follow_the_user(tmp_path: Path) -> None:
    root = load_settings({"HOME": "/root"}, is_root=True)
    assert (root.cache_dir, root.run_dir) == (Path("/var/lib/cafs"), Path("/run/cafs"))
    user = load_settings({"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"}, is_root=False)
    assert (user.cache_dir, user.run_dir) == (Path("/home/u/.cache/cafs"), Path("/run/user/7/cafs"))
    bare = load_settings({"HOME": "/home/u", "XDG_CACHE_HOME": "/x"}, is_root=False)
    assert (bare.cache_dir, bare.run_dir) == (Path("/x/cafs"), Path("/x/cafs/run"))


def test_each_source_overrides_the_one_before(tmp_path: Path, system_file: Path) -> None:
    home, given = tmp_path / "xdg", tmp_path / "given.toml"
    (home / "cafs").mkdir(parents=True)
    system_file.write_text("retries = 1\nfetch_concurrency = 1\nconvert_workers = 1\nread_deadline_s = 1\n")
    (home / "cafs/config.toml").write_text(
        "fetch_concurrency = 2\nconvert_workers = 2\nread_deadline_s = 2\n"
    )
    given.write_text("convert_workers = 3\nread_deadline_s = 3.5\nstore_quota_bytes = '3GiB'\n")
    settings = load_settings(
        {"XDG_CONFIG_HOME": str(home), "CAFS_READ_DEADLINE_S": "4", "CAFS_INSECURE_REGISTRIES": "a:1, b"},
        is_root=True,
        config=given,
        flags=["store-quota-bytes=5GiB"],
    )
    assert (settings.retries, settings.fetch_concurrency, settings.convert_workers) == (1, 2, 3)
    assert (settings.read_deadline_s, settings.store_quota_bytes) == (4.0, 5 << 30)
    assert settings.insecure_registries == ("a:1", "b")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# x\n\nretires = 3\n", r"line 3: unknown setting 'retires' \(did you mean 'retries'\?\)"),
        ("retries = 3\nzzz = 1\n", r"line 2: unknown setting 'zzz' \(known: .*retries"),
        ("[peer]\nport = 1\n", "line 1: unknown setting 'peer'"),
        ("retries = 'many'\n", "line 1: retries must be a number, not 'many'"),
        ("retries = true\n", "line 1: retries must be a number, not True"),
        ("retries = 1.5\n", "line 1: retries must be a number, not 1.5"),
        ("\nretries = -1\n", "line 2: retries must be at least 0, not -1"),
        ("fetch_concurrency = 1000\n", "line 1: fetch_concurrency must be at most 256, not 1000"),
        (
            "store_quota_bytes = '1 bag'\n",
            "line 1: store_quota_bytes must be a size, not '1 bag': not a size",
        ),
        ("read_deadline_s = nan\n", "line 1: read_deadline_s must be a number of seconds, not nan"),
        (
            "cache_dir = 'here'\n",
            "line 1: cache_dir must be a path, not 'here': in a file it must be absolute",
        ),
        ("cache_dir = 1\n", "line 1: cache_dir must be a path, not 1"),
        ("learned_profiles = 'no'\n", "learned_profiles must be a switch, not 'no': true or false"),
        ("learned_profiles = 1\n", "learned_profiles must be a switch, not 1: true or false"),
        ("insecure_registries = 'a'\n", "line 1: insecure_registries must be a list of names, not 'a'"),
        ("insecure_registries = ['a', 1]\n", "line 1: insecure_registries must be a list of names"),
        ("retries = = 1\n", r"not valid TOML: .*line 1"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint) as e:
        load_settings({}, is_root=True, config=path)
    assert str(e.value).startswith(str(path))


@pytest.mark.parametrize(
    ("environment", "flags", "complaint"),
    [
        ({"CAFS_RETIRES": "3"}, [], "environment variable CAFS_RETIRES: unknown setting"),
        ({"CAFS_RETRIES": "x"}, [], "environment variable CAFS_RETRIES: retries must be a number, not 'x'"),
        ({}, ["learned_profiles=True"], "learned_profiles must be a switch, not 'True': true or false"),
        ({"CAFS_CACHE_DIR": "/a\udcff"}, [], "CAFS_CACHE_DIR: cache_dir must be a path.*in UTF-8"),
        ({}, ["retries"], "--set retries: expected KEY=VALUE"),
        ({}, ["retries=x"], "--set retries=x: retries must be a number"),
    ],
)
def test_a_mistake_elsewhere_is_named_with_its_place(
    environment: dict[str, str], flags: list[str], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        load_settings(environment, is_root=True, flags=flags)


def test_variables_that_are_no_settings_are_left_alone() -> None:
    others = ["CAFS_CONFIG", "CAFS_TEST_RUN", "CAFS_SERVICE_HOST", "CAFS_PORT_80_TCP_ADDR", "CAFS_SEED_PORT"]
    load_settings(dict.fromkeys(others, "x"), is_root=True)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read configuration .*nowhere: No such file or directory$"):
        load_settings({}, is_root=True, config=tmp_path / "nowhere")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"binary: not valid TOML: it is no UTF-8 text$"):
        load_settings({}, is_root=True, config=tmp_path / "binary")


KEYS = st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), unique=True, min_size=1, max_size=6)
VALUES = st.sampled_from(["1", "'''\na = 1\nb = 2\n'''", "[\n  1, # a = 2\n  2]", '"""\n[a]\n"""', "{x = 1}"])
GAPS = st.sampled_from(["", "\n", "# a = 1\n", "\n\n  # b = 7\n"])


@given(KEYS, st.data())
def test_the_line_of_a_key_is_found_whatever_stands_around_it(keys: list[str], data: st.DataObject) -> None:
    text = ""
    lines = {}
    for key in keys:
        text += data.draw(GAPS)
        lines[key] = text.count("\n") + 1
        text += f"{key} = {data.draw(VALUES)}\n"
    assert {key: line_of_key(text, key) for key in keys} == lines


def test_every_setting_explains_itself_and_has_a_default_within_its_bounds() -> None:
    settings = Settings(cache_dir=Path("/c"), run_dir=Path("/r"))
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        assert setting.metadata["doc"]
        if isinstance(value, int | float):
            assert setting.metadata["least"] <= value <= setting.metadata["most"]
