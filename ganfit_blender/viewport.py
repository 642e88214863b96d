# SPDX-License-Identifier: GPL-3.0-or-later
"""The windows that the artist works in: which 3D view, what it looks through, and redrawing the add-on's places."""

import bpy
import gpu


def look_through_camera(context: bpy.types.Context, on: bool) -> None:
    """Turns the 3D view to the camera, with textures and the scene's own light; or back to a free view."""
    space = view_3d(context)
    if space is None:
        return
    space.region_3d.view_perspective = "CAMERA" if on else "PERSP"
    if on and not shows_material(context):
        show_material(context)


def show_material(context: bpy.types.Context, fast: bool = False) -> None:
    """Shows textures and the scene's own light in the 3D view.

    Textures alone where every frame counts (`fast`, for painting) and where shaders would take minutes.
    """
    space = view_3d(context)
    if space is None:
        return
    if not fast and (bpy.app.background or gpu.platform.device_type_get() != "SOFTWARE"):
        space.shading.type = "MATERIAL"
        space.shading.use_scene_lights = space.shading.use_scene_world = True
    else:
        space.shading.type, space.shading.color_type = "SOLID", "TEXTURE"


def shows_material(context: bpy.types.Context) -> bool:
    """Whether the 3D view shows materials already; also where there is none."""
    space = view_3d(context)
    return space is None or space.shading.type in {"MATERIAL", "RENDERED"}


def view_3d(context: bpy.types.Context) -> bpy.types.SpaceView3D | None:
    """The 3D view that the artist works in, else the largest one of the window, else None."""
    if isinstance(context.space_data, bpy.types.SpaceView3D):
        return context.space_data
    areas = [area for area in context.screen.areas if area.type == "VIEW_3D"] if context.screen else []
    return max(areas, key=lambda area: area.width * area.height).spaces.active if areas else None


def redraw(context: bpy.types.Context) -> None:
    """Redraws the places that show the add-on: sidebars of 3D views, and the preferences."""
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "PREFERENCES":
                area.tag_redraw()
            elif area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()
