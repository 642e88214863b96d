# SPDX-License-Identifier: GPL-3.0-or-later
"""head.glb: accepted by the Khronos validator, and read by another reader (trimesh) as the mesh that went in."""

from __future__ import annotations

import io
import json
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from backend import assets
from backend.glb import Surface, bake_colours, fill_square, glb_bytes, tangents, vertex_normals

ROOT = Path(__file__).resolve().parent.parent
NODES = ["Head", "EyeLeft", "EyeRight", "Teeth", "Tongue", "Lashes", "Inside"]
SIZES = {5123: ("<u2", 2), 5125: ("<u4", 4), 5126: ("<f4", 4)}
WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}


def validate(validator: Path, data: bytes, folder: Path) -> dict:
    file = folder / "head.glb"
    file.write_bytes(data)
    script = ROOT / "tests" / "validate_gltf.js"
    done = subprocess.run(["node", script, validator, file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def patch(columns: int, rows: int, centre: tuple[float, float, float], side: float) -> tuple[np.ndarray, ...]:
    """A bulging sheet facing +Z: vertices (V, 3), uv (V, 2) in [0, 1], quads (Q, 4) counter-clockwise."""
    u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    uv = np.stack([u.ravel(), v.ravel()], 1)
    bulge = 0.3 * side * (1 - ((uv - 0.5) ** 2).sum(1))
    verts = np.column_stack([(uv - 0.5) * side, bulge]) + centre
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    quads = np.stack([corner, corner + 1, corner + columns + 1, corner + columns], 1)
    return verts, uv, quads


def small_head() -> SimpleNamespace:
    """A head model of six sheets with the fields and methods that the writer uses; level 1 is its cage."""
    rng = np.random.default_rng(0)
    places = [(12, 10, (0, 0, 0), 0.2), (5, 5, (0.03, 0, 0.1), 0.02), (5, 5, (-0.03, 0, 0.1), 0.02)]
    places += [(6, 3, (0, -0.06, 0.08), 0.03), (3, 4, (0, -0.06, 0.07), 0.02), (4, 2, (0, 0.01, 0.11), 0.04)]
    verts, uvs, triangles, parts, count = [], [], [], [], 0
    for part, place in enumerate(places):
        points, uv, quads = patch(*place)
        verts.append(points)
        uvs.append(uv)
        triangles.append(np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]) + count)
        parts.append(np.full(len(triangles[-1]), part))
        count += len(points)
    ends = np.cumsum([len(v) for v in verts])
    expression = np.zeros((52, count, 3), np.float32)
    for i in range(50):  # the last two move nothing
        expression[i, rng.integers(0, ends[0], 15)] = rng.normal(0, 0.003, (15, 3))
    expression[3, ends[3] : ends[4]] = 0.004  # the tongue
    return SimpleNamespace(
        PARTS=("skin", "eye_left", "eye_right", "teeth", "tongue", "lashes"),
        verts0=torch.tensor(np.concatenate(verts), dtype=torch.float32),
        expression=torch.tensor(expression),
        expression_names=[f"expression{i:02d}" for i in range(52)],
        tri1=torch.tensor(np.concatenate(triangles), dtype=torch.int32),
        tri1_part=torch.tensor(np.concatenate(parts)),
        uv1=torch.tensor(np.concatenate(uvs), dtype=torch.float32),
        palette_weights1=torch.tensor(rng.dirichlet([1, 1, 1], count), dtype=torch.float32),
        palette_names=["sclera", "iris", "teeth"],
        layout_id="ab" * 32,
        regions={name: torch.tensor(np.arange(count) < last, dtype=torch.float32)
                 for name, last in (("mouth_bag", 14), ("socket", 2), ("nostril", 0))},
        subdivide=lambda cages: cages,
    )


def triangles_of(head: SimpleNamespace, node: str) -> np.ndarray:
    """(n, 3) level-1 triangles of a node; the skin is Head (outside) and Inside (mouth, sockets, nostrils)."""
    part = 0 if node == "Inside" else NODES.index(node)
    chosen = head.tri1_part.numpy() == part
    if part == 0:
        hidden = torch.stack([head.regions[name] for name in ("mouth_bag", "socket", "nostril")]).amax(0)
        hidden = head.subdivide(hidden[None, :, None].to(head.verts0))[0, :, 0].numpy() > 0.5
        chosen &= hidden[head.tri1.numpy()].any(1) == (node == "Inside")
    return head.tri1.numpy()[chosen]


PALETTE = {"sclera": [0.9, 0.8, 0.7], "iris": [0.2, 0.4, 0.6], "teeth": [1.0, 0.5, 0.0]}


def albedo() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def small_glb(expression: list[float] | None = None) -> bytes:
    head = small_head()
    return glb_bytes(head, head.verts0.numpy(), 1.0, expression or [0.0] * 52, albedo(), PALETTE)


def parse(data: bytes) -> tuple[dict, bytes]:
    """JSON and binary chunk of a GLB (glTF 2.0 specification, 4.4)."""
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def values(document: dict, binary: bytes, index: int) -> np.ndarray:
    """An accessor with its sparse part (specification, 3.6.2), written again for the test."""
    accessor = document["accessors"][index]
    width = WIDTH[accessor["type"]]

    def read(part: dict, kind: int, count: int, width: int) -> np.ndarray:
        start = document["bufferViews"][part["bufferView"]]["byteOffset"] + part.get("byteOffset", 0)
        return np.frombuffer(binary, SIZES[kind][0], count * width, start).reshape(count, width)

    if "bufferView" in accessor:
        out = read(accessor, accessor["componentType"], accessor["count"], width).copy()
    else:
        out = np.zeros((accessor["count"], width), SIZES[accessor["componentType"]][0])
    if "sparse" in accessor:
        sparse = accessor["sparse"]
        where = read(sparse["indices"], sparse["indices"]["componentType"], sparse["count"], 1)[:, 0]
        out[where] = read(sparse["values"], accessor["componentType"], sparse["count"], width)
    return out


def mesh_of(document: dict, node: str) -> dict:
    return document["meshes"][next(n["mesh"] for n in document["nodes"] if n["name"] == node)]


def test_small_head_passes_the_khronos_validator(gltf_validator: Path, tmp_path: Path) -> None:
    report = validate(gltf_validator, small_glb([0.5] + [0.0] * 51), tmp_path)
    issues = report["issues"]
    assert (issues["numErrors"], issues["numWarnings"], issues["numInfos"]) == (0, 0, 0), issues["messages"]


def test_validator_finds_a_broken_file(gltf_validator: Path, tmp_path: Path) -> None:
    """So that the test above means something."""
    data = bytearray(small_glb())
    place = data.index(b'"count":')
    data[place + 8 : place + 9] = b"9"
    assert validate(gltf_validator, bytes(data), tmp_path)["issues"]["numErrors"] > 0


def test_trimesh_reads_the_same_geometry() -> None:
    head = small_head()
    scene = trimesh.load(io.BytesIO(small_glb()), file_type="glb", process=False)
    for node in NODES:
        mesh = scene.geometry[scene.graph[node][1]]
        triangles = triangles_of(head, node)
        corners = head.verts0.numpy()[triangles]
        assert np.allclose(np.asarray(mesh.triangles), corners, atol=1e-7), node
        uv = head.uv1.numpy()
        if node not in ("Head", "Inside"):  # textures of their own, filled by the part's map
            used = np.unique(triangles)
            uv[used] = fill_square(uv[used])
        uv = uv[triangles]
        assert np.allclose(np.asarray(mesh.visual.uv)[mesh.faces], uv, atol=1e-6), node


def test_expressions_are_sparse_targets_with_the_photos_weights() -> None:
    head, weights = small_head(), np.linspace(0, 1, 52).tolist()
    document, binary = parse(small_glb(weights))
    moved = {node: "targets" in mesh_of(document, node)["primitives"][0] for node in NODES}
    assert [node for node in NODES if moved[node]] == ["Head", "Tongue", "Inside"]
    for node in ("Head", "Tongue"):
        mesh = mesh_of(document, node)
        assert mesh["weights"] == pytest.approx(weights)
        assert mesh["extras"]["targetNames"] == head.expression_names
        targets = mesh["primitives"][0]["targets"]
        assert len(targets) == 52 and all(list(target) == ["POSITION"] for target in targets)
        accessors = [document["accessors"][target["POSITION"]] for target in targets]
        assert not any("bufferView" in accessor for accessor in accessors)
        used = np.unique(triangles_of(head, node))
        posed = values(document, binary, mesh["primitives"][0]["attributes"]["POSITION"])
        for weight, target in zip(weights, targets, strict=True):
            posed = posed + weight * values(document, binary, target["POSITION"])
        expected = head.verts0.numpy() + np.tensordot(weights, head.expression.numpy(), 1)
        assert np.allclose(posed, expected[used], atol=1e-5), node


def test_scale_reaches_the_expressions() -> None:
    head = small_head()
    document, binary = parse(glb_bytes(head, head.verts0.numpy() * 2, 2.0, [0.0] * 52, albedo(), PALETTE))
    target = mesh_of(document, "Tongue")["primitives"][0]["targets"][3]["POSITION"]
    assert values(document, binary, target).max() == pytest.approx(0.008)


def test_skin_carries_the_albedo_file_itself() -> None:
    document, binary = parse(small_glb())
    material = document["materials"][mesh_of(document, "Head")["primitives"][0]["material"]]
    texture = document["textures"][material["pbrMetallicRoughness"]["baseColorTexture"]["index"]]
    view = document["bufferViews"][document["images"][texture["source"]]["bufferView"]]
    assert binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]] == albedo()


def test_baked_colours_are_those_of_the_vertices() -> None:
    """Bilinear lookup at a vertex's uv gives its colour, where colours change slowly between texels."""
    points, uv, quads = patch(6, 6, (0, 0, 0), 1.0)
    colours = np.column_stack([uv, 1 - uv[:, 0]]) * 0.8 + 0.1
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    image = np.asarray(Image.open(io.BytesIO(bake_colours(uv * 0.5 + 0.25, faces, colours, 128)))) / 255.0
    inside = (uv * 0.5 + 0.25) * 128
    rows = 127 - np.clip(inside[:, 1].astype(int), 0, 127)
    error = np.abs(image[rows, inside[:, 0].astype(int)] - colours)
    assert error.max() < 0.02
    assert np.allclose(image[0, 0], image[32, 32], atol=0.05), "what lies outside takes the nearest colour"


def test_normals_of_a_sphere() -> None:
    sphere = trimesh.creation.icosphere(4)
    assert np.abs(vertex_normals(np.asarray(sphere.vertices, np.float32), sphere.faces) - sphere.vertices).max() < 0.01


@pytest.fixture(scope="module")
def real_glb() -> tuple:
    """(head model, GLB) of the mean MakeHuman head with its mouth half open."""
    from backend.head.model import load_head

    assets.require("makehuman")
    head = load_head("makehuman", "cpu")
    expression = [0.5 if name == "jawOpen" else 0.0 for name in head.expression_names]
    palette = {name: [0.8, 0.6, 0.4] for name in head.palette_names}
    palette |= {"sclera": [1.0, 1.0, 1.0], "iris": [0.2, 0.4, 0.8], "pupil": [0.0, 0.0, 0.0]}
    return head, glb_bytes(head, head.verts0.numpy(), 1.0, expression, albedo(), palette), palette


def test_real_head_passes_the_khronos_validator(real_glb: tuple, gltf_validator: Path, tmp_path: Path) -> None:
    issues = validate(gltf_validator, real_glb[1], tmp_path)["issues"]
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"][:10]


def test_real_head_is_small_and_complete(real_glb: tuple) -> None:
    head, data, _ = real_glb
    document, _ = parse(data)
    assert [node["name"] for node in document["nodes"]] == NODES
    images = sum(document["bufferViews"][image["bufferView"]]["byteLength"] for image in document["images"])
    assert len(data) - images <= 8e6
    for node in ("Head", "Teeth", "Tongue"):
        assert len(mesh_of(document, node)["primitives"][0]["targets"]) == 52
    assert document["asset"]["extras"]["layout_id"] == head.layout_id


def test_real_head_opens_its_mouth(real_glb: tuple) -> None:
    """Default weights applied to every node give the head model's own posed surface to 10 micrometres."""
    head, data, _ = real_glb
    document, binary = parse(data)
    expression = torch.tensor([[0.5 if name == "jawOpen" else 0.0 for name in head.expression_names]])
    posed = head.subdivide(head.cage(torch.zeros(1, head.identity.shape[0]), expression))[0].numpy()
    for node in NODES:
        mesh = mesh_of(document, node)
        primitive = mesh["primitives"][0]
        points = values(document, binary, primitive["attributes"]["POSITION"]).astype(float)
        for weight, target in zip(mesh.get("weights", []), primitive.get("targets", []), strict=True):
            points = points + weight * values(document, binary, target["POSITION"])
        used = np.unique(triangles_of(head, node))
        assert np.abs(points - posed[used]).max() < 1e-5, node


def test_real_parts_keep_their_colours(real_glb: tuple) -> None:
    """The texture looked up at each vertex is the vertex's colour: no fold, no flip, iris where the iris is."""
    head, data, palette = real_glb
    document, binary = parse(data)
    colours = head.palette_weights1.numpy() @ np.array([palette[name] for name in head.palette_names])
    for node in NODES[1:-1]:
        primitive = mesh_of(document, node)["primitives"][0]
        surface = document["materials"][primitive["material"]]["pbrMetallicRoughness"]
        texture = document["textures"][surface["baseColorTexture"]["index"]]
        view = document["bufferViews"][document["images"][texture["source"]]["bufferView"]]
        png = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        image = np.asarray(Image.open(io.BytesIO(png))) / 255.0
        uv = values(document, binary, primitive["attributes"]["TEXCOORD_0"])
        column = np.clip((uv[:, 0] * image.shape[1]).astype(int), 0, image.shape[1] - 1)
        row = np.clip((uv[:, 1] * image.shape[0]).astype(int), 0, image.shape[0] - 1)
        used = np.unique(triangles_of(head, node))
        error = np.abs(image[row, column] - colours[used]).max(1)
        assert error.mean() < 0.02 and np.quantile(error, 0.95) < 0.1, node


def skin_maps() -> dict[str, bytes]:
    """A JPEG albedo, a tilted normal and a green roughness of 16 texels a side."""
    made = {}
    for name, colour in (("albedo", (200, 150, 130)), ("normal", (160, 128, 250)), ("roughness", (255, 120, 0))):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), colour).save(stream, "JPEG")
        made[name] = stream.getvalue()
    return made


@pytest.mark.parametrize("name", ["Hair", "Glasses"])
def test_hair_and_glasses_are_cut_out(gltf_validator: Path, tmp_path: Path, name: str) -> None:
    """A surface with holes becomes a node without morph targets, seen from both sides, whose seam keeps its two UVs."""
    head = small_head()
    verts, uv, quads = patch(5, 4, (0.0, 0.2, 0.0), 0.1)
    corners = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    vertex = np.concatenate([np.arange(len(verts)), [0]])  # the first vertex a second time, elsewhere in the picture
    triangles = corners.copy()
    triangles[0][triangles[0] == 0] = len(verts)
    stream = io.BytesIO()
    Image.new("RGBA", (8, 8), (90, 60, 40, 128)).save(stream, "PNG")
    surface = Surface(verts, vertex, np.concatenate([uv, [[0.9, 0.9]]]), triangles, np.zeros(len(triangles), bool),
                      stream.getvalue())
    data = glb_bytes(head, head.verts0.numpy(), 1.0, [0.0] * 52, palette=PALETTE, **{name.lower(): surface},
                     **skin_maps())
    issues = validate(gltf_validator, data, tmp_path)["issues"]
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]
    document, binary = parse(data)
    primitive = mesh_of(document, name)["primitives"][0]
    material = document["materials"][primitive["material"]]
    assert (material["alphaMode"], material["alphaCutoff"], material["doubleSided"]) == ("MASK", 0.5, True)
    assert "targets" not in primitive
    points, normals = (values(document, binary, primitive["attributes"][n]) for n in ("POSITION", "NORMAL"))
    assert np.abs(points[-1] - points[0]).max() == 0 and np.abs(normals[-1] - normals[0]).max() == 0


def test_tints_are_mixed_and_the_rest_is_cut_out(gltf_validator: Path, tmp_path: Path) -> None:
    """Two primitives of one mesh and one picture: together they are the surface, each triangle once."""
    head = small_head()
    verts, uv, quads = patch(5, 4, (0.0, 0.2, 0.0), 0.1)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    tinted = np.arange(len(triangles)) % 3 == 0
    stream = io.BytesIO()
    Image.new("RGBA", (8, 8), (90, 60, 40, 100)).save(stream, "PNG")
    surface = Surface(verts, np.arange(len(verts)), uv, triangles, tinted, stream.getvalue())
    data = glb_bytes(head, head.verts0.numpy(), 1.0, [0.0] * 52, palette=PALETTE, glasses=surface, **skin_maps())
    issues = validate(gltf_validator, data, tmp_path)["issues"]
    assert (issues["numErrors"], issues["numWarnings"], issues["numInfos"]) == (0, 0, 0), issues["messages"]
    document, binary = parse(data)
    cut, mixed = mesh_of(document, "Glasses")["primitives"]
    looks = [document["materials"][piece["material"]] for piece in (cut, mixed)]
    assert [(look["name"], look["alphaMode"], look.get("alphaCutoff")) for look in looks] == [
        ("Glasses", "MASK", 0.5), ("Tinted", "BLEND", None)]
    assert looks[0]["pbrMetallicRoughness"] == looks[1]["pbrMetallicRoughness"] and looks[1]["doubleSided"]
    assert cut["attributes"] == mixed["attributes"]
    for piece, chosen in ((cut, ~tinted), (mixed, tinted)):
        assert values(document, binary, piece["indices"]).reshape(-1, 3).tolist() == triangles[chosen].tolist()


def test_tangents_run_along_u() -> None:
    """On a sheet that faces +Z with u to the right they are +X; a mirrored chart has the other sign."""
    verts, uv, quads = patch(5, 4, (0.0, 0.0, 0.0), 0.1)
    verts[:, 2] = 0
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    normals = np.tile([0.0, 0.0, 1.0], (len(verts), 1))
    assert tangents(verts, uv, triangles, normals) == pytest.approx(np.tile([1.0, 0, 0, 1], (len(verts), 1)))
    mirrored = uv * (-1, 1)
    assert tangents(verts, mirrored, triangles, normals) == pytest.approx(np.tile([-1.0, 0, 0, -1], (len(verts), 1)))


def test_skin_maps_are_carried(gltf_validator: Path, tmp_path: Path) -> None:
    """Normals with tangents and roughness pass the Khronos validator without a warning; other parts stay plain."""
    head = small_head()
    data = glb_bytes(head, head.verts0.numpy(), 1.0, [0.0] * 52, palette=PALETTE, **skin_maps())
    issues = validate(gltf_validator, data, tmp_path)["issues"]
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]
    document, _ = parse(data)
    materials = {m["name"]: m for m in document["materials"]}
    assert "normalTexture" in materials["Head"] and materials["Head"]["pbrMetallicRoughness"]["roughnessFactor"] == 1
    assert "normalTexture" not in materials["Teeth"]
    assert {image["mimeType"] for image in document["images"]} == {"image/jpeg", "image/png"}
