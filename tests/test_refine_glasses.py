# SPDX-License-Identifier: GPL-3.0-or-later
"""Glasses of known shape, drawn before a known head, are found in pictures of it and stand where they do."""
from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

pytest.importorskip("backend.head.model")

from test_refine import Sitter, sitter, spots  # noqa: E402, F401
from test_refine_volume import photo_of, turned  # noqa: E402

from backend.assemble import Assembled, full_render, picture  # noqa: E402
from backend.options import Options  # noqa: E402
from backend.pipeline import refined  # noqa: E402
from backend.refine import glasses as module  # noqa: E402
from backend.refine.glasses import glasses, hidden_by, plane_of  # noqa: E402
from backend.refine.refine import WORK_SIZE, _unwrap, refine, region_maps  # noqa: E402
from backend.render.color import srgb_to_linear  # noqa: E402
from backend.render.shell import Shell, with_shells  # noqa: E402
from backend.sheet import soft_light  # noqa: E402

MM = 16
"""Pixels a millimetre of the drawn frames' picture."""
BLACK, GOLD = (18, 16, 15), (240, 214, 150)
LENS = (22.0, 16.0)
"""Half axes of a drawn lens, mm."""


def spectacles(scene: Assembled, colour: tuple[int, int, int] = BLACK, width: float = 1.5, square: bool = False,
               lens: int = 0) -> Shell:
    """A flat card before the eyes with two rims and a bridge, lines of a width in mm; lens: cover of what is in the
    rims, of 255. Arms it has none."""
    plane = plane_of(scene)
    half, height = 75.0, 30.0
    card = Image.new("RGBA", (int(2 * half * MM), int(2 * height * MM)), (*colour, 0))
    draw = ImageDraw.Draw(card)
    pen = round(width * MM)
    for side in (-1, 1):
        x, y = (half + side * 1000 * plane.pupils) * MM, (height + 4) * MM
        box = (x - LENS[0] * MM, y - LENS[1] * MM, x + LENS[0] * MM, y + LENS[1] * MM)
        shape = draw.rectangle if square else draw.ellipse
        shape(box, outline=(*colour, 255), width=pen, fill=(*colour, lens))
    inner = (1000 * plane.pupils - LENS[0] + width / 2) * MM
    draw.line((half * MM - inner, height * MM, half * MM + inner, height * MM), (*colour, 255), pen)
    corners = np.array([[-half, height], [-half, -height], [half, -height], [half, height]]) / 1000
    verts = np.stack([corners[:, 0], corners[:, 1] + plane.eyes, np.full(4, plane.depth)], 1)
    pixels = np.asarray(card).astype(np.float32) / 255
    return Shell(torch.from_numpy(verts.astype(np.float32)), torch.tensor([[0, 1, 2, 3]]),
                 torch.tensor([[[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]]),
                 torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous())


def worn(sitter: Sitter, **look) -> Assembled:  # noqa: F811
    return dataclasses.replace(sitter.scene, glasses=spectacles(sitter.scene, **look))


def found_in(sitter: Sitter, scene: Assembled) -> Shell | None:  # noqa: F811
    """What is found in a photo of the scene by somebody who knows the bare head."""
    return glasses(sitter.scene, [photo_of(scene)[0]])[0]


def twice(sitter: Sitter, yaw: float, first: Assembled, second: Assembled,  # noqa: F811
          ) -> tuple[Assembled, list[np.ndarray]]:
    """The bare scene in two views, the second one turned by degrees, and photos of what is worn in each."""
    aside = dataclasses.replace(second, cameras=[turned(second, yaw)], lights=[soft_light(torch.device("cpu"))])
    both = dataclasses.replace(sitter.scene, verts1=sitter.scene.verts1.expand(2, -1, -1),
                               cameras=[*first.cameras, *aside.cameras], lights=[*first.lights, *aside.lights])
    return both, [photo_of(one)[0] for one in (first, aside)]


def marks(scene: Assembled, camera, spare_arms: bool = True) -> np.ndarray:
    """(H, W) bool: where glasses show in a picture; without arms, which the drawn ones lack."""
    out = picture(scene, 0, camera)
    bare = picture(dataclasses.replace(scene, glasses=None), 0, camera)
    changed = ((out.rgb - bare.rgb)[0].abs().amax(-1) > 0.04).numpy()
    if spare_arms:
        plane = plane_of(scene)
        side = 1000 * plane.pupils + LENS[0] + 1.5
        edges = camera.project(torch.tensor([[[s * side / 1000, plane.eyes, plane.depth] for s in (-1, 1)]]))[0, :, 0]
        column = np.arange(changed.shape[1]) + 0.5
        changed &= (column > float(edges.min())) & (column < float(edges.max()))
    return changed


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance, pixels, from the marks of each picture to those of the other."""
    to_a, to_b = (ndimage.distance_transform_edt(~m) for m in (a, b))
    return 0.5 * (to_b[a].mean() + to_a[b].mean())


def millimetre(scene: Assembled, camera) -> float:
    """Its size before the eyes, pixels."""
    plane = plane_of(scene)
    ends = camera.project(torch.tensor([[[x, plane.eyes, plane.depth] for x in (-0.03, 0.03)]]))[0]
    return float((ends[1] - ends[0]).norm()) / 60


@pytest.mark.parametrize("look", [
    {}, {"square": True}, {"colour": GOLD, "width": 1.0}, {"width": 3.0}], ids=["round", "square", "gold", "thick"])
def test_frames_are_found_where_they_are(sitter: Sitter, look: dict) -> None:  # noqa: F811
    scene = worn(sitter, **look)
    found = found_in(sitter, scene)
    assert found is not None
    ours = dataclasses.replace(scene, glasses=found)
    for yaw, limit in ((None, 0.7), (-30, 2.0), (30, 2.0)):  # whose depth the photo does not show
        camera = scene.cameras[0] if yaw is None else turned(scene, yaw)
        mm = millimetre(scene, camera)
        assert apart(marks(scene, camera), marks(ours, camera)) < limit * mm, yaw


@pytest.mark.parametrize("width", [1.5, 3.0])
def test_frames_are_as_dark_as_they_are(sitter: Sitter, width: float) -> None:  # noqa: F811
    """What thin lines take of the light over the whole picture, wherever their edges are blurred."""
    scene = worn(sitter, width=width)
    ours = dataclasses.replace(scene, glasses=found_in(sitter, scene))
    camera = scene.cameras[0]
    bare = srgb_to_linear(picture(sitter.scene, 0, camera).rgb)
    taken = []
    for one in (scene, ours):
        where = torch.from_numpy(ndimage.binary_dilation(marks(scene, camera), iterations=3))
        taken.append(float((bare - srgb_to_linear(picture(one, 0, camera).rgb))[0].mean(-1)[where].sum()))
    assert 0.6 < taken[1] / taken[0] < 1.4


def test_bare_eyes_have_none(sitter: Sitter) -> None:  # noqa: F811
    assert found_in(sitter, sitter.scene) is None


def test_brows_that_meet_are_none(sitter: Sitter) -> None:  # noqa: F811
    plane = plane_of(sitter.scene)
    card = Image.new("RGBA", (300 * MM // 4, 60 * MM // 4))
    draw = ImageDraw.Draw(card)
    for x in np.arange(45, 255, 0.25) * MM / 4:  # an uneven band, 5 mm high
        draw.line((x, 30 + 9 * math.sin(x), x + 6, 80 + 9 * math.cos(x)), (*BLACK, 220), 2)
    frame = spectacles(sitter.scene)
    height = torch.tensor([[0.020], [0.008], [0.008], [0.020]])
    verts = torch.cat([frame.verts[:, :1] / 1.6, height + plane.eyes, frame.verts[:, 2:]], 1)
    pixels = torch.from_numpy(np.array(card).astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()
    band = dataclasses.replace(frame, verts=verts, texture=pixels)
    scene = dataclasses.replace(sitter.scene, glasses=band)
    assert marks(scene, scene.cameras[0]).sum() > 300
    assert found_in(sitter, scene) is None


def test_a_photo_from_the_side_says_nothing(sitter: Sitter) -> None:  # noqa: F811
    """By itself; beside another photo the same is worn in it."""
    scene = worn(sitter)
    both, photos = twice(sitter, 75, scene, scene)
    aside = dataclasses.replace(both, verts1=both.verts1[1:], cameras=both.cameras[1:], lights=both.lights[1:])
    assert glasses(aside, photos[1:]) == (None, (False,))
    alone, (together, wearing) = found_in(sitter, scene), glasses(both, photos)
    assert torch.equal(alone.verts, together.verts) and torch.equal(alone.texture, together.texture)
    assert wearing == (True, True)
    bare = photo_of(sitter.scene)[0]
    assert glasses(both, [bare, photos[1]]) == (None, (False, False))


@pytest.mark.parametrize("yaw", [-25, 10, 25])
@pytest.mark.parametrize("on", [(True, False), (False, True), (True, True), (False, False)])
def test_each_photo_shows_what_is_worn_in_it(sitter: Sitter, yaw: float, on: tuple[bool, bool]) -> None:  # noqa: F811
    looks = {True: worn(sitter), False: sitter.scene}
    both, photos = twice(sitter, yaw, looks[on[0]], looks[on[1]])
    found, wearing = glasses(both, photos)
    assert wearing == on and (found is None) == (not any(on))


def test_glasses_of_one_photo_are_seen_in_its_render_alone(sitter: Sitter) -> None:  # noqa: F811
    both, photos = twice(sitter, 10, worn(sitter), sitter.scene)
    result = {"options": Options(preset="draft").to_dict(), "views": [{}, {}]}
    scene = refined(both, result, photos)
    assert result["views"] == [{"glasses": True}, {"glasses": False}]
    bare = dataclasses.replace(scene, glasses=None)
    changed = [(full_render(scene, i) != full_render(bare, i)).any(-1).sum() for i in range(2)]
    assert changed[0] > 500 and changed[1] == 0


def test_a_photo_without_them_gives_the_skin_that_they_hide(sitter: Sitter) -> None:  # noqa: F811
    """A mole under the rim is seen in the other photo alone: a third of it comes through, half from that one alone."""
    scene = worn(sitter)
    pixel = _unwrap(sitter.scene, 0, photo_of(scene)[0], WORK_SIZE).pixel
    hidden = hidden_by(scene.glasses, sitter.scene, 0, pixel)[0, 0].numpy() > 0.9
    cheek = hidden & (region_maps(sitter.person, WORK_SIZE)["cheek"][0, 0].numpy() > 0.1)
    cheek[:, WORK_SIZE // 2:] = False
    middle = np.unravel_index(ndimage.distance_transform_edt(cheek).argmax(), cheek.shape)
    mole = spots([middle], 4.0)
    assert cheek[mole.numpy() > 0].all()
    spotted = sitter.scene.generated * (1 - 0.4 * mole)
    both, photos = twice(sitter, 10, dataclasses.replace(scene, texture=spotted),
                         dataclasses.replace(sitter.scene, texture=spotted))
    where = torch.from_numpy(ndimage.binary_erosion(mole.numpy() > 0, iterations=1))
    dark = []
    for one, shown in ((both, photos), (sitter.scene, photos[:1])):
        texture = srgb_to_linear(refine(one, shown, WORK_SIZE, 0).texture)
        dark.append(float((texture / srgb_to_linear(sitter.scene.generated)).log()[0].mean(0)[where].mean()))
    expected = float((srgb_to_linear(spotted) / srgb_to_linear(sitter.scene.generated)).log()[0].mean(0)[where].mean())
    assert dark[0] < 0.25 * expected and abs(dark[1]) < 0.05


def test_frames_that_nobody_can_find_stay_out_of_the_skin(sitter: Sitter) -> None:  # noqa: F811
    """In a face turned by 50 degrees."""
    scene = dataclasses.replace(worn(sitter), cameras=[turned(sitter.scene, 50)],
                                lights=[soft_light(torch.device("cpu"))])
    bare = dataclasses.replace(scene, glasses=None)
    assert glasses(bare, [photo_of(scene)[0]]) == (None, (False,))
    skin = [srgb_to_linear(refine(bare, [photo_of(one)[0]], 512, 0).texture).log().mean(1) for one in (scene, bare)]
    change = torch.nn.functional.avg_pool2d(skin[0] - skin[1], 5, 1)
    assert float(change.min()) > -0.5


def test_dark_lenses_are_dark_and_clear_ones_clear(sitter: Sitter) -> None:  # noqa: F811
    def cover(lens: int) -> float:
        """In the middle of what lies within the rims, in the photo."""
        scene = worn(sitter, lens=lens)
        found = found_in(sitter, scene)
        plane = plane_of(scene)
        across = plane.pupils / float(found.verts[:, 0].abs().max())
        assert 0 < across < 1
        flat = found.verts.reshape(module.ROWS + 1, -1, 3)[module.ROWS // 2]
        left = int((flat[:, 0] - plane.pupils).abs().argmin())
        uv = found.corner_uv.reshape(module.ROWS, -1, 4, 2)[module.ROWS // 2, left, 0]
        rows, columns = module.TEXTURE
        return float(found.texture[0, 3, int((1 - uv[1]) * rows), int(uv[0] * columns)])
    assert cover(0) == 0
    assert 0.6 < cover(230) <= 1


def test_quads_of_tinted_lenses_are_told_from_frames_and_arms(sitter: Sitter) -> None:  # noqa: F811
    clear, dark = (found_in(sitter, worn(sitter, lens=lens)) for lens in (0, 150))
    assert not clear.tinted.any(), "soft edges are no tint"
    plane = plane_of(sitter.scene)
    middle = dark.verts[dark.quads].mean(1) - torch.tensor([0.0, plane.eyes, 0.0])
    side, up = middle[:, 0].abs() - plane.pupils, middle[:, 1]
    front = middle[:, 2] > plane.depth - 0.02
    inside = front & (torch.hypot(side / 0.015, (up + 0.004) / 0.010) < 1)
    outside = ~front | (torch.hypot(side / 0.028, (up + 0.004) / 0.023) > 1)
    assert inside.sum() > 20 and dark.tinted[inside].all() and not dark.tinted[outside].any()


def test_it_is_a_ribbon_of_quads_from_ear_to_ear_outside_the_skin(sitter: Sitter) -> None:  # noqa: F811
    found = found_in(sitter, worn(sitter))
    head = sitter.person.head
    skin = head.subdivide(sitter.scene.cage[None])[0]
    masks = {n: head.subdivide(head.regions[n][None, :, None])[0, :, 0] > 0.5 for n in ("ear_left", "ear_right")}
    for name, end in (("ear_right", found.verts[:, 0].argmin()), ("ear_left", found.verts[:, 0].argmax())):
        ear = skin[masks[name]]
        assert float((ear - found.verts[end]).norm(dim=1).min()) < 0.03
    assert abs(float(found.verts[:, 0].max() + found.verts[:, 0].min())) < 0.004
    corners = found.verts[found.quads]
    normal = torch.linalg.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    front = corners.mean(1)[:, 2] > float(plane_of(sitter.scene).depth) - 0.02
    assert (normal[front, 2] > 0).all()
    assert (normal[~front, 0] * corners.mean(1)[~front, 0] > 0).all()
    uv = found.corner_uv
    assert uv.min() >= 0 and uv.max() <= 1 and 0 < float((found.texture[:, 3] > 0.5).float().mean()) < 0.2


def test_glasses_are_before_hair_that_is_behind_them(sitter: Sitter) -> None:  # noqa: F811
    """And behind hair that is before them, whichever is drawn first."""
    scene, camera = worn(sitter), sitter.scene.cameras[0]
    frame = scene.glasses

    def curtain(offset: float) -> Shell:
        moved = frame.verts + torch.tensor([0.0, 0.0, offset])
        return Shell(moved, frame.quads, frame.corner_uv, torch.ones_like(frame.texture))

    head = picture(sitter.scene, 0, camera).head
    lights = sitter.scene.lights[0]
    for offset, shown in ((-0.004, frame), (0.004, None)):
        hair = curtain(offset)
        drawn = with_shells(sitter.person.raster, head, [frame, hair], camera, lights).rgb
        alone = with_shells(sitter.person.raster, head, [hair], camera, lights).rgb
        changed = float(((drawn - alone).abs().amax(-1) > 0.1).float().sum())
        assert (changed > 100) == (shown is not None)


def test_refining_gives_them_unless_they_are_left_out(sitter: Sitter) -> None:  # noqa: F811
    photo = photo_of(worn(sitter))[0]
    assert refine(sitter.scene, [photo], 512, 0).glasses is not None
    assert refine(sitter.scene, [photo], 512, 0, with_glasses=False).glasses is None


def test_a_path_is_the_best_of_all_there_are() -> None:
    random = np.random.default_rng(3)
    ways = np.array(list(itertools.product(range(6), repeat=5)))
    steps = np.abs(np.diff(ways, axis=1))
    ways, steps = ways[steps.max(1) <= module.TURN], steps[steps.max(1) <= module.TURN]
    for _ in range(20):
        strength = random.random((5, 6))
        worth = strength[np.arange(5), ways].sum(1) - module.STIFF * steps.sum(1)
        assert module.path(strength).tolist() == ways[worth.argmax()].tolist()


def test_a_small_photo_is_rendered_as_a_large_one_made_small(sitter: Sitter) -> None:  # noqa: F811
    """Irises are three pixels wide there."""
    camera = sitter.scene.cameras[0]
    small = camera.crop(0.0, 0.0, 0.25, (camera.size[0] // 4, camera.size[1] // 4))
    scene = dataclasses.replace(sitter.scene, cameras=[small])
    found = full_render(scene, 0).astype(float)
    fine = picture(scene, 0, small.crop(0.0, 0.0, 8.0, tuple(8 * side for side in small.size)))
    rgba = torch.cat([fine.rgb, fine.alpha], -1)[0].numpy()
    rows, columns = small.size
    mean = 255 * rgba.reshape(rows, 8, columns, 8, 4).mean((1, 3))
    shown = found[..., :3] * found[..., 3:] / 255
    assert np.abs(shown - mean[..., :3]).mean() < 0.5
    assert np.quantile(np.abs(shown - mean[..., :3])[mean[..., 3] > 250], 0.999) < 12
    assert math.isclose(found[..., 3].mean(), mean[..., 3].mean(), rel_tol=0.01)
