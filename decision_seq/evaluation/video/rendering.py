"""Rendering of environments on a machine without a screen."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from decision_seq.envs import close, make
from decision_seq.formatting import error_text
from decision_seq.modules import FAILURES
from decision_seq.types import Reporter, UserError

SIZE = 480  # pixels of an outline's side, as in Gymnasium's pictures
BACKENDS = ("egl", "osmesa", "glfw")  # the first two need no screen
# Run in a process of its own, because a process cannot try another backend after one has failed.
PROBE = """
import mujoco
context = mujoco.GLContext(64, 64)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
"""
PROBE_SECONDS = 60

Picture = Callable[[Any], np.ndarray]  # environment -> [H, W, 3] uint8


class Camera:
    """Makes and renders the environments of one id; UserError where they cannot be rendered.

    MuJoCo draws through OpenGL. Where OpenGL is missing, robots of spheres and capsules (all of
    Gymnasium's) are drawn in outline, which needs no OpenGL, and the reporter receives a message.
    """

    def __init__(self, env_id: str, reporter: Reporter | None = None) -> None:
        self.env_id = env_id
        self.options: dict[str, Any] = {"render_mode": "rgb_array"}
        self.picture: Picture = _render
        self.shape: tuple[int, ...] | None = None  # of the pictures
        plain = make(env_id)
        try:
            metadata = plain.metadata or {}
            modes = metadata.get("render_modes") or []
            self.fps = _frames_per_second(metadata.get("render_fps") or 30, env_id)
            if is_mujoco(plain) and opengl() is None:
                require_outline(plain)
                (reporter or Reporter()).say(f"video: {NO_OPENGL}; drawn in outline")
                self.options, self.picture = {}, outline
                return
        finally:
            close(plain, env_id)
        if "rgb_array" not in modes:
            raise UserError(f"{env_id} cannot be filmed: it renders no rgb_array")
        self._try()

    def open(self) -> Any:
        """Make one environment that can be rendered."""
        env = make(self.env_id, **self.options)
        if is_mujoco(env) and self.options:
            # A software renderer takes three times as long over fine shadows and smooth edges.
            quality = env.unwrapped.model.vis.quality
            quality.shadowsize, quality.offsamples = 1024, 0
            renderer = env.unwrapped.mujoco_renderer
            if renderer.camera_id == -1 and env.unwrapped.model.ncam:
                renderer.camera_id = 0  # the model's camera follows the robot; the default is fixed
        return env

    def _try(self) -> None:
        env = self.open()
        try:
            env.reset(seed=0)
            self.frame(env)
        except UserError:
            raise
        except FAILURES as error:
            raise UserError(f"{self.env_id} cannot be filmed: {error_text(error)}") from error
        finally:
            close(env, self.env_id)

    def frame(self, env: Any) -> np.ndarray:
        """Render an environment -> [H, W, 3] uint8, of one size; UserError for anything else."""
        try:
            frame = self.picture(env)
        except FAILURES as error:  # a renderer may raise anything
            raise UserError(f"{self.env_id} cannot be filmed: {error_text(error)}") from error
        if not isinstance(frame, np.ndarray) or frame.ndim != 3 or not frame.size:
            raise UserError(f"{self.env_id} cannot be filmed: it renders no picture")
        if frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise UserError(
                f"{self.env_id} cannot be filmed: it renders {frame.dtype} of {frame.shape[2]}"
                " channels; uint8 of 3 are needed"
            )
        if self.shape not in (None, frame.shape):
            raise UserError(f"{self.env_id} cannot be filmed: its pictures change in size")
        self.shape = frame.shape
        return frame


def _frames_per_second(given: Any, env_id: str) -> float:
    """The rate of an environment's pictures; UserError unless it is a positive number."""
    try:
        rate = float(given)
    except (TypeError, ValueError):
        rate = math.nan
    if not 1e-3 <= rate <= 1e4:
        raise UserError(f"{env_id} cannot be filmed: its render_fps {given!r} is no rate")
    return rate


NO_OPENGL = (
    f"MuJoCo finds no OpenGL (tried {', '.join(BACKENDS)}; install libegl1 or libosmesa6, or set"
    " MUJOCO_GL)"
)


def is_mujoco(env: Any) -> bool:
    import mujoco

    return isinstance(getattr(env.unwrapped, "model", None), mujoco.MjModel)


def opengl() -> str | None:
    """Find a backend that works, and select it for this process; None where none works.

    If the user has set MUJOCO_GL, only that backend is tried.
    """
    given = os.environ.get("MUJOCO_GL")
    for backend in (given,) if given else BACKENDS:
        if _draws(backend):
            os.environ["MUJOCO_GL"] = backend
            return backend
    return None


def _draws(backend: str) -> bool:
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def _render(env: Any) -> np.ndarray:
    return env.render()


def require_outline(env: Any) -> None:
    """UserError unless the robot's model has a camera and consists of spheres and capsules."""
    import mujoco

    kinds = mujoco.mjtGeom
    drawn = {int(k) for k in (kinds.mjGEOM_PLANE, kinds.mjGEOM_SPHERE, kinds.mjGEOM_CAPSULE)}
    model = env.unwrapped.model
    if model.ncam == 0 or not {int(kind) for kind in model.geom_type} <= drawn:
        raise UserError(f"{env.spec.id} cannot be filmed: {NO_OPENGL}")


def outline(env: Any) -> np.ndarray:
    """Draw the robot's spheres and capsules from its first camera -> [SIZE, SIZE, 3]."""
    import mujoco
    from PIL import Image, ImageDraw

    model, data = env.unwrapped.model, env.unwrapped.data
    project = _Projection(
        data.cam_xpos[0], data.cam_xmat[0].reshape(3, 3), math.radians(float(model.cam_fovy[0]))
    )
    image = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(image)
    kinds = [int(kind) for kind in model.geom_type]
    if int(mujoco.mjtGeom.mjGEOM_PLANE) in kinds and project.sideways:
        _ground(draw, project)
    solid = [i for i, kind in enumerate(kinds) if kind != int(mujoco.mjtGeom.mjGEOM_PLANE)]
    for i in sorted(solid, key=lambda i: -project.depth(data.geom_xpos[i])):
        centre, axis = data.geom_xpos[i], data.geom_xmat[i].reshape(3, 3)[:, 2]
        capsule = kinds[i] == int(mujoco.mjtGeom.mjGEOM_CAPSULE)
        half = float(model.geom_size[i, 1]) if capsule else 0.0
        radius = float(model.geom_size[i, 0])
        colour = tuple(int(255 * value) for value in _rgba(model, i)[:3])
        _capsule(draw, project, (centre - half * axis, centre + half * axis), radius, colour)
    return np.asarray(image)


def _rgba(model: Any, geom: int) -> np.ndarray:
    """The geom's own colour, unless it is MuJoCo's default and a material has one."""
    own, material = model.geom_rgba[geom], int(model.geom_matid[geom])
    default = bool(np.allclose(own, (0.5, 0.5, 0.5, 1.0)))
    return model.mat_rgba[material] if default and material >= 0 else own


class _Projection:
    """A pinhole camera, which points along the negative third axis of its frame."""

    def __init__(self, position: np.ndarray, frame: np.ndarray, fovy: float) -> None:
        self.position, self.frame = position, frame
        self.focal = SIZE / 2 / math.tan(fovy / 2)
        self.sideways = abs(float(frame[2, 2])) < 0.7

    def depth(self, point: np.ndarray) -> float:
        return max(float((self.position - point) @ self.frame[:, 2]), 1e-3)

    def __call__(self, point: np.ndarray) -> tuple[float, float]:
        x, y, _ = (point - self.position) @ self.frame
        scale = self.focal / self.depth(point)
        return SIZE / 2 + float(x) * scale, SIZE / 2 - float(y) * scale


def _ground(draw: Any, project: _Projection) -> None:
    """Draw a line below the robot with a mark every metre, which shows its motion."""
    near = round(float(project.position[0]))
    along = [np.array([near + metre, 0.0, 0.0]) for metre in range(-8, 9)]
    draw.line([project(along[0]), project(along[-1])], fill="black", width=2)
    for point in along:
        x, y = project(point)
        draw.line([(x, y), (x, y + 10)], fill="black", width=2)


def _capsule(
    draw: Any, project: _Projection, ends: Sequence[np.ndarray], radius: float, colour: Any
) -> None:
    points = [project(end) for end in ends]
    thick = [radius * project.focal / project.depth(end) for end in ends]
    for grow, fill in ((1.5, "black"), (0.0, colour)):  # the edge, then the interior
        draw.line(points, fill=fill, width=round(2 * (min(thick) + grow)))
        for (x, y), r in zip(points, thick, strict=True):
            r += grow
            draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
