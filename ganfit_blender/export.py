# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a head to GLB, FBX, OBJ or USD with Blender's own exporters, from plain copies that other programs know."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np

from . import hair_curves, sculpt, shapes
from .errors import AddonError
from .importer import hair, shape_keys, shell, textures
from .importer import scene as importer
from .importer.axes import linear_to_srgb
from .importer.bundle import SHELLS, SKIN
from .importer.material import painted_image
from .importer.mesh import COLOR_ATTRIBUTE, EYES, OBJECT_NAMES, SUBDIVISION
from .sculpt import object_mode, select

FORMATS = {"GLB": ".glb", "FBX": ".fbx", "OBJ": ".obj", "USD": ".usdc"}
COLOR_SIZE = 128  # pixels of a picture made of a part's colour attribute
MOVES_M = 1e-7
KEYS_LEVEL = 3  # 52 morph targets of the skin's 200 000 vertices; four times as many would fill gigabytes
PARTS_LEVEL = 2
WET_ROUGHNESS = 0.15
PROBLEM = "export_failed"


def export(context: bpy.types.Context, collection: bpy.types.Collection, path: Path, kind: str, level: int) -> Path:
    """Exports a person's head, eyes, teeth, tongue and lashes, and the photo's hair and glasses where they are shown.

    Shape sliders are baked in; ARKit's expressions are morph targets with the weights that are set now (OBJ has none:
    it gets the expression itself). Highlights, pores and scatter are Blender's own; what is exported is colour with the
    hair's shade, roughness, and the normal map where there is one. Textures lie inside a GLB, else in a folder beside
    that has the file's name, and inside an FBX as well. The other parts are the head's children. What is sculpted on
    multires is in the mesh, as far as the level holds it. Faces of hair and glasses are not divided; their cover is
    cut at a half in a GLB but for the glasses' tints, soft elsewhere.

    Args:
        level: 0 for the cage, 1 for smooth meshes of four times its faces, and so on; above `KEYS_LEVEL` there are no
            morph targets but the expression itself. Parts other than the skin stop at `PARTS_LEVEL`.

    Returns:
        The file. Raises AddonError: `export_failed`, `topology`.
    """
    object_mode(context)
    path = path.with_suffix(FORMATS[kind])
    if not path.parent.is_dir():
        raise AddonError(PROBLEM, f"There is no folder {path.parent}.")
    active, chosen = context.view_layer.objects.active, list(context.selected_objects)
    with _plain_copies(context, collection, level, kind == "GLB") as things:
        if kind != "GLB":
            _write_textures(things, path.with_name(f"{path.stem}_textures"))
        select(context, *things)
        try:
            done = _WRITERS[kind](str(path))
        except RuntimeError as error:
            raise AddonError(PROBLEM, f"Blender could not write {path.name}: {error}") from error
    select(context, *chosen, *([active] if active else [])) if chosen or active else None
    if "FINISHED" not in done or not path.is_file():
        raise AddonError(PROBLEM, f"Blender did not write {path.name}.")
    return path


def _write_glb(path: str) -> set[str]:
    return bpy.ops.export_scene.gltf(
        filepath=path, export_format="GLB", use_selection=True, export_morph=True, export_morph_normal=False,
        export_animations=False, export_apply=False, export_yup=True, export_try_sparse_sk=True,
    )


def _write_fbx(path: str) -> set[str]:
    return bpy.ops.export_scene.fbx(
        filepath=path, use_selection=True, object_types={"MESH"}, use_mesh_modifiers=False, mesh_smooth_type="FACE",
        path_mode="COPY", embed_textures=True, bake_anim=False, apply_scale_options="FBX_SCALE_ALL",
    )


def _write_obj(path: str) -> set[str]:
    return bpy.ops.wm.obj_export(
        filepath=path, export_selected_objects=True, export_materials=True, export_pbr_extensions=True,
        path_mode="RELATIVE", export_triangulated_mesh=False,
    )


def _write_usd(path: str) -> set[str]:
    known = bpy.ops.wm.usd_export.get_rna_type().properties.keys()
    wanted = {"export_textures": False, "export_textures_mode": "KEEP"}  # before 4.4, and since
    options = {name: value for name, value in wanted.items() if name in known}
    scene = bpy.context.scene
    frames = scene.frame_start, scene.frame_end
    scene.frame_start = scene.frame_end = scene.frame_current  # USD has weights of blend shapes in animations alone
    try:
        return bpy.ops.wm.usd_export(
            filepath=path, selected_objects_only=True, export_materials=True, generate_preview_surface=True,
            export_shapekeys=True, export_animation=True, convert_world_material=False, relative_paths=True, **options,
        )
    finally:
        scene.frame_start, scene.frame_end = frames


_WRITERS = {"GLB": _write_glb, "FBX": _write_fbx, "OBJ": _write_obj, "USD": _write_usd}


@contextlib.contextmanager
def _plain_copies(context: bpy.types.Context, collection: bpy.types.Collection,
                  level: int, cut: bool) -> Iterator[list[bpy.types.Object]]:
    """Copies of the parts under their proper names, in the scene for the time of the block; nothing of them stays."""
    parts = _parts(collection)
    head = importer.head_of(collection)
    values = {block.name: block.value for block in shape_keys.expression_keys(head)}
    before = {kind: set(getattr(bpy.data, kind)) for kind in ("objects", "meshes", "materials", "images")}
    names = _holders(parts)  # as they are now
    shelf = bpy.data.collections.new("GANFIT export")
    context.scene.collection.children.link(shelf)
    try:
        for taken in names:
            taken.name = f"{taken.name} (original)"
        things = {}
        for part, thing in parts.items():
            carved = sculpt.find(collection) if part == SKIN else None
            fine = level if part == SKIN else min(level, PARTS_LEVEL if part not in SHELLS else 0)
            refined = _Refined(context, shelf, carved or thing, fine)
            neutral = _neutral(context, thing, carved, level)
            mesh = _plain_mesh(context, refined, neutral if level <= KEYS_LEVEL else
                               neutral + _expression(thing, values))
            copy = bpy.data.objects.new(OBJECT_NAMES.get(part, part), mesh)
            mesh.name = copy.name
            shelf.objects.link(copy)
            if level <= KEYS_LEVEL:
                _copy_keys(thing, copy, refined, neutral, values)
            mesh.materials.clear()
            mesh.materials.append(_plain_material(thing, part, names, cut))
            if cut and part == shell.GLASSES.part:
                _mix_tints(mesh, thing, part, names)
            things[part] = copy
        for part, copy in things.items():
            copy.matrix_world = parts[part].matrix_world
            if part != SKIN:
                copy.parent = things[SKIN]
                copy.matrix_parent_inverse = parts[SKIN].matrix_world.inverted()
        context.view_layer.update()
        yield list(things.values())
    finally:
        for kind in ("objects", "meshes", "materials", "images"):
            bpy.data.batch_remove(set(getattr(bpy.data, kind)) - before[kind])
        bpy.data.collections.remove(shelf)
        for taken, name in names.items():
            taken.name = name
        for block in shape_keys.expression_keys(head):
            block.value = values[block.name]  # the glTF exporter sets the frame, which drops what is not keyed yet


def _parts(collection: bpy.types.Collection) -> dict[str, bpy.types.Object]:
    """The parts and, unless hidden, the photo's hair and glasses; what a person hides together with all parts is in it.

    Where strands stand in that hair's place it is left out in Match Photo, too, as it is out of it; glasses that only
    Match Photo hides are in it.
    """
    parts, strands = importer.parts_of(collection), hair_curves.find(collection)
    others = [thing for part, thing in parts.items() if part != SKIN]  # a sculpt or a body hides the skin
    all_hidden = not any(map(shell.is_shown, others))
    return parts | {part: thing for part, thing in shell.found(collection).items()
                    if (not thing.hide_render and (shell.is_shown(thing) or all_hidden)
                        and not (shell.is_lent(thing) and strands is not None)) or shell.is_absent(thing)}


def _holders(parts: dict[str, bpy.types.Object]) -> dict[bpy.types.ID, str]:
    """The file's own data-blocks that have the names which the copies should get, with these names."""
    wanted = [OBJECT_NAMES.get(part, part) for part in parts]
    found = [kind.get((name, None)) for kind in (bpy.data.objects, bpy.data.meshes) for name in wanted]
    found += [slot.material for thing in parts.values() for slot in thing.material_slots[:1]]
    return {block: block.name for block in found if block is not None and block.library is None}


def _neutral(context: bpy.types.Context, thing: bpy.types.Object, carved: bpy.types.Object | None,
             level: int) -> np.ndarray:
    """(V, 3) a part's cage without expression: for a sculpt under way its own, or at level 0 the one fitted to it."""
    if carved is None:
        return shapes.neutral_points(thing)
    fitted = sculpt.sculpted_cage(context, carved, len(thing.data.vertices))  # AddonError: `topology`
    return fitted if level == 0 else shapes.mesh_points(carved.data)


def _expression(thing: bpy.types.Object, values: dict[str, float]) -> np.ndarray:
    """(V, 3) how the expression that is set moves a part's cage."""
    moved = np.zeros((len(thing.data.vertices), 3), np.float32)
    for key in shape_keys.expression_keys(thing):
        weight = values.get(key.name, 0.0)
        if weight:
            moved += weight * (shapes.key_points(key) - shapes.key_points(thing.data.shape_keys.key_blocks[0]))
    return moved


class _Refined:
    """Evaluates positions of an object's cage at a level, with what is sculpted on the object's multires."""

    def __init__(self, context: bpy.types.Context, shelf: bpy.types.Collection, thing: bpy.types.Object,
                 level: int) -> None:
        self._context = context
        self.thing = thing.copy()
        self.thing.data = thing.data.copy()
        shelf.objects.link(self.thing)
        self.thing.hide_viewport = False  # of what is disabled in viewports Blender evaluates no modifiers
        shapes.remove_keys(self.thing)
        for modifier in list(self.thing.modifiers):
            if modifier.type != "MULTIRES" or modifier.total_levels == 0 or not level:
                self.thing.modifiers.remove(modifier)
        for modifier in self.thing.modifiers:
            modifier.show_viewport, modifier.uv_smooth = True, "NONE"
            modifier.levels = min(level, modifier.total_levels)
            level -= modifier.levels
        if level:
            modifier = self.thing.modifiers.new(SUBDIVISION, "SUBSURF")
            modifier.levels, modifier.use_limit_surface, modifier.use_creases = level, False, False
            modifier.uv_smooth, modifier.boundary_smooth = "NONE", "ALL"

    def __call__(self, cage: np.ndarray) -> np.ndarray:
        shapes.set_mesh_points(self.thing.data, cage)
        return shapes.evaluated_points(self._context, self.thing)


def _plain_mesh(context: bpy.types.Context, refined: _Refined, cage: np.ndarray) -> bpy.types.Mesh:
    """The part's mesh for a cage (V, 3), with our UV layer alone."""
    refined(cage)
    mesh = bpy.data.meshes.new_from_object(refined.thing.evaluated_get(context.evaluated_depsgraph_get()))
    for name in [layer.name for layer in mesh.uv_layers][1:]:
        mesh.uv_layers.remove(mesh.uv_layers[name])
    ours = ("region_", "ganfit_", "makehuman_", "rest_position", COLOR_ATTRIBUTE)
    for name in [attribute.name for attribute in mesh.attributes if attribute.name.startswith(ours)]:
        mesh.attributes.remove(mesh.attributes[name])
    return mesh


def _copy_keys(thing: bpy.types.Object, copy: bpy.types.Object, refined: _Refined, neutral: np.ndarray,
               values: dict[str, float]) -> None:
    """ARKit's expressions that move the part, with the weights that are set."""
    keys = shape_keys.expression_keys(thing)
    if not keys:
        return
    basis = shapes.key_points(thing.data.shape_keys.key_blocks[0])
    still = refined(neutral)
    copy.shape_key_add(name=shape_keys.BASIS, from_mix=False)
    for key in keys:
        moved = refined(neutral + shapes.key_points(key) - basis)
        if np.abs(moved - still).max(initial=0.0) > MOVES_M:
            block = copy.shape_key_add(name=key.name, from_mix=False)
            shapes.set_key_points(block, moved)
            block.value = values.get(key.name, 0.0)


def _plain_material(thing: bpy.types.Object, part: str, names: dict[bpy.types.ID, str],
                    cut: bool) -> bpy.types.Material:
    """Principled with images alone, which all four formats know; hair and glasses have their cover, `cut` at a half."""
    source = thing.data.materials[0] if thing.data.materials else None
    material = bpy.data.materials.new(names.get(source, source.name) if source else part)
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Roughness"].default_value = 0.5
    tree = source.node_tree if source else None
    old = next((node for node in tree.nodes if node.type == "BSDF_PRINCIPLED"), None) if tree else None
    picture = _color_image(thing, source, part)
    if picture is not None:
        color = nodes.new("ShaderNodeTexImage")
        color.image = picture
        links.new(color.outputs["Color"], shader.inputs["Base Color"])
        if part in SHELLS:
            _link_cover(material, color.outputs["Alpha"], shader.inputs["Alpha"], cut)
    elif source is not None:
        plain = old.inputs["Base Color"].default_value if old is not None else source.diffuse_color
        shader.inputs["Base Color"].default_value = plain
    if old is not None:
        roughness = WET_ROUGHNESS if part in EYES else old.inputs["Roughness"].default_value  # there the coat shines
        shader.inputs["Roughness"].default_value = roughness
        _link_linked_image(material, old.inputs["Roughness"], shader.inputs["Roughness"])
        _link_normal_map(material, source, shader)
    return material


def _link_cover(material: bpy.types.Material, cover: bpy.types.NodeSocket, alpha: bpy.types.NodeSocket,
                cut: bool) -> None:
    """Links a picture's alpha; rounded it becomes glTF's `MASK`, which needs no sorting by depth."""
    if cut:
        rounded = material.node_tree.nodes.new("ShaderNodeMath")
        rounded.operation = "ROUND"
        material.node_tree.links.new(cover, rounded.inputs[0])
        cover = rounded.outputs[0]
    material.node_tree.links.new(cover, alpha)


def _mix_tints(mesh: bpy.types.Mesh, thing: bpy.types.Object, part: str, names: dict[bpy.types.ID, str]) -> None:
    """Gives faces with a tint a second material, whose cover is not cut."""
    picture = _color_image(thing, thing.data.materials[0] if thing.data.materials else None, part)
    if picture is None or not picture.size[0] or not mesh.uv_layers or not mesh.polygons:
        return
    uv = np.empty(len(mesh.loops) * 2, np.float32)
    mesh.uv_layers[0].uv.foreach_get("vector", uv)
    first = np.empty(len(mesh.polygons), np.int32)
    mesh.polygons.foreach_get("loop_start", first)
    boxes = [bound.reduceat(uv.reshape(-1, 2), first) for bound in (np.minimum, np.maximum)]
    tinted = shell.tinted_faces(np.stack(boxes, 1), textures.read_image(picture)[..., 3])
    if tinted.any():
        material = _plain_material(thing, part, names, cut=False)
        material.name = f"{mesh.materials[0].name} tinted"
        mesh.materials.append(material)
        mesh.polygons.foreach_set("material_index", tinted.astype(np.int32))


def _color_image(thing: bpy.types.Object, source: bpy.types.Material | None, part: str) -> bpy.types.Image | None:
    """The part's colours as an image of its own: its texture (with hair, on the skin) or its colour attribute.

    None when the artist has taken both away.
    """
    name = f"{OBJECT_NAMES.get(part, part)} color"
    texture = painted_image(source)
    if texture is not None:
        if part != SKIN:
            return texture
        return textures.make_image(name, hair.compose(source, textures.read_image(texture)[..., :3]))
    mesh = thing.data
    attribute = mesh.attributes.get(COLOR_ATTRIBUTE)
    if attribute is None or attribute.domain != "POINT" or not mesh.uv_layers or not mesh.polygons:
        return None
    mesh.calc_loop_triangles()
    corners = np.array([triangle.loops[:] for triangle in mesh.loop_triangles])
    uv = np.empty(len(mesh.loops) * 2, np.float32)
    mesh.uv_layers[0].uv.foreach_get("vector", uv)
    vertex = np.empty(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("vertex_index", vertex)
    rgba = np.empty(len(mesh.vertices) * 4, np.float32)
    attribute.data.foreach_get("color", rgba)
    encoded = linear_to_srgb(rgba.reshape(-1, 4)[:, :3])
    picture, covered = textures.draw_in_uv(uv.reshape(-1, 2)[corners], encoded[vertex[corners]], COLOR_SIZE)
    if not covered.any():
        picture, covered = picture + encoded.mean(0), ~covered
    return textures.make_image(name, textures.spread(picture, covered, COLOR_SIZE))


def _link_linked_image(material: bpy.types.Material, old: bpy.types.NodeSocket, new: bpy.types.NodeSocket) -> None:
    """Takes over an image that is linked to a socket directly."""
    source = old.links[0].from_node if old.is_linked else None
    if source is not None and source.type == "TEX_IMAGE" and source.image is not None:
        texture = material.node_tree.nodes.new("ShaderNodeTexImage")
        texture.image = source.image
        material.node_tree.links.new(texture.outputs["Color"], new)


def _link_normal_map(material: bpy.types.Material, source: bpy.types.Material, shader: bpy.types.ShaderNode) -> None:
    """Takes over the normal map, where the skin has one."""
    old = next((node for node in source.node_tree.nodes if node.type == "NORMAL_MAP"), None)
    if old is None or not old.inputs["Color"].is_linked:
        return
    normal = material.node_tree.nodes.new("ShaderNodeNormalMap")
    normal.inputs["Strength"].default_value = 1.0
    _link_linked_image(material, old.inputs["Color"], normal.inputs["Color"])
    material.node_tree.links.new(normal.outputs["Normal"], shader.inputs["Normal"])


def _write_textures(things: list[bpy.types.Object], folder: Path) -> None:
    """Writes the images of the copies' materials as PNGs, which the other formats refer to."""
    folder.mkdir(exist_ok=True)
    for thing in things:
        for node in thing.data.materials[0].node_tree.nodes:
            if node.type != "TEX_IMAGE" or node.image is None:
                continue
            image = node.image.copy()
            name = "".join(c if c.isalnum() else "_" for c in node.image.name).strip("_")
            image.filepath_raw, image.file_format = str(folder / f"{name}.png"), "PNG"
            image.save()
            if image.packed_file is not None:
                image.unpack(method="REMOVE")  # so that the exporters refer to the file
            node.image = image
