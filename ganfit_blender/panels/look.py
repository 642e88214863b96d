# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel on how the skin looks: the numbers of its material that artists change most, and painting."""

from __future__ import annotations

import bpy

from ..importer import hair, material
from ..importer import scene as importer
from ..ui_strings import label
from .draw import SubPanel


class GANFIT_PT_look(SubPanel, bpy.types.Panel):
    bl_idname = "GANFIT_PT_look"
    bl_label = label("panel.look")

    def draw(self, context: bpy.types.Context) -> None:
        """Sliders on the material's own sockets; without effect while the photo is matched, so greyed out then."""
        layout, head = self.layout, importer.active_head(context)
        column = layout.column(align=True)
        column.enabled = not importer.is_matched(context.scene)
        skin = head.active_material if head is not None else None
        for name, socket in skin_sockets(skin).items():
            column.prop(socket, "default_value", text=label(name))
        layout.operator("ganfit.paint_skin", icon="TPAINT_HLT")


CLASSES = (GANFIT_PT_look,)


def skin_sockets(skin: bpy.types.Material | None) -> dict[str, bpy.types.NodeSocket]:
    """The sockets that the panel shows, by the id of their label; those that the artist has deleted are left out."""
    nodes = skin.node_tree.nodes if skin is not None and skin.node_tree is not None else {}
    found: dict[str, bpy.types.NodeSocket] = {}
    if material.SCATTER_MM in nodes:
        found["scatter"] = nodes[material.SCATTER_MM].outputs[0]
    if material.PORE_DEPTH_MM in nodes:
        found["pores"] = nodes[material.PORE_DEPTH_MM].outputs[0]
    if material.SPECULAR_STRENGTH in nodes:
        found["specular"] = nodes[material.SPECULAR_STRENGTH].inputs[1]
    if hair.SHADE in nodes and hair.MIX in nodes:
        found["hair"] = nodes[hair.SHADE].inputs[1]
        color = hair.mix_socket(nodes[hair.MIX].inputs, "B")
        if not color.is_linked:
            found["hair_color"] = color
    return found
