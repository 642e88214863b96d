# SPDX-License-Identifier: GPL-3.0-or-later
"""The frozen UV layout keeps the numbers that the textures rely on."""

from __future__ import annotations

import numpy as np
import pytest

from backend.errors import GanfitError
from backend.head import uv_layout
from backend.head.cage import Cage, build_cage
from backend.head.model import HeadModel, load_head

FROZEN = "d85559805ffa14fdadc873849fda8d7209891f37cc7af5c1d753716c885f6af6"
HIDDEN = ("mouth_bag", "socket", "nostril")


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head()


@pytest.fixture(scope="module")
def cage() -> Cage:
    return build_cage()


@pytest.fixture(scope="module")
def skin(head: HeadModel) -> np.ndarray:
    """(Qs, 4) quads of the skin."""
    return head.quads[head.quad_part == 0].long().numpy()


@pytest.fixture(scope="module")
def uv(head: HeadModel, skin: np.ndarray) -> np.ndarray:
    """(Vs, 2) float32, one UV per skin vertex: the corners of the quads agree about it."""
    corners = head.corner_uv[head.quad_part == 0].numpy()
    result = np.zeros((skin.max() + 1, 2), np.float32)
    result[skin] = corners
    assert np.array_equal(result[skin], corners)
    return result


def signed_areas(points: np.ndarray, tri: np.ndarray) -> np.ndarray:
    a, b, c = (points[tri[:, k]].astype(np.float64) for k in range(3))
    return 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])


def share(head: HeadModel, skin: np.ndarray, uv: np.ndarray, names: tuple[str, ...]) -> float:
    """Share of the occupied area under the regions' masks, which are linear on the quads."""
    area = signed_areas(uv, skin[:, [0, 1, 2]]) + signed_areas(uv, skin[:, [0, 2, 3]])
    mask = sum(head.regions[name].numpy() for name in names)[skin].mean(1)
    return (area * mask).sum() / area.sum()


def stretch(verts: np.ndarray, uv: np.ndarray, tri: np.ndarray) -> tuple[float, float]:
    """95th percentile, by number and by area, of the ratio of the singular values of the map surface -> UV."""
    x = verts.astype(np.float64)[tri]
    edges = np.stack([x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]], axis=-1)  # (T, 3, 2)
    flat = np.stack([uv[tri[:, 1]] - uv[tri[:, 0]], uv[tri[:, 2]] - uv[tri[:, 0]]], axis=-1).astype(np.float64)
    singular = np.linalg.svd(flat @ np.linalg.pinv(edges), compute_uv=False)
    ratio = singular[:, 0] / singular[:, 1]
    area = np.linalg.norm(np.cross(edges[..., 0], edges[..., 1]), axis=1)
    order = np.argsort(ratio)
    return np.percentile(ratio, 95), ratio[order][np.searchsorted(np.cumsum(area[order]), 0.95 * area.sum())]


@pytest.mark.parametrize("diagonal", [([0, 1, 2], [0, 2, 3]), ([1, 2, 3], [1, 3, 0])])
def test_every_cage_triangle_is_positive_whichever_way_quads_are_split(skin, uv, diagonal) -> None:
    areas = np.concatenate([signed_areas(uv, skin[:, corners]) for corners in diagonal])
    assert areas.min() > 0


def test_every_level_1_triangle_is_positive(head: HeadModel) -> None:
    tri = head.tri1[head.tri1_part == 0].numpy()
    areas = signed_areas(head.uv1.numpy(), tri)
    assert areas.min() > 0
    tiny = areas < 1e-9
    assert tiny.mean() < 1e-3  # nothing has collapsed to where 8-bit textures see nothing


def test_no_two_places_of_the_skin_share_a_texel(skin, uv) -> None:
    """Random points of the square lie in one triangle at most, and as often in one as the areas say."""
    tri = np.concatenate([skin[:, [0, 1, 2]], skin[:, [0, 2, 3]]])
    corners = uv[tri].astype(np.float64)
    points = np.random.default_rng(0).random((500, 2))
    hits = np.zeros(len(points), int)
    for part in np.array_split(np.arange(len(tri)), 20):
        a, b, c = (corners[part, k][None] for k in range(3))
        p = points[:, None]

        def side(start: np.ndarray, end: np.ndarray, p: np.ndarray = p) -> np.ndarray:
            return (end - start)[..., 0] * (p - start)[..., 1] - (end - start)[..., 1] * (p - start)[..., 0]

        hits += ((side(a, b) > 0) & (side(b, c) > 0) & (side(c, a) > 0)).sum(1)
    assert hits.max() == 1
    assert hits.mean() == pytest.approx(signed_areas(uv, tri).sum(), abs=0.04)


def test_mirror_vertices_mirror_in_the_map(head: HeadModel, uv) -> None:
    mirror = head.mirror0[: len(uv)].numpy()
    assert np.abs(uv[mirror] * [-1, 1] + [1, 0] - uv).max() < 1e-4


def test_the_face_stands_upright_with_the_nose_in_the_middle(head: HeadModel, uv) -> None:
    def middle(region: str, side: float = 0) -> np.ndarray:
        weight = head.regions[region][: len(uv)].numpy() * (head.verts0[: len(uv), 0].numpy() * side >= 0)
        return weight @ uv / weight.sum()

    assert middle("nose")[0] == pytest.approx(0.5, abs=1e-3)
    assert middle("forehead")[1] > middle("brow")[1] > middle("nose")[1] > middle("lips")[1] > middle("chin")[1]
    assert middle("eyes", 1)[0] > 0.5 > middle("eyes", -1)[0]  # the subject's left is on the right, as in a photo
    assert uv.min() > 0 and uv.max() < 1


def test_shares_of_the_map(head: HeadModel, skin, uv) -> None:
    assert share(head, skin, uv, ("face",)) >= 0.60
    assert share(head, skin, uv, HIDDEN) <= 0.05
    occupied = signed_areas(uv, skin[:, [0, 1, 2]]).sum() + signed_areas(uv, skin[:, [0, 2, 3]]).sum()
    assert occupied > 0.8


def test_face_is_mapped_without_much_stretch(head: HeadModel, cage: Cage, skin, uv) -> None:
    face = skin[head.regions["face"].numpy()[skin].mean(1) > 0.5]
    tri = np.concatenate([face[:, [0, 1, 2]], face[:, [0, 2, 3]]])
    by_number, by_area = stretch(cage.verts, uv, tri)  # MakeHuman's mean, for which the layout was solved
    assert by_number < 2 and by_area < 2
    _, by_area = stretch(head.verts0.numpy(), uv, tri)
    assert by_area < 2


def test_layout_id_is_frozen_and_tells_layouts_apart(head: HeadModel, skin, uv) -> None:
    assert head.layout_id == FROZEN == uv_layout.layout_id(skin, uv)
    moved = uv.copy()
    moved[7, 0] += 1e-6
    assert uv_layout.layout_id(skin, moved) != FROZEN
    assert uv_layout.layout_id(skin[::-1], uv) != FROZEN


def test_a_layout_of_another_skin_is_refused(cage: Cage, monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.head import build

    index, uv, name = uv_layout.load_layout()
    monkeypatch.setattr(build, "load_layout", lambda: (index, uv[:, ::-1], name))
    with pytest.raises(GanfitError) as error:
        build.skin_uv(cage)
    assert error.value.code == "layout_mismatch"
