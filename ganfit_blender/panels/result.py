# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel of a finished head."""

from __future__ import annotations

import bpy

from .. import studio
from ..importer import scene as importer
from ..ui_strings import label


class GANFIT_PT_result(bpy.types.Panel):
    bl_idname = "GANFIT_PT_result"
    bl_label = label("panel.result")
    bl_category = label("panel")
    bl_parent_id = "GANFIT_PT_main"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"

    def draw(self, context: bpy.types.Context) -> None:
        """What can be done with a head that is there."""
        layout = self.layout
        layout.operator("ganfit.import_result", icon="IMPORT")
        matched = importer.is_matched(context.scene)
        row = layout.row()
        row.operator("ganfit.match_photo", icon="CAMERA_DATA", depress=matched)
        layout.operator("ganfit.studio", icon="LIGHT_AREA", depress=studio.is_on(context.scene))


CLASSES = (GANFIT_PT_result,)
