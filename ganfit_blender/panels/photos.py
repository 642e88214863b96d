# SPDX-License-Identifier: GPL-3.0-or-later
"""The photos of a finished head: which count, focal lengths, landmarks, and the button that fits it again."""

from __future__ import annotations

import bpy

from .. import overlay, preferences, session, thumbnails
from ..importer import scene as importer
from ..ui_strings import MESSAGES, label
from .draw import draw_text


class GANFIT_UL_views(bpy.types.UIList):
    bl_idname = "GANFIT_UL_views"

    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flags=0) -> None:
        """Whether it counts, its picture, its name, how many pins it has."""
        row = layout.row(align=True)
        row.prop(item, "use", text="")
        name = row.row()
        name.active = item.use
        picture = thumbnails.icon(f"{data.get('ganfit_bundle', '')}/photo_{index:02d}.png")
        name.label(text=item.name, icon_value=picture)
        if len(item.pins):
            row.label(text=str(len(item.pins)), icon="PINNED")


class GANFIT_PT_photos(bpy.types.Panel):
    bl_idname = "GANFIT_PT_photos"
    bl_label = label("panel.photos")
    bl_category = label("panel")
    bl_parent_id = "GANFIT_PT_main"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a head."""
        return importer.active_head(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        """The photos, and what can be done with them."""
        draw_views(self.layout, context)


class GANFIT_PT_image_photos(bpy.types.Panel):
    bl_idname = "GANFIT_PT_image_photos"
    bl_label = label("panel.photos")
    bl_category = label("panel")
    bl_space_type = "IMAGE_EDITOR"
    bl_region_type = "UI"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """There is a head."""
        return importer.active_head(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        """The same beside the photo."""
        draw_views(self.layout, context)


CLASSES = (GANFIT_UL_views, GANFIT_PT_photos, GANFIT_PT_image_photos)


def draw_views(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The active head's photos, its landmarks, the button that fits it again."""
    head = importer.active_head(context)
    column = layout.column()
    column.enabled = session.current().status is None
    views = head.ganfit_views
    if len(views):
        column.template_list(GANFIT_UL_views.bl_idname, "", head, "ganfit_views", head, "ganfit_view", rows=2)
        column.prop(views[min(head.ganfit_view, len(views) - 1)], "focal_mm")
    column.operator("ganfit.pins_edit", icon="PINNED", depress=overlay.current() is not None)
    if overlay.current() is not None:
        draw_text(column, context, MESSAGES["pins_help"], "INFO")
    row = column.row()
    row.enabled = any(len(view.pins) for view in views)
    row.operator("ganfit.pins_clear", icon="X")
    row = column.row()
    row.scale_y = 1.3
    row.enabled = preferences.is_set_up()
    row.operator("ganfit.refit", icon="FILE_REFRESH")
