import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.chunk import Codec, chunk_digest, decode_frame
from cafs.errors import IntegrityError


@given(st.binary(max_size=5000))
def test_a_frame_decodes_to_what_was_compressed(plain: bytes) -> None:
    frame = zstandard.ZstdCompressor().compress(plain)
    chunk = decode_frame(chunk_digest(plain), Codec.ZSTD, frame, len(plain))
    assert chunk.plain == plain


@given(st.binary(min_size=1, max_size=500), st.data())
def test_a_flipped_bit_never_decodes(plain: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, len(plain) * 8 - 1))
    bad = bytearray(plain)
    bad[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError):
        decode_frame(chunk_digest(plain), Codec.RAW, bytes(bad), len(plain))


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    frame = zstandard.ZstdCompressor().compress(bytes(100_000_000))
    with pytest.raises(IntegrityError, match="declares 100000000"):
        decode_frame(bytes(32), Codec.ZSTD, frame, 4096)


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(IntegrityError, match="codec 9"):
        decode_frame(bytes(32), 9, b"x", 1)
