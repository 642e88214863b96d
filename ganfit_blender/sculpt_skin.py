# SPDX-License-Identifier: GPL-3.0-or-later
"""The skin's colours on a multires mesh in sculpt mode, where Blender gives a material positions but no UV maps.

The colours are laid around the head as a picture of directions, seen from its middle. The sculpt gets a material of its
own, which takes that picture where it finds no UV map, and is the head's skin everywhere else.
"""

from __future__ import annotations

import bpy
import numpy as np

from .importer import hair, textures
from .importer.axes import srgb_to_linear
from .importer.material import SPECULAR_INPUT, painted_image
from .importer.mesh import SKIN_ROUGHNESS, SKIN_SPECULAR, UV_LAYERS

PICTURE = "ganfit_sculpt_skin"  # on the material: the picture of directions
WIDTH, HEIGHT = 1024, 512  # a texel is 0.6 mm of a face
LAYER = next(iter(UV_LAYERS))


def show(copy: bpy.types.Object, points: np.ndarray) -> None:
    """Gives a sculpt a material that has the skin's colours in sculpt mode too.

    Nothing changes where the material has no albedo, or the mesh not our UV map.

    Args:
        points: (V, 3) where the mesh's vertices lie on the sculpt's surface, in its own space.
    """
    skin = copy.active_material
    albedo = painted_image(skin)
    if albedo is None or not albedo.size[0] or not len(points) or LAYER not in copy.data.uv_layers:
        return
    centre = (points.min(0) + points.max(0)) / 2
    colors = around(copy.data, points - centre, hair.compose(skin, textures.read_image(albedo)[..., :3]))
    picture = textures.make_image(f"{copy.name} skin", colors)
    own = copy.active_material = skin.copy()
    own.name, own[PICTURE] = f"{skin.name} sculpt", picture
    face = srgb_to_linear(colors[HEIGHT // 3 : HEIGHT // 2, 5 * WIDTH // 8 : 7 * WIDTH // 8])
    own.diffuse_color = (*face.mean((0, 1)).tolist(), 1.0)  # what the solid view shows
    _add_nodes(own, picture, centre)


def hide(copy: bpy.types.Object, skin: bpy.types.Material | None) -> None:
    """Gives a sculpt the head's skin again; nothing is left of its own material."""
    own = copy.active_material
    if own is not None and PICTURE in own:
        copy.active_material, picture = skin, own[PICTURE]
        bpy.data.materials.remove(own)
        if picture is not None:  # not deleted by the artist
            bpy.data.images.remove(picture)


def around(mesh: bpy.types.Mesh, points: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) the colours of a mesh by direction from the origin, equirectangular as Blender reads it.

    Where several surfaces lie in one direction the farthest is taken; where none does, the next below, or the lowest.

    Args:
        points: (V, 3) the mesh's vertices around the origin.
        colors: (H, W, 3) colours over our UV map, row 0 at the bottom.
    """
    mesh.calc_loop_triangles()
    corners, vertices = np.empty(3 * len(mesh.loop_triangles), np.int32), np.empty(len(mesh.loops), np.int32)
    uv = np.empty(2 * len(mesh.loops), np.float32)
    mesh.loop_triangles.foreach_get("loops", corners)
    mesh.loops.foreach_get("vertex_index", vertices)
    mesh.uv_layers[LAYER].uv.foreach_get("vector", uv)
    uv, ends = uv.reshape(-1, 2)[corners].reshape(-1, 3, 2), points[vertices[corners]].reshape(-1, 3, 3)
    far, (x, y, z) = np.linalg.norm(ends, axis=-1).mean(1), np.moveaxis(ends, -1, 0)
    turn, height = 0.5 - np.arctan2(y, x) / (2 * np.pi), 0.25 + np.arctan2(z, np.hypot(x, y)) / (2 * np.pi)
    split = np.ptp(turn, axis=1) > 0.5  # from the right border to the left one: drawn at both
    turn[split] += turn[split] < 0.5
    places = np.stack([turn, height], -1)
    places, uv = np.concatenate([places, places[split] - [1, 0]]), np.concatenate([uv, uv[split]])
    order = np.argsort(np.concatenate([far, far[split]]))  # what is drawn last stays
    seen, covered = textures.draw_in_uv(places[order], uv[order], WIDTH)
    row = np.where(covered[:HEIGHT], np.arange(HEIGHT)[:, None], -1)
    row = np.maximum.accumulate(row)
    row = np.where(row < 0, np.where(covered[:HEIGHT].any(0), covered[:HEIGHT].argmax(0), 0), row)
    u, v = np.moveaxis(np.take_along_axis(seen, row[..., None], 0), -1, 0)
    size = np.array(colors.shape[:2])
    return colors[tuple(np.clip((place * count).astype(int), 0, count - 1) for place, count in zip((v, u), size))]


def _add_nodes(material: bpy.types.Material, picture: bpy.types.Image, centre: np.ndarray) -> None:
    """A UV map that is not there reads as 0, which none of ours has at any corner."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    output = next(node for node in nodes if node.type == "OUTPUT_MATERIAL")
    place, outwards, environment, plain = (nodes.new(f"ShaderNode{kind}") for kind in (
        "TexCoord", "VectorMath", "TexEnvironment", "BsdfPrincipled"))
    uv, length, there, mix = (nodes.new(f"ShaderNode{kind}") for kind in ("UVMap", "VectorMath", "Math", "MixShader"))
    outwards.operation, outwards.inputs[1].default_value = "SUBTRACT", centre.tolist()
    environment.image, uv.uv_map = picture, LAYER
    plain.inputs["Roughness"].default_value, plain.inputs[SPECULAR_INPUT].default_value = SKIN_ROUGHNESS, SKIN_SPECULAR
    length.operation = "LENGTH"
    there.operation, there.inputs[1].default_value = "GREATER_THAN", 0.0
    for number, node in enumerate((place, outwards, environment, plain, mix)):
        node.location = (-500 + 200 * number, 1200)
    for number, node in enumerate((uv, length, there)):
        node.location = (-100 + 200 * number, 1400)
    for source, target in (
        (place.outputs["Object"], outwards.inputs[0]), (outwards.outputs[0], environment.inputs["Vector"]),
        (environment.outputs["Color"], plain.inputs["Base Color"]), (uv.outputs["UV"], length.inputs[0]),
        (length.outputs["Value"], there.inputs[0]), (there.outputs[0], mix.inputs[0]),
        (plain.outputs["BSDF"], mix.inputs[1]), (output.inputs["Surface"].links[0].from_socket, mix.inputs[2]),
        (mix.outputs[0], output.inputs["Surface"]),
    ):
        links.new(source, target)
