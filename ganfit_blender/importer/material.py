# SPDX-License-Identifier: GPL-3.0-or-later
"""Principled materials: the skin from the albedo texture, the other parts from their colour attribute."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from .axes import srgb_to_linear
from .bundle import ALBEDO, SKIN, ResultBundle
from .mesh import COLOR_ATTRIBUTE, ROUGHNESS_ATTRIBUTE, UV_LAYERS

SPECULAR_INPUT = "Specular IOR Level"
SPECULAR_PROPERTY = "ganfit_specular"  # the material's own specular, put back when Match Photo is left


@dataclass(frozen=True)
class Surface:
    """The look of a part. Subsurface: how far light goes, in mm for red; the other channels relative to it."""

    roughness: float
    specular: float
    subsurface: float = 0.0
    scatter_mm: float = 0.0
    scatter_rgb: tuple[float, float, float] = (1.0, 1.0, 1.0)


# Mean free paths of skin after Jensen et al., "A Practical Model for Subsurface Light Transport" (2001), table 1:
# 3.67, 1.37 and 0.68 mm; Blender's radius times scale is that path in metres.
SURFACES = {
    SKIN: Surface(0.5, 0.35, subsurface=1.0, scatter_mm=3.67, scatter_rgb=(1.0, 0.37, 0.19)),
    "eye_left": Surface(0.06, 0.5),
    "eye_right": Surface(0.06, 0.5),
    "teeth": Surface(0.2, 0.5, subsurface=0.5, scatter_mm=1.0, scatter_rgb=(1.0, 0.8, 0.6)),
    "tongue": Surface(0.3, 0.5, subsurface=0.7, scatter_mm=2.5, scatter_rgb=(1.0, 0.35, 0.2)),
    "lashes": Surface(0.6, 0.2),
}
OTHER = Surface(0.5, 0.5)


def make_material(bundle: ResultBundle, part_name: str) -> bpy.types.Material:
    """The material of a part: Principled, its colour from the albedo (skin) or from the colour attribute."""
    surface = SURFACES.get(part_name, OTHER)
    material = bpy.data.materials.new(f"{bundle.name} {part_name.replace('_', ' ')}")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    output, shader = nodes.new("ShaderNodeOutputMaterial"), nodes.new("ShaderNodeBsdfPrincipled")
    output.location, shader.location = (320, 0), (0, 0)
    links.new(shader.outputs["BSDF"], output.inputs["Surface"])
    _set_surface(shader, surface)
    material[SPECULAR_PROPERTY] = surface.specular
    if part_name == SKIN and (bundle.folder / ALBEDO).is_file():
        _skin_nodes(material, shader, bundle)
    else:
        color = nodes.new("ShaderNodeVertexColor")
        color.layer_name = COLOR_ATTRIBUTE
        color.location = (-320, 0)
        links.new(color.outputs["Color"], shader.inputs["Base Color"])
        material.diffuse_color = (*_mean_color(bundle, part_name), 1.0)  # what the solid view shows
    return material


def _mean_color(bundle: ResultBundle, part_name: str) -> list[float]:
    """Linear mean colour of a part's vertices."""
    quads = bundle.head["quads"][bundle.head["part"] == bundle.part_names.index(part_name)]
    encoded = bundle.head["palette_weights"][np.unique(quads)] @ bundle.palette
    return srgb_to_linear(np.clip(encoded, 0, 1)).mean(0).tolist()


def _set_surface(shader: bpy.types.ShaderNode, surface: Surface) -> None:
    shader.inputs["Roughness"].default_value = surface.roughness
    shader.inputs[SPECULAR_INPUT].default_value = surface.specular
    shader.inputs["Subsurface Weight"].default_value = surface.subsurface
    if surface.subsurface:
        shader.inputs["Subsurface Radius"].default_value = surface.scatter_rgb
        shader.inputs["Subsurface Scale"].default_value = surface.scatter_mm / 1000


def _skin_nodes(material: bpy.types.Material, shader: bpy.types.ShaderNode, bundle: ResultBundle) -> None:
    """The albedo texture over our UV layer, and the roughness of the regions."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    texture, uv = nodes.new("ShaderNodeTexImage"), nodes.new("ShaderNodeUVMap")
    roughness = nodes.new("ShaderNodeAttribute")
    texture.image = _albedo(bundle)
    texture.extension = "EXTEND"
    uv.uv_map = next(iter(UV_LAYERS))
    roughness.attribute_name = ROUGHNESS_ATTRIBUTE
    texture.location, uv.location, roughness.location = (-320, 120), (-540, 120), (-320, -180)
    links.new(uv.outputs["UV"], texture.inputs["Vector"])
    links.new(texture.outputs["Color"], shader.inputs["Base Color"])
    links.new(roughness.outputs["Fac"], shader.inputs["Roughness"])
    nodes.active = texture  # what texture paint takes


def _albedo(bundle: ResultBundle) -> bpy.types.Image:
    """The skin's albedo, packed, so that the .blend does not depend on the result's folder."""
    image = bpy.data.images.load(str(bundle.folder / ALBEDO), check_existing=False)
    image.name = f"{bundle.name} albedo"
    image.colorspace_settings.name = "sRGB"
    image.pack()
    return image


def set_highlights(material: bpy.types.Material, on: bool) -> None:
    """Turns the specular layer of a material of ours off (the photo's highlights are in its albedo) or on again."""
    if SPECULAR_PROPERTY in material:
        for node in material.node_tree.nodes:
            if node.type == "BSDF_PRINCIPLED":
                node.inputs[SPECULAR_INPUT].default_value = material[SPECULAR_PROPERTY] if on else 0.0
