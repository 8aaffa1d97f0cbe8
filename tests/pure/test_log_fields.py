import pytest

from cafs.core.log_fields import about


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"image": "a.io/app:v1", "layer": "sha256:0"}, "image=a.io/app:v1 layer=sha256:0"),
        ({"image": "", "layer": "x"}, "layer=x"),
        ({"image": "a\nlayer=y"}, 'image="a\\nlayer=y"'),
        ({"image": 'a "b"'}, 'image="a \\"b\\""'),
        ({}, ""),
    ],
)
def test_a_line_stays_one_line_and_its_fields_apart(fields: dict[str, str], text: str) -> None:
    assert about(**fields) == text
