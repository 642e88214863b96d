# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel that reconstructs a folder, with the table of its people."""

from __future__ import annotations

import bpy

from .. import preferences, session
from ..ui_strings import MESSAGES, label
from .draw import draw_text

ICONS = {"waiting": "TIME", "running": "PLAY", "done": "CHECKMARK", "skipped": "CHECKMARK", "failed": "ERROR",
         "cancelled": "X"}


class GANFIT_UL_batch(bpy.types.UIList):
    bl_idname = "GANFIT_UL_batch"

    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flags=0) -> None:
        """Name and state; a failed person's reason stands below the list when the line is chosen."""
        row = layout.split(factor=0.6)
        row.label(text=item.name, icon=ICONS.get(item.state, "QUESTION"))
        column = row.row()
        column.alert = item.state == "failed"
        column.label(text=MESSAGES.get(f"state.{item.state}", item.state))


class GANFIT_PT_batch(bpy.types.Panel):
    bl_idname = "GANFIT_PT_batch"
    bl_label = label("panel.batch")
    bl_category = label("panel")
    bl_parent_id = "GANFIT_PT_main"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        """Folder, arrangement, button; the table of the last batch."""
        layout, settings = self.layout, context.scene.ganfit
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.enabled = session.current().status is None
        column.prop(settings, "folder")
        column.prop(settings, "arrange")
        row = layout.row()
        row.scale_y = 1.3
        row.enabled = preferences.is_set_up()
        row.operator("ganfit.batch", icon="COMMUNITY")
        batch = context.window_manager.ganfit_batch
        if not len(batch.rows):
            return
        rows = min(8, max(3, len(batch.rows)))
        layout.template_list(GANFIT_UL_batch.bl_idname, "", batch, "rows", batch, "active", rows=rows)
        if 0 <= batch.active < len(batch.rows) and batch.rows[batch.active].text:
            draw_text(layout.box(), context, batch.rows[batch.active].text)


CLASSES = (GANFIT_UL_batch, GANFIT_PT_batch)
