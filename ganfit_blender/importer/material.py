# SPDX-License-Identifier: GPL-3.0-or-later
"""Principled materials: skin with pores and scatter in millimetres, wet eyes, teeth, tongue, lashes."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import bpy
import numpy as np

from . import cornea, hair, textures
from .axes import srgb_to_linear
from .bundle import ALBEDO, NORMAL, ROUGHNESS, SKIN, ResultBundle, View
from .hair import PHOTO_OFF
from .light import harmonics
from .mesh import COLOR_ATTRIBUTE, EYES, ROUGHNESS_ATTRIBUTE, SPECULAR_ATTRIBUTE, UV_LAYERS, Part

SPECULAR_INPUT = "Specular IOR Level"
KEPT = "ganfit_kept"  # on nodes: those inputs' values while Match Photo is on
OBJECT_SCALE = "Object Scale"
SCATTER_MM = "Scatter (mm)"
PORE_DEPTH_MM = "Pore Depth (mm)"
SPECULAR_STRENGTH = "Specular Strength"
TEETH_BRIGHTNESS = "Teeth Brightness"
TEETH_OCCLUSION = "Teeth Occlusion"
LASH_TIPS = "Lash Tips"
UV_LENGTH_MM = 330.0  # so many millimetres of a face lie along one unit of our UV layout


@dataclass(frozen=True)
class Surface:
    """The look of a part. Subsurface: how far light goes, in mm for red; the other channels relative to it."""

    roughness: float
    specular: float
    subsurface: float = 0.0
    scatter_mm: float = 0.0
    scatter_rgb: tuple[float, float, float] = (1.0, 1.0, 1.0)
    coat: float = 0.0


# Mean free paths of skin after Jensen et al., "A Practical Model for Subsurface Light Transport" (2001), table 1:
# 3.67, 1.37 and 0.68 mm; Blender's radius times scale is that path in metres.
SURFACES = {
    SKIN: Surface(0.5, 1.0, subsurface=1.0, scatter_mm=3.67, scatter_rgb=(1.0, 0.37, 0.19)),
    "eye_left": Surface(0.35, 0.0, subsurface=0.4, scatter_mm=1.0, scatter_rgb=(1.0, 0.6, 0.5), coat=1.0),
    "eye_right": Surface(0.35, 0.0, subsurface=0.4, scatter_mm=1.0, scatter_rgb=(1.0, 0.6, 0.5), coat=1.0),
    "teeth": Surface(0.2, 0.5, subsurface=0.8, scatter_mm=2.0, scatter_rgb=(1.0, 0.8, 0.6), coat=0.6),
    "tongue": Surface(0.35, 0.5, subsurface=0.7, scatter_mm=2.5, scatter_rgb=(1.0, 0.35, 0.2), coat=0.3),
    "lashes": Surface(0.6, 0.2),
}
OTHER = Surface(0.5, 0.5)
COAT_ROUGHNESS = 0.03
TEETH_LIGHT = (1.38, 1.23, 1.16)  # the fit's teeth stand for what is seen of them in the mouth's shadow
INTERREFLECTION = 0.25  # in Match Photo a share a of the sky that is seen lights teeth like a**this, as in the fit
DARKEST, OCCLUSION_M = 0.05, 0.1  # smallest share that counts; what is farther away hides no sky
LASH_FADE, LOWER_LASH_FADE = 0.7, 0.6  # transparency of the tips; of the whole of a lower lash besides
PORES_MM, WRINKLES_MM = 0.9, 2.6
PORE_DEPTH = 0.1


def make_material(bundle: ResultBundle, part: Part, eye: bpy.types.Image | None,
                  shade: tuple[bpy.types.Image, list[float]] | None) -> bpy.types.Material:
    """The material of a part: Principled, its colour from a packed image (skin, eyes) or from the colour attribute.

    Args:
        eye: what `eye_image` has made.
        shade: what `hair.cropped` has made.
    """
    surface = SURFACES.get(part.name, OTHER)
    material = bpy.data.materials.new(f"{bundle.name} {part.name.replace('_', ' ')}")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    output, shader = nodes.new("ShaderNodeOutputMaterial"), nodes.new("ShaderNodeBsdfPrincipled")
    output.location, shader.location = (320, 0), (0, 0)
    links.new(shader.outputs["BSDF"], output.inputs["Surface"])
    _set_surface(material, shader, surface)
    rings = _eye_rings(bundle, part) if part.name in EYES and eye is not None else None
    if part.name == SKIN and (bundle.folder / ALBEDO).is_file():
        _skin_nodes(material, shader, bundle, shade)
    elif rings is not None:
        _eye_nodes(material, shader, bundle, part, rings, eye)
    else:
        color = nodes.new("ShaderNodeVertexColor")
        color.layer_name = COLOR_ATTRIBUTE
        color.location = (-320, 0)
        links.new(color.outputs["Color"], shader.inputs["Base Color"])
        if part.name == "teeth":
            own = _brighten(material, color.outputs["Color"])
            _lighten_in_photo(material, own, shader, _sun_share(bundle.views[0]))
        elif part.name == "lashes":
            _fade_tips(material, shader)
    if part.name != SKIN:
        material.diffuse_color = (*_mean_color(bundle, part), 1.0)  # what the solid view shows
    return material


def eye_image(bundle: ResultBundle, parts: list[Part]) -> Generator[None, None, bpy.types.Image | None]:
    """The person's eye colours as an image for both eyes, whose UV maps are alike, in steps; None without eyes."""
    rings = next((found for part in parts if part.name in EYES and (found := _eye_rings(bundle, part))), None)
    if rings is None:
        return None
    picture = textures.eye_picture(rings, dict(zip(map(str, bundle.head["palette_names"]), bundle.palette)))
    yield
    image = textures.make_image(f"{bundle.name} eye", picture, pack=False)
    yield
    image.pack()
    return image


def _brighten(material: bpy.types.Material, color: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
    """Teeth and gums as they are under light of their own; as the photo shows them in Match Photo."""
    mix = material.node_tree.nodes.new("ShaderNodeMix")
    mix.data_type, mix.blend_type, mix.label = "RGBA", "MULTIPLY", TEETH_BRIGHTNESS
    mix.clamp_result = True
    mix.location = (-160, 160)
    share = hair.mix_socket(mix.inputs, "Factor", "Float")
    share.default_value = 1.0
    hair.mix_socket(mix.inputs, "B").default_value = (*TEETH_LIGHT, 1.0)
    mix[PHOTO_OFF] = [mix.inputs[:].index(share)]
    material.node_tree.links.new(color, hair.mix_socket(mix.inputs, "A"))
    return hair.mix_socket(mix.outputs, "Result")


def _sun_share(view: View) -> float:
    """Share of the sun, which has no shadow, in the light on a surface that faces the camera."""
    towards = view.cam_to_world[:3, 2]
    lobe = np.repeat([1.0, 2 / 3, 1 / 4], [1, 3, 5]) * np.pi  # Ramamoorthi and Hanrahan 2001
    sky = float(np.maximum((harmonics(towards) * lobe) @ view.sh, 0).mean())
    sun = float(np.mean(np.maximum(view.sun_rgb, 0)) * max(float(towards @ view.sun_direction), 0.0))
    return sun / max(sky + sun, 1e-6)


def _lighten_in_photo(material: bpy.types.Material, color: bpy.types.NodeSocket, shader: bpy.types.ShaderNode,
                      sun: float) -> None:
    """Gives teeth, in Match Photo, the light that they throw at each other and that shines through them.

    There light is not bounced, and lips hide most of the sky from teeth. With the seen share a of the sky and the sun's
    share s of all light, colours are multiplied by (s + (1 - s) a^INTERREFLECTION) / (s + (1 - s) a): what the fit's
    renderer makes of the same palette.
    """
    nodes, links = material.node_tree.nodes, material.node_tree.links
    seen = nodes.new("ShaderNodeAmbientOcclusion")
    seen.name = seen.label = TEETH_OCCLUSION
    seen.samples, seen.location = 16, (-1280, 400)
    links.new(_millimetres(material, "Occlusion (mm)", 1000 * OCCLUSION_M, (-1460, 620)), seen.inputs["Distance"])

    def math(operation: str, a: object, b: object, place: tuple[int, int]) -> bpy.types.NodeSocket:
        node = nodes.new("ShaderNodeMath")
        node.operation, node.location = operation, place
        for socket, value in zip(node.inputs, (a, b)):
            if isinstance(value, bpy.types.NodeSocket):
                links.new(value, socket)
            else:
                socket.default_value = value
        return node.outputs[0]

    share = math("MAXIMUM", seen.outputs["AO"], DARKEST, (-1100, 400))
    whole = math("ADD", math("MULTIPLY", math("POWER", share, INTERREFLECTION, (-920, 500)), 1 - sun, (-740, 500)), sun,
                 (-560, 500))
    gain = math("DIVIDE", whole, math("ADD", math("MULTIPLY", share, 1 - sun, (-740, 340)), sun, (-560, 340)),
                (-400, 420))
    off = math("SUBTRACT", gain, 1.0, (-240, 420))
    off = math("MULTIPLY", off, 1.0, (-80, 420))
    off.node[PHOTO_OFF] = [1]
    factor = math("SUBTRACT", gain, off, (80, 420))  # 1 but in Match Photo
    lit = nodes.new("ShaderNodeVectorMath")
    lit.operation, lit.location = "SCALE", (-20, 160)
    links.new(color, lit.inputs[0])
    links.new(factor, lit.inputs["Scale"])
    links.new(lit.outputs["Vector"], shader.inputs["Base Color"])


def _fade_tips(material: bpy.types.Material, shader: bpy.types.ShaderNode) -> None:
    """Lashes that thin out: their UV map has the upper lids' in its lower half, roots below and tips above in each."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    uv, parts, lower = nodes.new("ShaderNodeUVMap"), nodes.new("ShaderNodeSeparateXYZ"), nodes.new("ShaderNodeMath")
    twice, out, tip = nodes.new("ShaderNodeMath"), nodes.new("ShaderNodeMath"), nodes.new("ShaderNodeMapRange")
    thin, total, share = (nodes.new("ShaderNodeMath") for _ in range(3))
    left = nodes.new("ShaderNodeMath")
    uv.uv_map = next(iter(UV_LAYERS))
    lower.operation, lower.inputs[1].default_value = "GREATER_THAN", 0.5
    twice.operation, twice.inputs[1].default_value, out.operation = "MULTIPLY", 2.0, "FRACT"
    tip.inputs["From Min"].default_value, tip.inputs["From Max"].default_value = 0.2, 0.95
    tip.inputs["To Max"].default_value = LASH_FADE
    thin.operation, thin.inputs[1].default_value = "MULTIPLY", LOWER_LASH_FADE
    total.operation, share.operation, share.label = "MAXIMUM", "MULTIPLY", LASH_TIPS
    share.inputs[1].default_value = 1.0
    share[PHOTO_OFF] = [1]
    left.operation, left.inputs[0].default_value = "SUBTRACT", 1.0
    for number, node in enumerate((uv, parts, lower, twice, out, tip, thin, total, share, left)):
        node.location = (-1500 + 150 * number, -260)
    for source, target in (
        (uv.outputs["UV"], parts.inputs[0]), (parts.outputs["Y"], lower.inputs[0]),
        (parts.outputs["Y"], twice.inputs[0]), (twice.outputs[0], out.inputs[0]), (out.outputs[0], tip.inputs["Value"]),
        (lower.outputs[0], thin.inputs[0]), (thin.outputs[0], total.inputs[0]), (tip.outputs[0], total.inputs[1]),
        (total.outputs[0], share.inputs[0]), (share.outputs[0], left.inputs[1]),
        (left.outputs[0], shader.inputs["Alpha"]),
    ):
        links.new(source, target)


def scale_with(material: bpy.types.Material, thing: bpy.types.Object) -> None:
    """Makes the material's lengths follow the object's scale: millimetres stay millimetres of the head."""
    driver = material.node_tree.nodes[OBJECT_SCALE].outputs[0].driver_add("default_value").driver
    driver.type = "AVERAGE"
    variable = driver.variables.new()
    variable.name, variable.type = "scale", "TRANSFORMS"
    variable.targets[0].id = thing
    variable.targets[0].transform_type = "SCALE_AVG"
    variable.targets[0].transform_space = "WORLD_SPACE"


def set_photo_look(material: bpy.types.Material, on: bool) -> None:
    """Takes highlights, pores, painted hair and light under the surface off, or puts them back.

    The photo's hair and highlights are in its albedo, and the fit's surfaces are dull: with light under it Cycles shows
    skin 16 % darker than the fit from the front and 33 % lighter at the outline.
    """
    for node in material.node_tree.nodes if material.node_tree else ():
        if PHOTO_OFF not in node or on == (KEPT in node):
            continue
        inputs = [node.inputs[number] for number in node[PHOTO_OFF]]
        if on:
            node[KEPT] = [entry.default_value for entry in inputs]
        for entry, kept in zip(inputs, node[KEPT]):
            entry.default_value = 0.0 if on else kept
        if not on:
            del node[KEPT]


def painted_image(material: bpy.types.Material | None) -> bpy.types.Image | None:
    """The image that the artist paints on: the one that leads to the base colour."""
    if material is None or material.node_tree is None:
        return None
    shader = next((node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED"), None)
    waiting = [shader.inputs["Base Color"]] if shader is not None else []
    while waiting:
        socket = waiting.pop(0)
        for link in socket.links:
            node = link.from_node
            if node.type == "TEX_IMAGE" and node.image is not None and node.name != hair.MASK:
                return node.image
            waiting += [entry for entry in node.inputs if entry.is_linked and entry.name != "Factor"]
    return None


def _mean_color(bundle: ResultBundle, part: Part) -> list[float]:
    """Linear mean colour of a part's vertices."""
    encoded = bundle.head["palette_weights"][part.vertices] @ bundle.palette
    return srgb_to_linear(np.clip(encoded, 0, 1)).mean(0).tolist()


def _set_surface(material: bpy.types.Material, shader: bpy.types.ShaderNode, surface: Surface) -> None:
    """The shader's numbers, and the nodes that turn millimetres into the scene's units."""
    shader.inputs["Roughness"].default_value = surface.roughness
    shader.inputs[SPECULAR_INPUT].default_value = surface.specular
    shader.inputs["Subsurface Weight"].default_value = surface.subsurface
    shader.inputs["Coat Weight"].default_value = surface.coat
    shader.inputs["Coat Roughness"].default_value = COAT_ROUGHNESS
    shader.inputs["Coat IOR"].default_value = cornea.IOR
    shader[PHOTO_OFF] = [shader.inputs.find(name) for name in (SPECULAR_INPUT, "Subsurface Weight", "Coat Weight")]
    scale = material.node_tree.nodes.new("ShaderNodeValue")
    scale.name = scale.label = OBJECT_SCALE
    scale.outputs[0].default_value = 1.0
    scale.location = (-900, -420)
    if surface.subsurface:
        shader.inputs["Subsurface Radius"].default_value = surface.scatter_rgb
        length = _millimetres(material, SCATTER_MM, surface.scatter_mm, (-480, -420))
        material.node_tree.links.new(length, shader.inputs["Subsurface Scale"])


def _millimetres(material: bpy.types.Material, name: str, value: float, place: tuple[int, int]) -> bpy.types.NodeSocket:
    """A length that the artist sets in millimetres; the socket gives it in the scene's units."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    length, metres, scaled = nodes.new("ShaderNodeValue"), nodes.new("ShaderNodeMath"), nodes.new("ShaderNodeMath")
    length.name = length.label = name
    length.outputs[0].default_value = value
    metres.operation = scaled.operation = "MULTIPLY"
    metres.inputs[1].default_value = 0.001
    for node, step in ((length, -420), (metres, 0), (scaled, 180)):
        node.location = (place[0] + step, place[1])
    links.new(length.outputs[0], metres.inputs[0])
    links.new(metres.outputs[0], scaled.inputs[0])
    links.new(nodes[OBJECT_SCALE].outputs[0], scaled.inputs[1])
    return scaled.outputs[0]


def _link_image(material: bpy.types.Material, socket: bpy.types.NodeSocket | None, image: bpy.types.Image,
                place: tuple[int, int]) -> bpy.types.ShaderNode:
    """An image over our UV layer, linked to a socket; becomes the active node, which texture paint takes."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    texture, uv = nodes.new("ShaderNodeTexImage"), nodes.new("ShaderNodeUVMap")
    texture.image, texture.extension = image, "EXTEND"
    uv.uv_map = next(iter(UV_LAYERS))
    texture.location, uv.location = place, (place[0] - 220, place[1])
    links.new(uv.outputs["UV"], texture.inputs["Vector"])
    if socket is not None:
        links.new(texture.outputs["Color"], socket)
    nodes.active = texture
    return texture


def _skin_nodes(material: bpy.types.Material, shader: bpy.types.ShaderNode, bundle: ResultBundle,
                shade: tuple[bpy.types.Image, list[float]] | None) -> None:
    """Albedo with the hair's shade, roughness and specular of the regions, the fine relief."""
    image = _load_image(bundle, ALBEDO, "sRGB")
    _skin_roughness(material, shader, bundle)
    _skin_specular(material, shader)
    _skin_relief(material, shader, bundle)
    tone = hair.add_nodes(material, bundle, shade)
    texture = _link_image(material, None, image, (-900, 320))  # last: the active node
    color = texture.outputs["Color"]
    if tone is not None:
        material.node_tree.links.new(color, hair.mix_socket(tone.inputs, "A"))
        color = hair.mix_socket(tone.outputs, "Result")
    material.node_tree.links.new(color, shader.inputs["Base Color"])


def _skin_roughness(material: bpy.types.Material, shader: bpy.types.ShaderNode, bundle: ResultBundle) -> None:
    if (bundle.folder / ROUGHNESS).is_file():
        _link_image(material, shader.inputs["Roughness"], _load_image(bundle, ROUGHNESS, "Non-Color"), (-480, -60))
        return
    attribute = _attribute(material, ROUGHNESS_ATTRIBUTE, (-480, -60))
    material.node_tree.links.new(attribute, shader.inputs["Roughness"])


def _skin_specular(material: bpy.types.Material, shader: bpy.types.ShaderNode) -> None:
    """The regions' specular, times a strength that the artist can change."""
    strength = material.node_tree.nodes.new("ShaderNodeMath")
    strength.operation = "MULTIPLY"
    strength.name = strength.label = SPECULAR_STRENGTH
    strength.inputs[1].default_value = 1.0
    strength.location = (-240, -220)
    strength[PHOTO_OFF] = [1]
    material.node_tree.links.new(_attribute(material, SPECULAR_ATTRIBUTE, (-480, -220)), strength.inputs[0])
    material.node_tree.links.new(strength.outputs[0], shader.inputs[SPECULAR_INPUT])


def _skin_relief(material: bpy.types.Material, shader: bpy.types.ShaderNode, bundle: ResultBundle) -> None:
    """The bundle's normal map where there is one, and pores: cells and fine creases over the UV layout."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    uv, height = nodes.new("ShaderNodeUVMap"), nodes.new("ShaderNodeMath")
    cells, creases = nodes.new("ShaderNodeTexVoronoi"), nodes.new("ShaderNodeTexNoise")
    bump = nodes.new("ShaderNodeBump")
    uv.uv_map = next(iter(UV_LAYERS))
    cells.voronoi_dimensions = creases.noise_dimensions = "2D"
    cells.inputs["Scale"].default_value = UV_LENGTH_MM / PORES_MM
    creases.inputs["Scale"].default_value = UV_LENGTH_MM / WRINKLES_MM
    creases.inputs["Detail"].default_value = 3.0
    height.operation, height.use_clamp = "ADD", False
    bump.label = "Pores"
    bump.inputs["Strength"].default_value = 0.6
    bump[PHOTO_OFF] = [bump.inputs.find("Strength")]
    for node, place in ((uv, (-1120, -760)), (cells, (-900, -640)), (creases, (-900, -960)), (height, (-680, -760)),
                        (bump, (-240, -640))):
        node.location = place
    for texture in (cells, creases):
        links.new(uv.outputs["UV"], texture.inputs["Vector"])
    links.new(cells.outputs["Distance"], height.inputs[0])
    links.new(creases.outputs[0], height.inputs[1])
    links.new(height.outputs[0], bump.inputs["Height"])
    links.new(_millimetres(material, PORE_DEPTH_MM, PORE_DEPTH, (-480, -640)), bump.inputs["Distance"])
    if (bundle.folder / NORMAL).is_file():
        normal = nodes.new("ShaderNodeNormalMap")
        normal.uv_map = next(iter(UV_LAYERS))
        normal.location = (-480, -980)
        normal[PHOTO_OFF] = [normal.inputs.find("Strength")]
        _link_image(material, normal.inputs["Color"], _load_image(bundle, NORMAL, "Non-Color"), (-780, -1240))
        links.new(normal.outputs["Normal"], bump.inputs["Normal"])
    links.new(bump.outputs["Normal"], shader.inputs["Normal"])


def _attribute(material: bpy.types.Material, name: str, place: tuple[int, int]) -> bpy.types.NodeSocket:
    node = material.node_tree.nodes.new("ShaderNodeAttribute")
    node.attribute_name = name
    node.location = place
    return node.outputs["Fac"]


def _eye_rings(bundle: ResultBundle, part: Part) -> textures.EyeRings | None:
    """Where the eye's colours change; None if it has not the colours of an eye."""
    names = [str(name) for name in bundle.head["palette_names"]]
    corners = bundle.head["quads"][part.faces].reshape(-1)
    uv = bundle.head["corner_uvs"][part.faces].reshape(-1, 2)
    return textures.eye_rings(uv, bundle.head["palette_weights"][corners], names)


def _eye_nodes(material: bpy.types.Material, shader: bpy.types.ShaderNode, bundle: ResultBundle, part: Part,
               rings: textures.EyeRings, eye: bpy.types.Image) -> None:
    """The eye's picture as it is seen through the cornea; the iris does not scatter light as the white does."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    layer = cornea.add_nodes(material, bundle, part, rings.limbus)
    texture = nodes.new("ShaderNodeTexImage")
    texture.image, texture.extension, texture.location = eye, "EXTEND", (-420, 220)
    texture.interpolation = "Closest"  # the layer scatters its places over a pixel, which is linear interpolation
    links.new(layer.outputs["UV"], texture.inputs["Vector"])
    links.new(texture.outputs["Color"], shader.inputs["Base Color"])
    links.new(layer.outputs["Iris Normal"], shader.inputs["Normal"])
    links.new(layer.outputs["Cornea Normal"], shader.inputs["Coat Normal"])
    scatter = nodes.new("ShaderNodeMath")
    scatter.operation, scatter.location = "MULTIPLY", (-120, -420)
    links.new(shader.inputs["Subsurface Scale"].links[0].from_socket, scatter.inputs[0])
    links.new(layer.outputs["Scatter"], scatter.inputs[1])
    links.new(scatter.outputs[0], shader.inputs["Subsurface Scale"])
    nodes.active = texture


def _load_image(bundle: ResultBundle, file: str, colorspace: str) -> bpy.types.Image:
    """One of the bundle's images, packed, so that the .blend does not depend on the result's folder."""
    image = bpy.data.images.load(str(bundle.folder / file), check_existing=False)
    image.name = f"{bundle.name} {file.removesuffix('.png')}"
    image.colorspace_settings.name = colorspace
    image.pack()
    return image
