"""Contact sheets: which images are shown where, and that the pictures hold them."""

import numpy as np

from raymedlt.synthesis.page_sheets import GAP_PIXELS, TILE_PIXELS, contact_sheet
from raymedlt.synthesis.sheets import accepted_sheets, nearest_pairs, refused_sheets


def numbered(count, size=16):
    """Images whose grey level is their number."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, size, size)).copy()


def test_a_sheet_holds_the_images_row_by_row():
    images = np.random.default_rng(0).integers(1, 256, (5, 16, 16)).astype(np.uint8)
    sheet = contact_sheet(images, 3)
    step = 16 + GAP_PIXELS
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * step - GAP_PIXELS, 3 * step - GAP_PIXELS)
    for number, image in enumerate(images):
        top, left = step * (number // 3), step * (number % 3)
        assert (sheet[top : top + 16, left : left + 16] == image).all(), number
    assert not sheet[step:, 2 * step :].any()  # no sixth image
    assert not sheet[16:step].any()


def test_large_images_are_shrunk_to_the_tile():
    assert contact_sheet(np.full((4, 512, 512), 90, np.uint8), 2).shape == (2 * TILE_PIXELS + GAP_PIXELS,) * 2


def test_accepted_sheets_take_the_first_of_each_class_in_the_order_of_the_plan():
    targets = ["mass", "hernia", "mass", "mass", "hernia", "mass"]
    sheets = accepted_sheets(numbered(6), targets, {"mass": 40, "hernia": 2}, most=3)
    assert [(each.class_name, each.total) for each in sheets] == [("mass", 40), ("hernia", 2)]
    assert sheets[0].images_NSS[:, 0, 0].tolist() == [0, 2, 3]
    assert sheets[1].images_NSS[:, 0, 0].tolist() == [1, 4]


def test_refused_sheets_group_by_reason_without_its_class_the_commonest_first():
    reasons = [
        ["not shown: mass", "repeat"],
        ["not shown: hernia", "not shown: effusion"],  # one image, one reason
        ["repeat"],
        ["repeat"],
    ]
    sheets = refused_sheets(
        numbered(4), ["mass", "hernia", "mass", "hernia"], reasons, {"not shown": 9, "repeat": 30}, most=2
    )
    assert [(each.reason, each.total) for each in sheets] == [("repeat", 30), ("not shown", 9)]
    assert sheets[0].images_NSS[:, 0, 0].tolist() == [0, 2]
    assert sheets[1].images_NSS[:, 0, 0].tolist() == [0, 1]
    assert sheets[1].notes == ["mass", "hernia"]


def test_pairs_are_the_closest_and_keep_what_belongs_together():
    ratios = [0.9, 0.2, 0.7, 0.2]
    pairs = nearest_pairs(numbered(4), numbered(4) + 100, list("abcd"), [["x"], ["y"], [], ["z", "y"]], ratios, most=3)
    assert [pair.class_name for pair in pairs] == ["b", "d", "c"]
    assert [pair.ratio for pair in pairs] == [0.2, 0.2, 0.7]
    assert [int(pair.image_SS[0, 0]) for pair in pairs] == [1, 3, 2]
    assert [int(pair.nearest_SS[0, 0]) for pair in pairs] == [101, 103, 102]
    assert pairs[1].labels == ["z", "y"]
