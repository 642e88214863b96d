# SPDX-License-Identifier: GPL-3.0-or-later
"""Hair and glasses that stand off the head in the photo: each a surface of its own, whose picture has holes."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils.kdtree import KDTree

from . import textures
from .axes import linear_to_srgb, srgb_to_linear, to_blender
from .bundle import SHELLS, ResultBundle
from .hair import PHOTO_OFF
from .mesh import OBJECT_NAMES, UV_LAYERS, Part, neutral
from .shape_keys import BASIS, IDENTITY_RANGE, identity_motions

REPLACED = "ganfit_replaced"  # on hair while it is hidden because strands stand in its place
BEFORE = "ganfit_shell_before"  # on a shell in Match Photo: whether it was hidden, and which rays have met it
ABSENT = "ganfit_shell_absent"  # on glasses while Match Photo hides them, because its photo shows none
ASIDE = "ganfit_shell_aside"  # on it while a sculpt hides it in the viewport alone
PHOTO_RAYS = ("visible_shadow", "visible_diffuse")  # in Match Photo none of them meet it: the fit's has no shadow
NEAR = 6  # vertices of the skin that a vertex takes its motion from
SOFTENED = 10  # steps of averaging that motion over neighbours
FAINT = 0.25  # cover below which a place's colour does not count
BARE = 0.02  # faces without more cover than that are left out: the solid view shows faces whole
SOLID, TINT_WIDTH = 0.98, 7  # cover from which nothing is seen through; texels from which less is no soft edge
SKINS = ((0.045, 0.025, 0.017), (0.12, 0.07, 0.05), (0.28, 0.18, 0.13), (0.6, 0.44, 0.36))  # linear albedo
ROUNDS = 6


@dataclass(frozen=True)
class Kind:
    """What may stand off a head.

    Attributes:
        part: its name among the parts where it is exported, and the prefix of its arrays in the bundle.
        mark: on its object.
        look: what its material and its picture are called, after the person.
        roughness, specular: of its material.
        tinted: whether its picture has tints that skin shows through.
    """

    part: str
    mark: str
    look: str
    roughness: float
    specular: float
    tinted: bool = False


HAIR = Kind("hair", "ganfit_hair_shell", "hair shell", 0.55, 0.25)
GLASSES = Kind("glasses", "ganfit_glasses", "glasses", 0.3, 0.5, tinted=True)
KINDS = (HAIR, GLASSES)


def find(collection: bpy.types.Collection, kind: Kind) -> bpy.types.Object | None:
    """The person's shell of a kind that came with the result, None without."""
    return next((thing for thing in collection.all_objects if kind.mark in thing), None)


def found(collection: bpy.types.Collection) -> dict[str, bpy.types.Object]:
    """All that stands off a person's head, by the names of the parts."""
    things = {kind.part: find(collection, kind) for kind in KINDS}
    return {part: thing for part, thing in things.items() if thing is not None}


def is_shell(thing: bpy.types.Object) -> bool:
    """Whether an object stands off a head."""
    return any(kind.mark in thing for kind in KINDS)


def is_seen(thing: bpy.types.Object) -> bool:
    """Whether it is seen in the viewport and in renders."""
    return not (thing.hide_render or thing.hide_viewport or thing.hide_get())


def is_shown(thing: bpy.types.Object) -> bool:
    """Whether it is seen, or would be without the sculpt that it is set aside for."""
    return is_seen(thing) or (ASIDE in thing and not (thing.hide_render or thing.hide_viewport))


def show(thing: bpy.types.Object, on: bool) -> None:
    """Shows or hides it, in the viewport and in renders; what is set aside stays so in the viewport."""
    thing.hide_render = thing.hide_viewport = not on
    if on and thing.hide_get() and ASIDE not in thing:
        thing.hide_set(False)


def toggle(thing: bpy.types.Object) -> None:
    """Shows or hides it for good, whether strands stand in its place or a sculpt has set it aside or not."""
    seen = is_seen(thing)
    for key in (REPLACED, ASIDE, ABSENT):
        thing.pop(key, None)
    show(thing, not seen)


def give_way(collection: bpy.types.Collection, on: bool) -> None:
    """Hides a person's hair while strands stand in its place, and shows again what this has hidden."""
    thing = find(collection, HAIR)
    if thing is None:
        return
    if on and is_shown(thing):
        show(thing, False)
        thing[REPLACED] = True
    elif not on and thing.pop(REPLACED, False):
        show(thing, True)


def set_aside(context: bpy.types.Context, thing: bpy.types.Object, on: bool) -> None:
    """Hides it in the viewport while a head is sculpted, and shows again what this has hidden."""
    if thing.name not in context.view_layer.objects:
        thing.pop(ASIDE, None)
    elif on and not thing.hide_get():
        thing.hide_set(True)
        thing[ASIDE] = True
    elif not on and thing.pop(ASIDE, False):
        thing.hide_set(False)


def is_lent(thing: bpy.types.Object) -> bool:
    """Whether it is shown only for Match Photo, because strands stand in its place otherwise."""
    return REPLACED in thing and BEFORE in thing and bool(thing[BEFORE][0])


def is_absent(thing: bpy.types.Object) -> bool:
    """Whether it is hidden only for Match Photo, because that photo shows none."""
    return ABSENT in thing


def set_photo_look(thing: bpy.types.Object, on: bool, in_photo: bool = True) -> None:
    """Takes its shadow off, shows it where strands stand in its place, and hides it unless it is `in_photo`; or puts
    that back."""
    if on == (BEFORE in thing):
        return
    if on:
        thing[BEFORE] = [not is_shown(thing), *(getattr(thing, name) for name in PHOTO_RAYS)]
        if REPLACED in thing:
            show(thing, True)
    hidden, *rays = thing[BEFORE]
    for name, before in zip(PHOTO_RAYS, rays):
        setattr(thing, name, bool(before) and not on)
    if not on:
        del thing[BEFORE]
        if REPLACED in thing and hidden:
            show(thing, False)
        if thing.pop(ABSENT, False):
            show(thing, True)
    elif not in_photo and is_shown(thing):
        thing[ABSENT] = True
        show(thing, False)


def build(kind: Kind, bundle: ResultBundle, skin: Part, collection: bpy.types.Collection,
          ) -> Generator[None, None, bpy.types.Object | None]:
    """A bundle's shell as an object of the collection, in steps; None without, or where its picture is lost."""
    path = bundle.folder / SHELLS[kind.part]
    if f"{kind.part}_verts" not in bundle.head or not path.is_file():
        return None
    verts, quads, uvs = (bundle.head[f"{kind.part}_{name}"] for name in ("verts", "quads", "uvs"))
    image = bpy.data.images.load(str(path), check_existing=False)
    if not image.size[0]:  # no picture that Blender knows
        bpy.data.images.remove(image)
        return None
    image.alpha_mode = "CHANNEL_PACKED"
    yield
    pixels = textures.read_image(image)
    if kind.tinted:  # in an image without a file, from which *Reload* would bring the old pixels back
        bpy.data.images.remove(image)
        image = textures.make_image("", mixed_linearly(pixels))
        image.alpha_mode = "CHANNEL_PACKED"
    else:
        image.pack()
    image.name = f"{bundle.name} {kind.look}"
    covered = _touched(uvs, pixels[..., 3] > BARE)
    if not covered.any():
        bpy.data.images.remove(image)
        return None
    vertices, corners = np.unique(quads[covered], return_inverse=True)
    points = to_blender(verts[vertices])
    yield
    thing = _make_object(kind, points, corners.reshape(-1, 4), uvs[covered])
    collection.objects.link(thing)
    thing.data.materials.append(_make_material(kind, bundle.name, image, pixels))
    yield
    _add_shape_keys(thing, points, bundle, skin)
    return thing


def carried(mesh: bpy.types.Mesh, points: np.ndarray, skin: np.ndarray, motions: np.ndarray) -> np.ndarray:
    """(K, H, 3) how the shell's points (H, 3) move with the skin below, whose vertices (V, 3) move by (K, V, 3)."""
    if not len(points):
        return np.zeros((len(motions), 0, 3), np.float32)
    tree = KDTree(len(skin))
    for number, place in enumerate(skin.tolist()):
        tree.insert(place, number)
    tree.balance()
    found = [tree.find_n(place, NEAR) for place in points.tolist()]
    near = np.array([[number for _, number, _ in row] for row in found])
    weights = 1 / (np.array([[distance for *_, distance in row] for row in found]) ** 2 + 1e-8)
    weights /= weights.sum(1, keepdims=True)
    moved = np.einsum("hn,khnd->hkd", weights, motions[:, near])
    edges = np.empty(len(mesh.edges) * 2, np.int32)
    mesh.edges.foreach_get("vertices", edges)
    ends, others = np.concatenate([edges.reshape(-1, 2), edges.reshape(-1, 2)[:, ::-1]]).T
    order = np.argsort(ends, kind="stable")
    ends, others = ends[order], others[order]
    inner, first, count = np.unique(ends, return_index=True, return_counts=True)
    for _ in range(SOFTENED):
        moved[inner] += 0.5 * (np.add.reduceat(moved[others], first) / count[:, None, None] - moved[inner])
    return moved.transpose(1, 0, 2).astype(np.float32)


def mixed_linearly(pixels: np.ndarray) -> np.ndarray:
    """The picture (H, W, 4), encoded, that looks over skin as these pixels do where encoded colours are mixed.

    The fit mixes a tint with what is behind it as encoded, Blender in linear light. A mix is a line over the skin's
    linear colour there, so cover and colours are those of the line nearest to the fit's mixes over `SKINS`, errors
    being relative: its slope is what is seen through, for all channels, and its height is the colours.
    """
    found = pixels.copy()
    partial = (pixels[..., 3] > 0) & (pixels[..., 3] < 1)
    cover, skins = pixels[partial][:, 3:], np.array(SKINS)[:, None]
    mixes = srgb_to_linear((1 - cover) * linear_to_srgb(skins) + cover * pixels[partial][:, :3])  # (skins, texels, 3)
    weight = 1 / skins
    skin, mix = ((weight * values).sum(0) / weight.sum(0) for values in (skins, mixes))
    through = (weight * (skins - skin) * (mixes - mix)).sum((0, 2)) / (weight * (skins - skin) ** 2).sum((0, 2))
    share, color = 1 - through[:, None], pixels[partial][:, :3]
    for _ in range(ROUNDS):  # a colour that would be brighter than white asks for another cover
        share = share.clip(BARE / 2, 1)
        color = ((mix - (1 - share) * skin) / share).clip(0, 1)
        lean = color - skins
        share = ((weight * (mixes - skins) * lean).sum((0, 2)) / (weight * lean**2).sum((0, 2)))[:, None]
    found[partial] = np.concatenate([linear_to_srgb(color), share.clip(0, 1)], 1)
    return found


def tinted_faces(uvs: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """(P,) which of the faces, with corners (P, C, 2), have some of the tint of a cover (H, W), row 0 at the bottom:
    they are see-through, and not only at the soft edges of what is solid."""
    through = (cover > BARE) & (cover < SOLID)
    inner = _counts(through) == TINT_WIDTH**2
    return _touched(uvs, _counts(inner) > 0)


def _counts(mask: np.ndarray) -> np.ndarray:
    """(H, W) how many places of a mask are in the square of `TINT_WIDTH` around each."""
    half = TINT_WIDTH // 2
    summed = np.pad(mask, ((half + 1, half), (half + 1, half))).astype(np.int64).cumsum(0).cumsum(1)
    rows = summed[TINT_WIDTH:] - summed[:-TINT_WIDTH]
    return rows[:, TINT_WIDTH:] - rows[:, :-TINT_WIDTH]


def _touched(uvs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(P,) which of the faces, with corners (P, C, 2), lie on some of a mask (H, W), row 0 at the bottom."""
    counted = np.zeros(np.add(mask.shape, 1), np.int64)  # how many texels left of and below a place are in it
    counted[1:, 1:] = mask.cumsum(0).cumsum(1)
    size = np.array(mask.shape[::-1])
    low = np.floor(uvs.min(1) * size - 0.5).astype(int).clip(0, size - 1)
    high = np.ceil(uvs.max(1) * size + 0.5).astype(int).clip(low + 1, size)
    (left, bottom), (right, top) = low.T, high.T
    return counted[top, right] - counted[bottom, right] - counted[top, left] + counted[bottom, left] > 0


def _make_object(kind: Kind, points: np.ndarray, quads: np.ndarray, uvs: np.ndarray) -> bpy.types.Object:
    """Smooth quads as the fit has drawn them, without subdivision: points (H, 3), corners (P, 4), UVs (P, 4, 2)."""
    name = OBJECT_NAMES[kind.part]
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(points))
    mesh.vertices.foreach_set("co", points.ravel())
    mesh.loops.add(quads.size)
    mesh.loops.foreach_set("vertex_index", quads.astype(np.int32).ravel())
    mesh.polygons.add(len(quads))
    mesh.polygons.foreach_set("loop_start", np.arange(0, quads.size, 4, dtype=np.int32))
    mesh.update(calc_edges=True)
    layer = mesh.uv_layers.new(name=next(iter(UV_LAYERS)), do_init=False)
    layer.uv.foreach_set("vector", np.ascontiguousarray(uvs, np.float32).ravel())
    mesh.shade_smooth()
    if mesh.validate():
        print(f"GANFIT: the mesh of {name} had errors, which Blender has removed")
    thing = bpy.data.objects.new(name, mesh)
    thing[kind.mark] = True
    return thing


def _add_shape_keys(thing: bpy.types.Object, basis: np.ndarray, bundle: ResultBundle, skin: Part) -> None:
    """The shape components, as the skin below the basis (H, 3) has them."""
    motions = identity_motions(bundle, skin)
    if not motions or len(thing.data.vertices) != len(basis):
        return
    moved = carried(thing.data, basis, neutral(bundle)[skin.vertices], np.array(list(motions.values())))
    thing.shape_key_add(name=BASIS, from_mix=False)
    for name, delta in zip(motions, moved):
        key = thing.shape_key_add(name=name, from_mix=False)
        key.slider_min, key.slider_max = -IDENTITY_RANGE, IDENTITY_RANGE
        key.value = 0.0
        key.points.foreach_set("co", (basis + delta).ravel())
    thing.data.shape_keys.name = thing.name


def _make_material(kind: Kind, person: str, image: bpy.types.Image, pixels: np.ndarray) -> bpy.types.Material:
    """Principled with the picture's colour and cover, whose pixels are (H, W, 4)."""
    material = bpy.data.materials.new(f"{person} {kind.look}")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    material.surface_render_method = "DITHERED"
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    output, shader, texture, uv = (nodes.new(f"ShaderNode{node}") for node in ("OutputMaterial", "BsdfPrincipled",
                                                                               "TexImage", "UVMap"))
    uv.uv_map = next(iter(UV_LAYERS))
    texture.image, texture.extension = image, "EXTEND"
    shader.inputs["Roughness"].default_value = kind.roughness
    specular = shader.inputs["Specular IOR Level"]
    specular.default_value = kind.specular
    shader[PHOTO_OFF] = [shader.inputs.find(specular.name)]
    for node, place in ((uv, (-620, 0)), (texture, (-400, 0)), (output, (700, 0))):
        node.location = place
    for source, target in (
        (uv.outputs["UV"], texture.inputs["Vector"]), (texture.outputs["Color"], shader.inputs["Base Color"]),
        (texture.outputs["Alpha"], shader.inputs["Alpha"]),
        (_inside_in_photo(material, texture, shader), output.inputs["Surface"]),
    ):
        links.new(source, target)
    nodes.active = texture
    material.diffuse_color = (*_mean_color(pixels), 1.0)  # what the solid view shows
    return material


def _inside_in_photo(material: bpy.types.Material, texture: bpy.types.ShaderNode,
                     shader: bpy.types.ShaderNode) -> bpy.types.NodeSocket:
    """Lights, in Match Photo, what is seen of the inner side by the light outside, as the fit does: it shines through.
    """
    nodes, links = material.node_tree.nodes, material.node_tree.links
    geometry, share, inner, clear, holes, mix = (nodes.new(f"ShaderNode{kind}") for kind in (
        "NewGeometry", "Math", "BsdfTranslucent", "BsdfTransparent", "MixShader", "MixShader"))
    share.operation, share.use_clamp = "SUBTRACT", True
    share.inputs[1].default_value = 1.0
    share[PHOTO_OFF] = [1]
    for node, place in ((geometry, (60, 320)), (share, (280, 320)), (inner, (-60, -640)), (clear, (-60, -540)),
                        (holes, (280, -520)), (mix, (500, 0))):
        node.location = place
    for source, target in (
        (geometry.outputs["Backfacing"], share.inputs[0]), (share.outputs[0], mix.inputs[0]),
        (texture.outputs["Color"], inner.inputs["Color"]), (texture.outputs["Alpha"], holes.inputs[0]),
        (clear.outputs[0], holes.inputs[1]), (inner.outputs[0], holes.inputs[2]),
        (shader.outputs[0], mix.inputs[1]), (holes.outputs[0], mix.inputs[2]),
    ):
        links.new(source, target)
    return mix.outputs[0]


def _mean_color(pixels: np.ndarray) -> list[float]:
    """Linear mean colour of what a picture (H, W, 4) covers."""
    pixels = pixels[::4, ::4].reshape(-1, 4)
    covered = pixels[pixels[:, 3] > FAINT, :3]
    return srgb_to_linear(covered if len(covered) else pixels[:, :3]).mean(0).tolist()
