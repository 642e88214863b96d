# SPDX-License-Identifier: GPL-3.0-or-later
"""Metric scale: the iris as a ruler, the mean interpupillary distance where it cannot be seen."""
import numpy as np
import torch

from backend.fit.parameters import FitParameters, camera_of
from backend.fit.person import Person
from backend.fit.views import View

IRIS_DIAMETER = 0.0117
"""Mean horizontal visible iris diameter of adults, metres (Caroline & Andre 2002: 11.7 to 11.8 mm)."""
MEAN_IPD = 0.063
"""Mean adult interpupillary distance, metres (Dodgson 2004)."""
PLAUSIBLE_IPD = (0.054, 0.073)
"""Between these the iris is believed; 95 % of adults lie within (Dodgson 2004)."""
MIN_IRIS_PIXELS = 9.0


def metric_scale(person: Person, params: FitParameters, views: list[View]) -> tuple[float, str]:
    """Factor from the model's units to metres, and what it rests on ("iris" or "interpupillary distance").

    The iris' size in the world is its size in pixels times depth over focal length; the median over eyes and photos.
    """
    with torch.no_grad():
        cage, _ = person.geometry(params)
        centres = torch.einsum("nv,bvc->bnc", person.iris_rows(), cage).cpu()
    ipd = float((centres[:, 0] - centres[:, 1]).norm(dim=-1).mean())
    sizes = []
    for i, view in enumerate(views):
        camera = camera_of(params, [v.frame for v in views], i).detach().to("cpu")
        focal = float(camera.focal)
        pixels = camera.project(centres[i:i + 1])[0]
        depth = -camera.view(centres[i:i + 1])[0, :, 2]
        for eye in range(2):
            rim = np.asarray(view.landmarks.iris)[eye, 1:]
            diameter = max(np.linalg.norm(rim[0] - rim[2]), np.linalg.norm(rim[1] - rim[3]))
            near = float((pixels[eye] - torch.tensor(view.landmarks.iris[eye][0])).norm()) < 0.5 * view.frame.unit
            if diameter >= MIN_IRIS_PIXELS and near:
                sizes.append(float(diameter) * float(depth[eye]) / focal)
    if sizes:
        scale = IRIS_DIAMETER / float(np.median(sizes))
        if PLAUSIBLE_IPD[0] < ipd * scale < PLAUSIBLE_IPD[1]:
            return scale, "iris"
    return MEAN_IPD / ipd, "interpupillary distance"
