"""Charts, crops and contact sheets: the pictures of a report and of an audit."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.core.report_cases import save_image
from valflow.report import Tile, charts, contact_sheet, draw_contact_sheet, sheet_paths
from valflow.report.fonts import font_for
from valflow.report.tiles import choose, crops


def test_a_histogram_splits_the_bin_in_which_the_threshold_lies():
    histogram = [0] * 20
    histogram[10] = 5
    svg = charts.confidence_histogram("cat", histogram, 0.525, 5)
    widths = {
        kind: float(re.search(rf'class="{kind}" [^>]*width="([\d.]+)"', svg)[1])
        for kind in ("undecided", "approved")
    }
    assert widths["undecided"] == pytest.approx(widths["approved"], abs=0.05)


@pytest.mark.parametrize(
    ("threshold", "colours"),
    [
        (None, {"undecided"}),  # everything for review
        (0.0, {"approved"}),
        (1.0, {"undecided"}),
        (0.5, {"approved", "undecided"}),
    ],
)
def test_a_histogram_is_coloured_by_its_threshold(threshold, colours):
    svg = charts.confidence_histogram("cat", [1] * 20, threshold, 20)
    assert set(re.findall(r'<rect class="(\w+)"', svg)) == colours


@pytest.mark.parametrize("histogram", [[], [0] * 20, [None] * 20, [10**12] * 20])
def test_a_histogram_of_anything_is_a_picture(histogram):
    picture = ElementTree.fromstring(charts.confidence_histogram("cat", histogram, 0.7, 0, 3))
    assert picture.tag.endswith("svg")


def test_composing_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one panel"):
        charts.compose([])


@pytest.mark.parametrize(
    "box",
    [
        (0.1, 0.2, 0.3, 0.4),
        None,  # a label of the whole image
        (-0.5, -0.5, 2.0, 2.0),  # larger than the image
        (0.9, 0.9, 0.5, 0.5),  # reaches out of it
        (2.0, 2.0, 0.1, 0.1),  # beside it
        (0.5, 0.5, 0.0, 0.0),  # a point
        (0.5, 0.5, 1e-9, 1e-9),
        (float("nan"), 0.1, 0.1, 0.1),
        (0.0, 0.0, 1.0, 0.001),  # a line
    ],
)
def test_any_box_gives_a_crop(tmp_path, box):
    path = save_image(tmp_path / "a.png")
    [(place, picture)] = crops([Tile(path, box, "cat")], 100, (255, 0, 0))
    assert place == 0
    assert picture.size == (100, 100)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1", "I;16", "CMYK", "F"])
def test_any_kind_of_image_can_be_shown(tmp_path, mode):
    path = save_image(tmp_path / ("a.tiff" if mode in ("CMYK", "F") else "a.png"), mode=mode)
    [(_, picture)] = crops([Tile(path, None, "cat")], 64, (255, 0, 0))
    assert picture.mode == "RGB"
    assert len(np.unique(np.asarray(picture.convert("L")))) > 1


def test_a_16_bit_image_keeps_its_greys(tmp_path):
    path = save_image(tmp_path / "a.png", mode="I;16")
    [(_, picture)] = crops([Tile(path, None, "cat")], 64, (255, 0, 0))
    middle = np.asarray(picture.convert("L"))[10:54, :]
    assert middle.min() < 90
    assert middle.max() > 165


def test_rotation_in_the_file_is_applied(tmp_path):
    image = Image.new("RGB", (40, 20), "white")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    [(_, picture)] = crops([Tile(str(tmp_path / "a.jpg"), None, "cat")], 80, (0, 0, 0))
    # Upright now, so there is room left and right of it.
    assert picture.getpixel((5, 40)) != (255, 255, 255)
    assert picture.getpixel((40, 5)) == (255, 255, 255)


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n broken"])
def test_a_picture_that_cannot_be_read_becomes_a_grey_tile(tmp_path, content):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    [(_, picture)] = crops([Tile(str(path), (0.1, 0.1, 0.5, 0.5), "cat")], 160, (255, 0, 0))
    colours = picture.getcolors(4096)
    assert max(colours)[1] == (124, 132, 143)
    assert len(colours) > 1  # it says why


def test_a_truncated_picture_does_not_stop_the_others(tmp_path):
    whole = Path(save_image(tmp_path / "a.png", (200, 200)))
    (tmp_path / "b.png").write_bytes(whole.read_bytes()[:300])
    tiles = [Tile(str(tmp_path / "b.png"), None, "x"), Tile(str(whole), None, "y")]
    assert sorted(place for place, _ in crops(tiles, 64, (0, 0, 0))) == [0, 1]


def test_the_choice_of_pictures_is_repeatable():
    tiles = [Tile(str(i), None, "cat") for i in range(100)]
    assert choose(tiles, 12, "run/approved") == choose(tiles, 12, "run/approved")
    assert choose(tiles, 12, "run/approved") != choose(tiles, 12, "other/approved")
    assert choose(tiles[:5], 12, 0) == tiles[:5]


@pytest.mark.parametrize(
    ("amount", "pages"),
    [
        (1, ["sheet.png"]),
        (120, ["sheet.png"]),
        (121, ["sheet-1.png", "sheet-2.png"]),
        (299, ["sheet-1.png", "sheet-2.png", "sheet-3.png"]),
    ],
)
def test_a_long_draw_takes_several_pages(tmp_path, amount, pages):
    path = save_image(tmp_path / "a.png")
    tiles = [Tile(path, (0.2, 0.2, 0.4, 0.4), f"class {i}") for i in range(amount)]
    first = draw_contact_sheet(tiles, tmp_path / "out" / "sheet.png", "Spot-check")
    assert first.name == pages[0]
    assert [p.name for p in sheet_paths(tmp_path / "out" / "sheet.png", amount)] == pages
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == pages
    with Image.open(first) as image:
        assert image.width < 2000
        assert image.height < 4200


def test_a_shorter_draw_removes_the_pages_of_a_longer_one_and_nothing_else(tmp_path):
    path = save_image(tmp_path / "a.png")
    save_image(tmp_path / "sheet-9.png")
    tiles = [Tile(path, None, "cat")] * 125
    draw_contact_sheet(tiles, tmp_path / "sheet.png", "Spot-check")
    draw_contact_sheet(tiles[:3], tmp_path / "sheet.png", "Spot-check")
    assert sorted(p.name for p in tmp_path.glob("sheet*")) == ["sheet-9.png", "sheet.png"]


def test_the_sheet_is_blind(tmp_path):
    path = save_image(tmp_path / "a.png")
    shy = [Tile(path, (0.2, 0.2, 0.4, 0.4), "cat")] * 3
    telling = [Tile(path, (0.2, 0.2, 0.4, 0.4), "cat", c, "auto") for c in (0.1, 0.5, 0.9)]
    pictures = [
        draw_contact_sheet(t, tmp_path / f"{i}.png", "x").read_bytes() for i, t in enumerate((shy, telling))
    ]
    assert pictures[0] == pictures[1]


def test_the_sheet_shows_class_and_number(tmp_path):
    path = save_image(tmp_path / "a.png")
    sheets = [
        draw_contact_sheet([Tile(path, None, label)], tmp_path / f"{i}.png", "x").read_bytes()
        for i, label in enumerate(("cat", "dog", "猫", "x" * 400))
    ]
    assert len(set(sheets)) == 4
    both = [Tile(path, None, "cat"), Tile(path, None, "cat")]
    with Image.open(draw_contact_sheet(both, tmp_path / "two.png", "x")) as image:
        left, right = contact_sheet._MARGIN, contact_sheet._MARGIN + contact_sheet._CROP + contact_sheet._GAP
        top = contact_sheet._TITLE + contact_sheet._CROP
        tiles = [image.crop((x, top, x + contact_sheet._CROP, top + 36)).tobytes() for x in (left, right)]
    assert tiles[0] != tiles[1]


@pytest.mark.parametrize(("tiles", "columns"), [([], 8), ([Tile("a", None, "cat")], 0)])
def test_an_empty_sheet_is_refused(tmp_path, tiles, columns):
    with pytest.raises(ValueError, match="at least one tile and one column"):
        draw_contact_sheet(tiles, tmp_path / "sheet.png", "x", columns)


def test_there_is_a_font_for_every_latin_name():
    assert font_for("żółw Ünïcode", 16).getbbox("żółw")[2] > 10
