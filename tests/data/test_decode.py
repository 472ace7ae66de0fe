"""Decoding: every kind of image becomes the RGB that is meant, or a bad image that is named."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from vggfast.data import BadImageError
from vggfast.data.decode import Photograph
from vggfast.data.transforms import CentreCrop, TrainCrop, Window

ROUNDED = 1.01  # Pillow rounds to bytes after the rows and again after the columns


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(raw: bytes) -> np.ndarray:
    image = Photograph(raw, "x").rgb()
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.fixture
def cat(pictures) -> Image.Image:
    return Image.fromarray(pictures["cat"])


def test_rgb_is_kept(cat):
    assert np.array_equal(decoded(encoded(cat)), np.asarray(cat))


def test_grey_images_have_three_equal_channels(cat):
    grey = cat.convert("L")
    assert np.array_equal(decoded(encoded(grey)), np.asarray(grey)[..., None].repeat(3, 2))
    jpeg = decoded(encoded(grey, "JPEG"))
    assert np.array_equal(jpeg[..., 0], jpeg[..., 2])
    black_and_white = decoded(encoded(grey.convert("1")))
    assert set(np.unique(black_and_white)) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_16_bits_are_rounded_to_8(kind):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    result = decoded(encoded(Image.fromarray(values), kind))
    assert np.array_equal(result[..., 1], np.round(values / 257).astype(int))


def test_palettes(cat):
    palette = cat.quantize(32)
    assert np.array_equal(decoded(encoded(palette)), np.asarray(palette.convert("RGB")))
    assert np.array_equal(decoded(encoded(palette, "GIF")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["MPO", "GIF", "WEBP"])
def test_of_several_frames_the_first_counts(cat, kind):
    frames = [cat.resize((60, 40)), Image.new("RGB", (60, 40), (9, 200, 30))]
    raw = encoded(frames[0], kind, save_all=True, append_images=frames[1:], quality=95)
    assert np.abs(decoded(raw) - np.asarray(frames[0]).astype(int)).mean() < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_over_white(cat, mode):
    alpha = np.arange(300 * 451).reshape(300, 451) % 256
    if mode == "P":
        image = cat.quantize(32)
        raw = encoded(image, transparency=5)
        alpha = np.where(np.asarray(image) == 5, 0, 255)
        colours = np.asarray(image.convert("RGB"))
    else:
        image = cat.convert(mode)
        image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
        raw = encoded(image)
        colours = np.asarray(cat.convert(mode.removesuffix("A")).convert("RGB"))
    a = alpha[..., None] / 255
    assert np.abs(decoded(raw) - (a * colours + (1 - a) * 255)).max() <= 1


def test_rgb_with_one_transparent_colour():
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (9, 9, 9))
    raw = encoded(image, transparency=(9, 9, 9))
    assert decoded(raw).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_with_and_without_adobes_marker():
    inks = np.zeros((16, 48, 4), np.uint8)  # white, pure cyan, half black
    inks[:, 16:32, 0], inks[:, 32:, 3] = 255, 128
    raw = encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)
    colours = [[255, 255, 255], [0, 255, 255], [127, 127, 127]]
    assert np.abs(decoded(raw)[8, 8::16] - colours).max() <= 2
    at = raw.index(b"\xff\xee")
    length = int.from_bytes(raw[at + 2 : at + 4], "big")
    assert raw[at + 4 : at + 9] == b"Adobe"
    unmarked = raw[:at] + raw[at + 2 + length :]  # its bytes then mean inks as they are
    inverted = [[0, 0, 0], [0, 0, 0], [0, 0, 0]]  # all black: 255 of K, but 127 in the last
    result = decoded(unmarked)[8, 8::16]
    assert np.abs(result[:2] - inverted[:2]).max() <= 2
    assert result[2].max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(cat, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encoded(cat, kind, exif=exif)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
    photograph = Photograph(raw, "x")
    assert photograph.size == shown.size
    assert np.array_equal(np.asarray(photograph.rgb()), np.asarray(shown))


@pytest.fixture
def drafts(monkeypatch) -> list[tuple[int, int]]:
    """The sizes that JPEGs are decoded at."""
    sizes = []
    real = JpegImageFile.load

    def load(self, *args):
        sizes.append(self.size)
        return real(self, *args)

    monkeypatch.setattr(JpegImageFile, "load", load)
    return sizes


def whole(image: Image.Image, window: Window) -> np.ndarray:
    """Rescale the whole image, in floating point, then crop.

    Not by torch, which gives two rows of three the same value when the columns become one.
    """
    channels = [Image.fromarray(np.asarray(c, np.float32)) for c in image.split()]
    scaled = [c.resize(window.scaled, Image.Resampling.BILINEAR) for c in channels]
    rows = slice(window.top, window.top + window.size)
    columns = slice(window.left, window.left + window.size)
    return np.stack([np.asarray(c) for c in scaled], -1)[rows, columns]


@pytest.mark.parametrize(
    ("scaled", "size"),
    [((226, 151), (451, 300)), ((225, 150), (226, 150)), ((113, 75), (226, 150)),
     ((112, 75), (113, 75)), ((60, 40), (113, 75)), ((30, 20), (57, 38)), ((902, 600), (451, 300))],
)  # fmt: skip
def test_a_jpeg_is_decoded_at_a_fraction_never_below_the_wanted_size(cat, drafts, scaled, size):
    """The crop lies where it would without that: at the far end too, where pixels are padded."""
    raw = encoded(cat, "JPEG", quality=95)
    window = Window(20, scaled, scaled[0] - 20, scaled[1] - 20)
    crop = Photograph(raw, "x").crop(window)
    assert set(drafts) == {size}  # and loaded again, for nothing, before it is resized
    want = whole(Image.open(io.BytesIO(raw)), window)
    offsets = {}
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            moved = np.roll(want, (dy, dx), (0, 1))[1:-1, 1:-1]
            offsets[dy, dx] = np.abs(crop[1:-1, 1:-1] - moved).mean()
    assert min(offsets, key=offsets.__getitem__) == (0, 0)
    assert offsets[0, 0] < 4
    Photograph(encoded(cat), "x").crop(window)  # a PNG


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("factor", [0.25, 0.7, 1, 1.3])
def test_a_turned_image_is_cropped_where_it_is_shown(cat, factor, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG"):
        raw = encoded(cat.resize((400, 304)), kind, exif=exif)
        photograph = Photograph(raw, "x")
        width, height = (round(side * factor) for side in photograph.size)
        window = Window(48, (width, height), width - 53, 9)
        crop = photograph.crop(window)
        want = whole(ImageOps.exif_transpose(Image.open(io.BytesIO(raw))), window)
        error = np.abs(crop - want)
        assert crop.shape == (48, 48, 3)
        if kind == "PNG" or factor > 0.5:
            assert error.max() <= ROUNDED
        else:
            assert error.mean() < 3  # a fraction of a JPEG is another filter


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_damaged_images_are_named_in_one_line(cat, kind):
    raw = encoded(cat.convert("P") if kind == "GIF" else cat, kind)
    rng = np.random.default_rng(0)
    broken = [
        b"",
        b"\0",
        raw[:10],
        raw[: len(raw) // 2],
        bytes(rng.integers(0, 256, 999, np.uint8)),
    ]
    for bad in broken:
        with pytest.raises(BadImageError, match="cannot read image some/where") as raised:
            Photograph(bad, "some/where").rgb()
        assert "\n" not in str(raised.value)
        assert "BytesIO" not in str(raised.value)


def test_flipped_bytes_never_raise_anything_else(cat):
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "PPM"):
        small = cat.resize((40, 30))
        raw = bytearray(encoded(small.convert("P") if kind == "GIF" else small, kind))
        for _ in range(60):
            changed = bytearray(raw)
            for at in rng.integers(0, min(len(raw), 400), 4):
                changed[at] = rng.integers(0, 256)
            try:
                result = Photograph(bytes(changed), "x").rgb()
            except BadImageError:
                continue
            assert result.mode == "RGB"


def test_formats_that_run_programs_are_not_tried():
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    with pytest.raises(BadImageError, match="not one of JPEG"):
        Photograph(script, "x").rgb()


def test_numbers_beyond_16_bits_are_refused():
    from vggfast.data.decode import _eight_bits

    with pytest.raises(ValueError, match="16 bits"):
        _eight_bits(np.array([[70000]]))
    with pytest.raises(BadImageError, match="floating"):
        Photograph(b"Pf\n1 1\n-1.0\n\x00\x00\x80\x3f", "x").rgb()


@settings(max_examples=25)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(0, 30),
    st.integers(0, 2**62 - 1),
)
def test_jitter_with_equal_ends_is_a_fixed_scale(w, h, size, more, draw):
    """The crop is cut from the image that is rescaled to S."""
    pixels = np.random.default_rng(draw % 1000).integers(0, 256, (h, w, 3), np.uint8)
    image, s = Image.fromarray(pixels), size + more
    window = TrainCrop(size, (s, s), True).plan(draw, image.size)
    factor = s / min(w, h)
    assert window.scaled == (max(s, round(w * factor)), max(s, round(h * factor)))
    crop = Photograph(encoded(image), "x").crop(window)
    assert np.abs(crop - whole(image, window)).max() <= ROUNDED


@pytest.mark.parametrize("name", ["cat", "astronaut", "coffee"])
def test_real_photographs_are_cut_from_the_whole_image(pictures, name):
    image = Image.fromarray(pictures[name])
    for draw in range(8):
        window = TrainCrop(112, (120, 280), True).plan(draw, image.size)
        crop = Photograph(encoded(image), "x").crop(window)
        assert np.abs(crop - whole(image, window)).max() <= ROUNDED


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_images_smaller_than_the_crop(size):
    """They are enlarged; a single row or pixel is repeated, and no giant image is made."""
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint32) % 251
    image = Image.fromarray(pixels.reshape(size[1], size[0], 3).astype(np.uint8))
    for crop in (TrainCrop(224, (256, 512), True), CentreCrop(224, (256, 512))):
        window = crop.plan(11, size)
        result = Photograph(encoded(image), "x").crop(window)
        assert result.shape == (224, 224, 3)
        assert min(window.scaled) >= 256
    if size == (1, 1):
        assert np.array_equal(result, np.broadcast_to([0, 1, 2], result.shape))
