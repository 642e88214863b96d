# SPDX-License-Identifier: GPL-3.0-or-later
"""Hair that stands off a known head is found as far out as it is, from pictures of it that the renderer has drawn."""
from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

pytest.importorskip("backend.head.model")

from test_refine import Sitter, sitter  # noqa: E402, F401

from backend.assemble import Assembled, full_render, head_box, picture  # noqa: E402
from backend.refine import volume  # noqa: E402
from backend.refine.hair import HAIR_FACING, HAIR_RIM, seen_hair, skin_colour  # noqa: E402
from backend.refine.matte import SIDE, Matte, hair_matte  # noqa: E402
from backend.refine.refine import WORK_SIZE, _unwrap, refine, region_maps  # noqa: E402
from backend.refine.volume import COLUMNS, DOME, ROWS, TEXTURE, hair_shell, skull_of  # noqa: E402
from backend.render.camera import Camera  # noqa: E402
from backend.render.color import linear_to_srgb, srgb_to_linear  # noqa: E402
from backend.render.shell import Shell  # noqa: E402
from backend.sheet import orbit, soft_light  # noqa: E402

BROWN = (0.10, 0.055, 0.03)
THICK = 0.025
"""Metres."""


def wig(scene: Assembled, thick: float = THICK, colour: tuple[float, ...] = BROWN,
        down_to: float | None = None, contrast: float = 0.15) -> Shell:
    """Hair of even thickness over the scalp, of strands with a contrast; with `down_to` (height, metres) also a curtain
    beside and behind the head, as far out as the hair above the ears."""
    skull = skull_of(scene)
    origin, outward = skull.chart.rays()
    radius, cover = skull.bare + thick, (skull.scalp > 0.5).astype(float)
    if down_to is not None:
        radius[DOME:] = np.maximum(radius[DOME:], radius[DOME])
        hangs = (np.arange(ROWS)[:, None] >= DOME - 6) & (origin[..., 1] > down_to) & (np.abs(volume.angles()) > 1.2)
        cover = np.maximum(cover, hangs)
    points = origin + outward * volume._soft(volume._poled(radius), 1.0)[..., None]
    strands = np.exp(contrast * volume._noise(((20, 1.0),), 7))[..., None]
    rgb = linear_to_srgb(torch.from_numpy(np.array(colour) * strands).clamp(0, 1)).numpy()
    return volume._mesh(points, np.concatenate([rgb, volume._upsampled(cover[..., None])], -1), scene)


def photo_of(scene: Assembled, wall: tuple[int, int, int] = (70, 100, 130)) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 photo of a scene before a wall, and (H, W) bool: where it shows hair."""
    out = picture(scene, 0, scene.cameras[0])
    over = (out.rgb + (1 - out.alpha) * torch.tensor(wall) / 255)[0].numpy()
    bare = picture(dataclasses.replace(scene, hair_shell=None), 0, scene.cameras[0])
    changed = (out.rgb - bare.rgb)[0].abs().amax(-1) + (out.alpha - bare.alpha)[0, ..., 0].abs()
    return (over * 255).round().astype(np.uint8), (changed > 0.05).numpy()


def matte_of(scene: Assembled, hair: np.ndarray) -> Matte:
    """The matte of a photo of which one knows what it shows."""
    alpha = picture(dataclasses.replace(scene, hair_shell=None), 0, scene.cameras[0]).alpha[0, ..., 0].numpy() > 0.5
    side = max(hair.shape)
    shares = torch.zeros(side, side, 3)
    classes = np.stack([hair, alpha & ~hair, ~alpha & ~hair], -1)
    shares[:hair.shape[0], :hair.shape[1]] = torch.from_numpy(classes).float()
    return Matte(shares, (0.0, 0.0, float(side)))


def found_in(sitter: Sitter, scene: Assembled) -> Shell | None:  # noqa: F811
    """The shell of a photo of the scene, with a perfect matte."""
    photo, hair = photo_of(scene)
    return hair_shell(sitter.scene, [matte_of(scene, hair)], [photo], skin_of(sitter))


def skin_of(sitter: Sitter, *names: str) -> np.ndarray:  # noqa: F811
    """(3,) log of the linear albedo of regions, the forehead if none is named."""
    regions = region_maps(sitter.person, WORK_SIZE)
    where = torch.cat([regions[n] for n in names or ("forehead",)]).amax(0)[0] > 0.5
    return srgb_to_linear(sitter.scene.generated[0][:, where].median(1).values).log().numpy()


def turned(scene: Assembled, yaw: float) -> Camera:
    device = scene.verts1.device
    camera = orbit(scene, yaw, 256, device)
    return dataclasses.replace(camera, fov_y=1.35 * camera.fov_y)


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("down_to", [None, -0.09])
def test_hair_stands_off_as_far_as_it_does(sitter: Sitter, down_to: float | None) -> None:  # noqa: F811
    """Short hair, and long hair down to the chin: its outline in the photo is met, and from other sides nearly."""
    truth = dataclasses.replace(sitter.scene, hair_shell=wig(sitter.scene, down_to=down_to))
    shell = found_in(sitter, truth)
    assert shell is not None
    found = dataclasses.replace(sitter.scene, hair_shell=shell)
    seen, wanted = (picture(s, 0, s.cameras[0]) for s in (found, truth))
    bare = picture(sitter.scene, 0, sitter.scene.cameras[0])
    assert overlap(seen.alpha, wanted.alpha) > 0.97 > overlap(bare.alpha, wanted.alpha) + 0.05
    both = ((seen.alpha > 0.99) & (wanted.alpha > 0.99))[0, ..., 0]
    assert (seen.rgb - wanted.rgb)[0].abs().amax(-1)[both].quantile(0.9) < 0.1
    light = soft_light(sitter.scene.verts1.device)
    for yaw in (-40.0, 40.0, 90.0, 180.0):
        camera = turned(truth, yaw)
        seen, wanted = (picture(s, 0, camera, light).alpha for s in (found, truth))
        assert overlap(seen, wanted) > 0.92, yaw


def test_thickness_is_in_metres(sitter: Sitter) -> None:  # noqa: F811
    """Above the ears, where the photo shows the outline, to the step in which it is searched and a pixel."""
    skull = skull_of(sitter.scene)
    for thick in (0.012, 0.04):
        shell = found_in(sitter, dataclasses.replace(sitter.scene, hair_shell=wig(sitter.scene, thick)))
        assert shell is not None
        row, column, radius = skull.chart.place(shell.verts.numpy().astype(float))
        beside = (row > DOME - 12) & (row < DOME - 3) & (np.abs(np.abs(volume.angles()[column]) - math.pi / 2) < 0.3)
        assert np.median(radius[beside] - skull.bare[row[beside], column[beside]]) == pytest.approx(thick, abs=0.004)


def test_the_face_stays_free(sitter: Sitter) -> None:  # noqa: F811
    truth = dataclasses.replace(sitter.scene, hair_shell=wig(sitter.scene, down_to=-0.09))
    shell = found_in(sitter, truth)
    assert shell is not None
    regions = sitter.person.head.regions
    middle = torch.stack([regions[n] for n in ("brow", "eyes", "nose", "lips", "cheek", "chin")]).amax(0)[None, :, None]
    shown = sitter.person.head.subdivide(middle.to(sitter.scene.verts1))
    for yaw in (0.0, -25.0, 25.0):
        camera = turned(truth, yaw)
        out = picture(dataclasses.replace(sitter.scene, hair_shell=shell), 0, camera, soft_light(shell.verts.device))
        on_face = sitter.person.raster.interpolate(shown, out.head.rast, sitter.person.head.tri1)[..., 0] > 0.5
        hidden = ((out.rgb - out.head.rgb).abs().amax(-1) > 0.02)[on_face]
        assert hidden.float().mean() < 0.02, yaw


def test_what_no_photo_shows_is_neither_bare_nor_thin() -> None:
    """Rows that the photo's frame cuts off end no hanging hair and thin none; a side that is not seen is like the
    other; a row that is seen bare ends it."""
    full = np.full((ROWS, COLUMNS), 0.03)
    known = np.ones_like(full)
    known[DOME - 4:DOME, :COLUMNS // 2] = 0
    assert volume.hanging(full * (known > 0), known).tolist() == [ROWS - 1, ROWS - 1]
    known[:, :COLUMNS // 2] = 0
    assert volume.hanging(full * (known > 0), known).tolist() == [ROWS - 1, ROWS - 1]
    bare = full.copy()
    bare[DOME + 6:] = 0
    assert volume.hanging(bare, np.ones_like(full)).tolist() == [DOME + 5, DOME + 5]
    round_head = np.full_like(full, 0.09)
    skull = volume.Skull(volume.Chart(np.zeros(3), -0.15), round_head, round_head, np.ones_like(full), -0.05)
    cut = np.ones_like(full)
    cut[DOME - 6:DOME] = 0
    tamed = volume._tamed(skull, full * (cut > 0), cut, 0.03)
    assert (tamed[cut > 0] == 0.03).all()
    wing = full.copy()
    wing[DOME + 2:DOME + 6] = 0.1
    assert volume._tamed(skull, wing, np.ones_like(full), 0.03).max() < 0.05


def test_loose_spots_are_dropped() -> None:
    cover, scalp = np.zeros(TEXTURE), np.zeros(TEXTURE, bool)
    scalp[:200] = True
    cover[100:300, 100:400] = 1  # hangs from the scalp
    cover[300:304, 100:400] = 0.2  # its soft edge
    cover[400:420, 600:620] = 1
    found = volume._rooted(cover, scalp)
    assert found[400:420, 600:620].max() == 0 and (found[:304] == cover[:304]).all()


def test_the_skin_is_what_the_photo_shows_bare(sitter: Sitter) -> None:  # noqa: F811
    """Also below a fringe."""
    regions = region_maps(sitter.person, WORK_SIZE)
    photo, hair = photo_of(dataclasses.replace(sitter.scene, hair_shell=wig(sitter.scene)))
    laid = _unwrap(sitter.scene, 0, photo, WORK_SIZE, HAIR_FACING, HAIR_RIM)
    seen = seen_hair(laid, matte_of(sitter.scene, hair), regions)
    assert skin_colour([seen], regions) == pytest.approx(skin_of(sitter, "forehead", "cheek"), abs=0.1)
    fringe = (regions["forehead"] + regions["cheek"] > 0).float()
    hidden = dataclasses.replace(seen, over=torch.maximum(seen.over, fringe))
    assert skin_colour([hidden], regions) == pytest.approx(skin_of(sitter, "face"), abs=0.1)
    assert skin_colour([dataclasses.replace(seen, trust=0 * seen.trust)], regions) is None


def test_light_is_not_in_its_colour(sitter: Sitter) -> None:  # noqa: F811
    """Under a warm sun from one side the albedo is the same at both."""
    shell = found_in(sitter, dataclasses.replace(sitter.scene, hair_shell=wig(sitter.scene)))
    assert shell is not None
    texture = shell.texture[0].numpy()
    front = slice(TEXTURE[1] // 4, 3 * TEXTURE[1] // 4)
    covered = texture[3, :, front] > 0.9
    linear = np.where(texture[:3] <= 0.04045, texture[:3] / 12.92, ((texture[:3] + 0.055) / 1.055) ** 2.4)[:, :, front]
    for half in (slice(0, TEXTURE[1] // 4), slice(TEXTURE[1] // 4, None)):
        median = np.median(linear[:, :, half][:, covered[:, half]], 1)
        assert median == pytest.approx(np.array(BROWN), rel=0.25, abs=0.004)


def test_none_for_a_bald_head_and_for_what_is_like_skin(sitter: Sitter) -> None:  # noqa: F811
    photo, _ = photo_of(sitter.scene)
    nothing = matte_of(sitter.scene, np.zeros(photo.shape[:2], bool))
    assert hair_shell(sitter.scene, [nothing], [photo], skin_of(sitter)) is None
    colour = tuple(np.exp(skin_of(sitter)).tolist())
    for contrast, is_hair in ((0.0, False), (0.4, True)):
        alike = wig(sitter.scene, colour=colour, contrast=contrast)
        assert (found_in(sitter, dataclasses.replace(sitter.scene, hair_shell=alike)) is not None) == is_hair


def test_two_photos_agree_with_one(sitter: Sitter) -> None:  # noqa: F811
    """The same photo twice gives the same hair, and twice the same run the same bits."""
    truth = dataclasses.replace(sitter.scene, hair_shell=wig(sitter.scene))
    photo, hair = photo_of(truth)
    matte, skin, scene = matte_of(truth, hair), skin_of(sitter), sitter.scene
    twice = dataclasses.replace(scene, verts1=scene.verts1.repeat(2, 1, 1), cameras=2 * scene.cameras,
                                lights=2 * scene.lights)
    one, again = (hair_shell(scene, [matte], [photo], skin) for _ in range(2))
    two = hair_shell(twice, [matte, matte], [photo, photo], skin)
    assert one is not None and again is not None and two is not None
    assert torch.equal(one.verts, again.verts) and torch.equal(one.texture, again.texture)
    assert (one.verts - two.verts).norm(dim=-1).max() < 0.003
    assert (one.texture - two.texture).abs().mean() < 0.02


def test_it_is_a_mesh_of_quads_that_face_outwards(sitter: Sitter) -> None:  # noqa: F811
    shell = wig(sitter.scene)
    quads, verts = shell.quads.numpy(), shell.verts.numpy()
    assert quads.shape == ((ROWS - 2) * COLUMNS + COLUMNS // 2, 4) and (np.diff(np.sort(quads), axis=1) > 0).all()
    assert quads.max() + 1 == len(verts) == 1 + (ROWS - 1) * COLUMNS
    a, b, c, d = (verts[quads[:, k]] for k in range(4))
    normal, centre = np.cross(c - a, d - b), verts.mean(0)
    outward = (normal * ((a + b + c + d) / 4 - centre)).sum(-1)
    assert (outward > 0).mean() > 0.99
    edges = np.sort(np.concatenate([quads[:, [i, (i + 1) % 4]] for i in range(4)]), 1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    assert (count == 1).sum() == COLUMNS and count.max() == 2, "open at the lower end alone"
    uv = shell.corner_uv.numpy()
    assert uv.min() >= 0 and uv.max() <= 1
    assert np.ptp(uv[..., 0], 1).max() < 2.1 / COLUMNS, "no quad runs through the whole picture at the seam"
    vertex, places, triangles = (t.numpy() for t in shell.unwelded)
    assert (vertex[triangles[:len(quads)]] == quads[:, :3]).all()
    assert np.abs(places[triangles[:len(quads)]] - uv[:, :3]).max() < 1e-6


def test_only_what_lies_before_the_head_hides_it(sitter: Sitter) -> None:  # noqa: F811
    """A closed shell far out hides all; one that is open towards the camera shows the head before its inner side."""
    scene, camera = sitter.scene, sitter.scene.cameras[0]
    shell = wig(scene, 0.06)
    full = shell.texture.clone()
    full[:, 3] = 1
    closed = dataclasses.replace(scene, hair_shell=dataclasses.replace(shell, texture=full))
    out = picture(closed, 0, camera)
    inside = out.head.alpha > 0.5
    assert ((out.rgb - out.head.rgb).abs().amax(-1, keepdim=True) > 0.02)[inside].float().mean() > 0.95
    half = full.clone()
    half[:, 3, :, TEXTURE[1] // 4:3 * TEXTURE[1] // 4] = 0
    behind = picture(dataclasses.replace(scene, hair_shell=dataclasses.replace(shell, texture=half)), 0, camera)
    core = torch.nn.functional.max_pool2d(1 - out.head.alpha.permute(0, 3, 1, 2), 61, 1, 30).permute(0, 2, 3, 1) < 0.01
    assert (behind.rgb - out.head.rgb).abs().amax(-1, keepdim=True)[core].max() < 1e-5
    assert behind.alpha.sum() > 1.1 * out.head.alpha.sum()


def test_the_wall_beside_the_head_is_no_hair(sitter: Sitter) -> None:  # noqa: F811
    """A wall that turns, below, into the hair's own colour."""
    scene = dataclasses.replace(sitter.scene, hair_shell=wig(sitter.scene, colour=(0.55, 0.53, 0.5)))
    out = picture(scene, 0, scene.cameras[0])
    height, width = out.rgb.shape[1:3]
    down = torch.linspace(0, 1, height)[:, None, None] ** 0.7
    wall = torch.lerp(torch.tensor([0.15, 0.17, 0.3]), torch.tensor([0.80, 0.79, 0.78]), down).expand(-1, width, -1)
    photo = ((out.rgb + (1 - out.alpha) * wall)[0].numpy() * 255).round().astype(np.uint8)
    matte = hair_matte(sitter.scene, 0, photo)
    rows, columns = np.indices((height, width))
    hair = matte.at(torch.from_numpy(np.stack([columns + 0.5, rows + 0.5], -1)).float())[..., 0].numpy() > 0.5
    assert matte.shares.shape == (SIDE, SIDE, 3)
    away = ~torch.nn.functional.max_pool2d(out.alpha.permute(0, 3, 1, 2), 41, 1, 20)[0, 0].bool().numpy()
    assert (hair & away).sum() < 0.02 * hair.sum()


def test_refining_gives_it_unless_hair_is_left_out(sitter: Sitter) -> None:  # noqa: F811
    truth = dataclasses.replace(sitter.scene, hair_shell=wig(sitter.scene))
    photo, _ = photo_of(truth)
    found = refine(sitter.scene, [photo], WORK_SIZE, 0)
    assert found.hair_shell is not None and found.hair is not None
    seen, wanted = (picture(s, 0, s.cameras[0]).alpha for s in (found, truth))
    assert overlap(seen, wanted) > 0.95
    assert refine(sitter.scene, [photo], WORK_SIZE, 0, with_hair=False).hair_shell is None


def test_pictures_hold_all_of_it(sitter: Sitter) -> None:  # noqa: F811
    """The render of the photo's size, and its box, end with the hair and not with the head."""
    shell = wig(sitter.scene, 0.05)
    scene = dataclasses.replace(sitter.scene, hair_shell=shell)
    places = scene.cameras[0].project(shell.covered[None])[0]
    x0, y0, side = head_box(scene, 0)
    assert (places >= torch.tensor([x0, y0])).all() and (places <= torch.tensor([x0 + side, y0 + side])).all()
    assert head_box(scene, 0, bare=True) == head_box(sitter.scene, 0)
    whole = picture(scene, 0, scene.cameras[0]).alpha[0, ..., 0].numpy() > 0.5
    drawn = full_render(scene, 0)[..., 3] > 127
    assert (whole ^ drawn).mean() < 0.001
    ring = np.abs(shell.texture[0, 3].numpy() - 1) < 0.5
    assert len(shell.covered) == pytest.approx(ring.mean() * len(shell.verts), rel=0.1)


def test_slits_on_the_scalp_are_closed_and_the_face_stays_bare() -> None:
    """Where the hair that a photo shows ends, along its outline, and the part that it does not show begins."""
    rows, columns = TEXTURE
    cover = np.ones(TEXTURE)
    cover[200:, 300:700] = 0  # the face
    bare = cover.copy()
    cover[100:112, 200:800] = 0
    cover[100:260, 200:212] = 0
    scalp = np.ones(TEXTURE)
    scalp[190:, 290:710] = 0
    assert np.array_equal(volume._closed(cover, scalp), bare)
    off = volume._closed(cover, np.zeros(TEXTURE))
    assert off[106, columns // 2] == 0 and off[:rows // 3].min() == 0
