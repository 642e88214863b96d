# SPDX-License-Identifier: GPL-3.0-or-later
"""Hair on the scalp as a colour over the albedo, mixed in with a strength: the photo's, or a shade of cropped hair."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import bpy
import numpy as np

from . import textures
from .axes import linear_to_srgb, srgb_to_linear
from .bundle import ALBEDO, HAIR, SKIN, ResultBundle
from .mesh import UV_LAYERS, Part

SHADE = "Hair Shade"  # the node with the strength
MIX = "Hair Mix"  # the node that lays the hair's colour over the albedo
MASK = "Hair Mask"
UNDER = "Hair Under"  # the node that lays a shade over the skin where strands are rooted
LAYER_BEFORE = "ganfit_layer_before"  # on strands: how strong the photo's layer was without them
LAYER_OUTSIDE = "ganfit_layer_outside"  # on a head with strands, in Match Photo: how strong it is out of it
ROOTED = "hair_rooted"  # the attribute that says where that is, 0 to 1
PHOTO_OFF = "ganfit_photo_off"  # on nodes: numbers of the inputs that are 0 in Match Photo, whose light is diffuse
SIZE = 512
SOFTENED = 12  # steps of averaging over neighbours: about 2 cm of fading at the hairline
STRENGTH = 0.92
HAIRS_MM, UV_LENGTH_MM = 0.7, 330.0
BROW_SHARE = 0.2  # the darkest fifth of the brows is hair


def cropped(bundle: ResultBundle,
            parts: list[Part]) -> Generator[None, None, tuple[bpy.types.Image, list[float]] | None]:
    """Cropped hair for a bundle without hair of its own, in steps: the image of its mask, and its linear colour.

    None where the bundle has a layer of hair, no scalp or no albedo.
    """
    part = next(part for part in parts if part.name == SKIN)
    scalp = region(bundle, part, "scalp")
    if scalp is None or (bundle.folder / HAIR).is_file() or not (bundle.folder / ALBEDO).is_file():
        return None
    albedo = bpy.data.images.load(str(bundle.folder / ALBEDO))
    color = hair_color(bundle, part, albedo)
    bpy.data.images.remove(albedo)
    yield
    drawn = _draw_scalp(bundle, part, scalp)
    yield
    return textures.make_image(f"{bundle.name} hair mask", _hairline(*drawn), color=False), color


def add_nodes(material: bpy.types.Material, bundle: ResultBundle,
              shade: tuple[bpy.types.Image, list[float]] | None) -> bpy.types.ShaderNode | None:
    """A mix node whose `A` wants the albedo and whose `Result` is the skin with hair; None without hair.

    The hair is the bundle's own layer where it has one, else what `cropped` gave.
    """
    if (bundle.folder / HAIR).is_file():
        return _add_photo_nodes(material, bundle)
    if shade is None:
        return None
    nodes, links = material.node_tree.nodes, material.node_tree.links
    mask, uv, noise = (nodes.new(kind) for kind in ("ShaderNodeTexImage", "ShaderNodeUVMap", "ShaderNodeTexNoise"))
    hairs, share, mix = nodes.new("ShaderNodeMapRange"), nodes.new("ShaderNodeMath"), nodes.new("ShaderNodeMix")
    amount = nodes.new("ShaderNodeMath")
    mask.image, color = shade
    mask.name = MASK
    uv.uv_map = next(iter(UV_LAYERS))
    noise.noise_dimensions = "2D"
    noise.inputs["Scale"].default_value = UV_LENGTH_MM / HAIRS_MM
    hairs.inputs["From Min"].default_value, hairs.inputs["From Max"].default_value = 0.3, 0.7
    hairs.inputs["To Min"].default_value = 0.55
    share.operation = amount.operation = "MULTIPLY"
    amount.name = amount.label = SHADE
    amount.inputs[1].default_value = STRENGTH
    amount[PHOTO_OFF] = [1]
    mix.name = MIX
    mix.data_type, mix.clamp_factor = "RGBA", True
    mix_socket(mix.inputs, "B").default_value = (*color, 1.0)
    for number, node in enumerate((uv, mask, noise, hairs, share, amount, mix)):
        node.location = (-1560 + 180 * number, 620 if node in (mask, share) else 880)
    mix.location = (-300, 320)
    for node in (mask, noise):
        links.new(uv.outputs["UV"], node.inputs["Vector"])
    links.new(noise.outputs[0], hairs.inputs["Value"])
    links.new(mask.outputs["Color"], share.inputs[0])
    links.new(hairs.outputs[0], share.inputs[1])
    links.new(share.outputs[0], amount.inputs[0])
    links.new(amount.outputs[0], mix_socket(mix.inputs, "Factor", "Float"))
    return mix


def _add_photo_nodes(material: bpy.types.Material, bundle: ResultBundle) -> bpy.types.ShaderNode:
    nodes, links = material.node_tree.nodes, material.node_tree.links
    layer, uv, amount, mix = (nodes.new(f"ShaderNode{kind}") for kind in ("TexImage", "UVMap", "Math", "Mix"))
    layer.image = bpy.data.images.load(str(bundle.folder / HAIR))
    layer.image.name, layer.image.alpha_mode = f"{bundle.name} hair", "CHANNEL_PACKED"
    layer.image.pack()
    layer.name, layer.extension = MASK, "EXTEND"
    uv.uv_map = next(iter(UV_LAYERS))
    amount.operation = "MULTIPLY"
    amount.name = amount.label = SHADE
    amount.inputs[1].default_value = 1.0
    mix.name = MIX
    mix.data_type, mix.clamp_factor = "RGBA", True
    for node, place in ((uv, (-1120, 620)), (layer, (-900, 620)), (amount, (-560, 560)), (mix, (-300, 320))):
        node.location = place
    links.new(uv.outputs["UV"], layer.inputs["Vector"])
    links.new(layer.outputs["Alpha"], amount.inputs[0])
    links.new(layer.outputs["Color"], mix_socket(mix.inputs, "B"))
    links.new(amount.outputs[0], mix_socket(mix.inputs, "Factor", "Float"))
    return mix


def shade_under(material: bpy.types.Material, color: np.ndarray) -> None:
    """Gives the skin a linear colour where strands are rooted (attribute `ROOTED`): it shows between them."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    if UNDER not in nodes:
        below = mix_socket(nodes[MIX].outputs, "Result")
        users = [link.to_socket for link in below.links]
        scalp, amount, mix = (nodes.new(f"ShaderNode{kind}") for kind in ("Attribute", "Math", "Mix"))
        scalp.attribute_name, amount.operation, amount[PHOTO_OFF] = ROOTED, "MULTIPLY", [1]
        amount.inputs[1].default_value = STRENGTH
        mix.name = mix.label = UNDER
        mix.data_type, mix.clamp_factor = "RGBA", True
        for node, place in ((scalp, (-560, 900)), (amount, (-380, 900)), (mix, (-140, 480))):
            node.location = place
        links.new(scalp.outputs["Fac"], amount.inputs[0])
        links.new(amount.outputs[0], mix_socket(mix.inputs, "Factor", "Float"))
        links.new(below, mix_socket(mix.inputs, "A"))
        for socket in users:
            links.new(mix_socket(mix.outputs, "Result"), socket)
    mix_socket(nodes[UNDER].inputs, "B").default_value = (*np.clip(color, 0, 1).tolist(), 1.0)


def photo_layer(material: bpy.types.Material | None) -> bpy.types.Image | None:
    """The image with the photo's hair, when the material has one and it shows any."""
    nodes = material.node_tree.nodes if material is not None and material.node_tree is not None else {}
    if MIX not in nodes or MASK not in nodes or not mix_socket(nodes[MIX].inputs, "B").is_linked:
        return None
    image = nodes[MASK].image
    return image if image is not None and image.size[0] else None


def layer_strength(material: bpy.types.Material | None) -> bpy.types.NodeSocket | None:
    """The strength of the layer with the photo's hair, where there is one."""
    if photo_layer(material) is None or SHADE not in material.node_tree.nodes:
        return None
    return material.node_tree.nodes[SHADE].inputs[1]


def compose(material: bpy.types.Material, albedo: np.ndarray) -> np.ndarray:
    """(H, W, 3) the albedo, sRGB-encoded, with the hair as the nodes of the material lay it over it."""
    nodes = material.node_tree.nodes
    mix, mask, amount = nodes.get(MIX), nodes.get(MASK), nodes.get(SHADE)
    if mix is None or mask is None or amount is None or mask.image is None:
        return albedo
    height, width = albedo.shape[:2]
    rows = (np.arange(height) * mask.image.size[1]) // height
    columns = (np.arange(width) * mask.image.size[0]) // width
    picture = textures.read_image(mask.image)[rows][:, columns]
    if mix_socket(mix.inputs, "B").is_linked:  # the photo's hair, each texel with its own colour
        share = picture[..., 3]
        color = srgb_to_linear(picture[share > 0, :3])
    else:
        noise = textures.cloud(max(height, width), int(UV_LENGTH_MM / HAIRS_MM), 9)[:height, :width]
        share = picture[..., 0] * (0.55 + 0.45 * np.clip(0.5 + 1.5 * noise, 0, 1))
        color = np.array(mix_socket(mix.inputs, "B").default_value[:3])
    haired, composed = share > 0, albedo.astype(np.float32)
    linear = srgb_to_linear(albedo[haired])
    linear += np.clip(share[haired] * amount.inputs[1].default_value, 0, 1)[:, None] * (color - linear)
    composed[haired] = linear_to_srgb(linear)
    return composed


def mix_socket(sockets: bpy.types.NodeInputs | bpy.types.NodeOutputs, name: str, kind: str = "Color") -> Any:
    """A socket of a mix node, which has several of one name, one for each kind of data."""
    return next(socket for socket in sockets if socket.identifier == f"{name}_{kind}")


def region(bundle: ResultBundle, part: Part, name: str) -> np.ndarray | None:
    """(V,) mask of a region on the part's vertices, None when the bundle has none of that name."""
    names = [str(entry) for entry in bundle.head.get("region_names", ())]
    if name not in names:
        return None
    return np.asarray(bundle.head["region_masks"][names.index(name)][part.vertices], np.float32)


def _draw_scalp(bundle: ResultBundle, part: Part, scalp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scalp with soft borders in the UV map, as `draw_in_uv` gives it; what has none of it is left out."""
    soft = scalp.copy()
    edges = np.stack([part.corners, np.roll(part.corners, -1, 1)], -1).reshape(-1, 2)
    ends, others = np.concatenate([edges, edges[:, ::-1]]).T
    count = np.maximum(np.bincount(ends, minlength=len(soft)), 1)
    for _ in range(SOFTENED):
        soft = 0.5 * soft + 0.5 * np.bincount(ends, soft[others], len(soft)) / count
    order = [[0, 1, 2], [0, 2, 3]]
    triangles = bundle.head["corner_uvs"][part.faces][:, order].reshape(-1, 3, 2)
    values = soft[part.corners][:, order].reshape(-1, 3, 1)
    some = values.any((1, 2))
    return textures.draw_in_uv(triangles[some], values[some], SIZE // 2)  # it is soft


def _hairline(scalp: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE, 1) in [0, 1]: the scalp's mask with an uneven border."""
    picture = textures.doubled(textures.spread(scalp, covered, 2))
    uneven = 0.10 * textures.cloud(SIZE, 110, 5) + 0.08 * textures.cloud(SIZE, 256, 6)
    shade = np.clip((picture + uneven[..., None] * (picture > 0.02) - 0.12) / 0.4, 0, 1)
    return shade * shade * (3 - 2 * shade)


def hair_color(bundle: ResultBundle, part: Part, albedo: bpy.types.Image) -> list[float]:
    """Linear colour of the brows' darkest part in the albedo; dark brown without brows."""
    brow = region(bundle, part, "brow")
    if brow is None or not (brow > 0.5).any() or not albedo.size[0]:
        return [0.03, 0.02, 0.014]
    corner = brow[part.corners].reshape(-1) > 0.5
    uv = bundle.head["corner_uvs"][part.faces].reshape(-1, 2)[corner]
    pixels = textures.read_image(albedo)
    x, y = (np.clip((uv * albedo.size).astype(int), 0, np.array(albedo.size) - 1)).T
    linear = srgb_to_linear(pixels[y, x, :3])
    dark = np.argsort(linear.sum(1))[: max(1, int(BROW_SHARE * len(linear)))]
    return (0.12 * linear[dark].mean(0)).tolist()
