"""How a scene is painted: a sheet, ink on it, and marks that are no digit.

A canvas is a ``(240, 320, 3)`` float32 array of RGB in [0, 255], painted in place. All chance comes from the
generator that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

WIDTH, HEIGHT = 320, 240

Canvas = NDArray[np.float32]
Mask = NDArray[np.float32]
Color = tuple[float, float, float]
Rectangle = tuple[int, int, int, int]

_VISIBLE = 0.35  # opacity from which a pixel counts as ink


@dataclass(frozen=True)
class Ink:
    """A piece of ink: opacity in [0, 1], and where on the canvas its first pixel lies (may be outside)."""

    mask: Mask
    left: int
    top: int

    def bounds(self) -> Rectangle | None:
        """Left, top, width and height on the canvas in pixels; None where no pixel counts as ink."""
        visible = self.mask > _VISIBLE
        columns, rows = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.any(axis=1))
        if not len(columns):
            return None
        x, y = int(columns[0]), int(rows[0])
        return self.left + x, self.top + y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1

    def chalky(self, rng: Generator) -> Ink:
        """The same in chalk, which leaves gaps."""
        rough = rng.uniform(0.45, 1.25, self.mask.shape).astype(np.float32)
        return Ink(np.minimum(self.mask * rough, 1.0), self.left, self.top)


@dataclass(frozen=True)
class Surface:
    """What is written on, and with what."""

    name: str
    color: Color
    inks: tuple[Color, ...]
    share: float  # of all scenes
    chalk: bool = False


SURFACES = (
    Surface("paper", (243, 238, 224), ((38, 58, 138), (34, 34, 40), (165, 36, 40)), 0.32),
    Surface("squared paper", (238, 241, 242), ((36, 52, 130), (42, 42, 48), (20, 92, 74)), 0.22),
    Surface("cardboard", (190, 158, 118), ((44, 34, 30), (70, 40, 26), (24, 40, 84)), 0.16),
    Surface("whiteboard", (228, 233, 236), ((24, 92, 160), (176, 40, 44), (30, 120, 70), (30, 30, 34)), 0.12),
    Surface(
        "chalkboard", (46, 66, 58), ((232, 232, 222), (238, 220, 140), (226, 168, 160)), 0.18, chalk=True
    ),
)


def choose_surface(rng: Generator) -> Surface:
    """Draw a surface by its share."""
    shares = np.array([s.share for s in SURFACES])
    return SURFACES[int(rng.choice(len(SURFACES), p=shares / shares.sum()))]


def paint_surface(surface: Surface, rng: Generator) -> Canvas:
    """An empty sheet with uneven light, stains and grain."""
    tint = np.asarray(surface.color, np.float32) + rng.normal(0, 5, 3).astype(np.float32)
    corners = rng.uniform(0.80, 1.06, (2, 2)).astype(np.float32)
    clouds = rng.normal(0, rng.uniform(0.005, 0.03), (5, 7)).astype(np.float32)
    light = np.asarray(cv2.resize(corners, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR), np.float32)
    light += np.asarray(cv2.resize(clouds, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.float32)
    canvas: Canvas = cv2.merge([light * channel for channel in tint])
    if surface.name == "squared paper":
        _rule(canvas, rng)
    return canvas


def finish(canvas: Canvas, surface: Surface, rng: Generator) -> NDArray[np.uint8]:
    """What a camera makes of the scene: a little blur and noise. Returns uint8 RGB."""
    softened = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.3, 0.8)))
    strength = float(rng.uniform(1.0, 4.5)) * (1.3 if surface.chalk else 1.0)
    grain = rng.standard_normal((HEIGHT, WIDTH), dtype=np.float32) * np.float32(strength)
    picture = cv2.add(softened, cv2.merge([grain, grain, grain]), dtype=cv2.CV_8U)  # rounds and clips
    return np.asarray(picture, np.uint8)


def choose_ink(surface: Surface, rng: Generator) -> Color:
    """One of the surface's inks, a little off."""
    base = surface.inks[int(rng.integers(len(surface.inks)))]
    r, g, b = (float(np.clip(c + rng.normal(0, 8), 0, 255)) for c in base)
    return r, g, b


def apply_ink(canvas: Canvas, ink: Ink, color: Color, opacity: float) -> None:
    """Blend a colour over the canvas where there is ink; what lies outside of the canvas is lost."""
    x, y = max(ink.left, 0), max(ink.top, 0)
    mask = ink.mask[y - ink.top : HEIGHT - ink.top, x - ink.left : WIDTH - ink.left]
    part = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    part += (mask * np.float32(opacity))[..., None] * (np.asarray(color, np.float32) - part)


def write_digit(
    image: NDArray[np.float32], center: tuple[float, float], height: float, rng: Generator
) -> Ink:
    """Write an 8x8 digit.

    Args:
        image: ``(8, 8)`` ink in [0, 1].
        center: x and y in pixels.
        height: of the 8 rows, in pixels.
        rng: slant, turn and width of this digit.
    """
    turn, slant = np.deg2rad(rng.normal(0, 5)), rng.normal(0, 0.08)
    stretch = rng.uniform(0.85, 1.12)
    c, s = np.cos(turn), np.sin(turn)
    linear = np.array([[c, -s], [s, c]]) @ np.array([[stretch, slant], [0, 1]]) * height / 8
    side = int(height * 1.6) + 4
    left, top = round(center[0] - side / 2), round(center[1] - side / 2)
    padded = cv2.copyMakeBorder(image, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(0,))
    offset = np.array(center) - (left, top) - linear @ np.array([5.5, 5.5])
    blurred = cv2.warpAffine(padded, np.column_stack([linear, offset]), (side, side), flags=cv2.INTER_CUBIC)
    # Eight pixels are a blur; a steep curve around half ink turns it back into a pen stroke.
    low, high = rng.uniform(0.26, 0.42), rng.uniform(0.60, 0.76)
    return Ink(_smoothstep(blurred, float(low), float(high)), left, top)


def _smoothstep(values: cv2.typing.MatLike, low: float, high: float) -> Mask:
    t = np.clip((values - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def _rule(canvas: Canvas, rng: Generator) -> None:
    step = float(rng.uniform(16, 26))
    tilt = rng.normal(0, 0.012)
    lines = np.zeros((HEIGHT, WIDTH), np.uint8)
    for position in np.arange(rng.uniform(-step, 0), WIDTH + HEIGHT, step):
        across = np.array([[0.0, position], [WIDTH, position + tilt * WIDTH]])
        down = np.array([[position, 0.0], [position - tilt * HEIGHT, HEIGHT]])
        for line in (across, down):
            cv2.polylines(lines, [_fixed(line)], False, (255,), 1, cv2.LINE_AA, 4)
    color = (150.0, 176.0, 205.0)
    apply_ink(canvas, Ink(_opacity(lines), 0, 0), color, float(rng.uniform(0.25, 0.6)))


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """OpenCV's fixed-point coordinates with four fractional bits."""
    return np.round(points * 16).astype(np.int32)


# --- marks that are no digit ---


def _polyline(points: NDArray[np.float64], thickness: int) -> Mask:
    picture = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.polylines(picture, [_fixed(points)], False, (255,), thickness, cv2.LINE_AA, 4)
    return _opacity(picture)


def _opacity(picture: cv2.typing.MatLike) -> Mask:
    """An 8-bit drawing as opacity in [0, 1]."""
    return np.asarray(picture, np.float32) / np.float32(255)


def _smooth_curve(knots: NDArray[np.float64], points: int = 40) -> NDArray[np.float64]:
    """A Catmull-Rom curve through knots ``(K, 2)``."""
    p = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    at = np.linspace(0, len(knots) - 1 - 1e-9, points)
    i = at.astype(int)
    t = (at - i)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def _scribble(center: NDArray[np.float64], size: float, rng: Generator) -> Mask:
    knots = center + rng.uniform(-0.5, 0.5, (int(rng.integers(3, 7)), 2)) * size * np.array([0.8, 1.0])
    return _polyline(_smooth_curve(knots), int(rng.integers(2, 5)))


def _stroke(center: NDArray[np.float64], size: float, rng: Generator) -> Mask:
    angle = rng.uniform(0, np.pi)
    half = 0.5 * size * rng.uniform(0.7, 2.0) * np.array([np.cos(angle), np.sin(angle)])
    bend = rng.normal(0, 0.1 * size, 2)
    return _polyline(
        _smooth_curve(np.array([center - half, center + bend, center + half])), int(rng.integers(2, 5))
    )


def _arc(center: NDArray[np.float64], size: float, rng: Generator) -> Mask:
    start = rng.uniform(0, 2 * np.pi)
    angles = start + np.linspace(0, rng.uniform(0.7, 2.1) * np.pi, 30)
    radii = 0.5 * size * np.array([rng.uniform(0.35, 1.2), rng.uniform(0.6, 1.0)])
    return _polyline(
        center + radii * np.column_stack([np.cos(angles), np.sin(angles)]), int(rng.integers(2, 4))
    )


def _sign(center: NDArray[np.float64], size: float, rng: Generator) -> Mask:
    """A tick, cross, plus, arrow or equals sign."""
    shapes: tuple[tuple[tuple[float, float], ...], ...] = (
        ((-0.4, 0.0), (-0.1, 0.4), (0.5, -0.5)),
        ((-0.4, -0.4), (0.4, 0.4), (0.0, 0.0), (0.4, -0.4), (-0.4, 0.4)),
        ((-0.5, 0.0), (0.5, 0.0), (0.0, 0.0), (0.0, -0.5), (0.0, 0.5)),
        ((-0.6, 0.1), (0.5, -0.1), (0.2, -0.35), (0.5, -0.1), (0.25, 0.25)),
        ((-0.4, -0.15), (0.4, -0.2)),
        ((-0.4, -0.5), (0.4, -0.5), (-0.4, 0.5), (0.4, 0.5)),
    )
    points = np.array(shapes[int(rng.integers(len(shapes)))]) + rng.normal(0, 0.03, 2)
    return _polyline(center + points * size * 0.8, int(rng.integers(2, 4)))


def _word(center: NDArray[np.float64], size: float, rng: Generator) -> Mask:
    words = ("kg", "EUR", "Nr", "ok", "Total", "am", "x", "A", "R", "&", "?", "#", "Tel", "Bus", "go", "Zeit")
    letters = (
        "S",
        "B",
        "Z",
        "b",
        "g",
        "q",
        "s",
        "z",
        "Y",
        "T",
        "C",
        "e",
        "h",
        "t",
        "y",
        "a",
    )  # the classic confusions
    words = words if rng.random() < 0.55 else letters
    text = words[int(rng.integers(len(words)))]
    picture = np.zeros((HEIGHT, WIDTH), np.uint8)
    font = (cv2.FONT_HERSHEY_SCRIPT_SIMPLEX, cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)
    origin = (int(center[0] - size * 0.35 * len(text)), int(center[1] + size * 0.3))
    cv2.putText(
        picture,
        text,
        origin,
        font[int(rng.integers(3))],
        size / 30,
        (255,),
        int(rng.integers(1, 3)),
        cv2.LINE_AA,
    )
    turned = cv2.getRotationMatrix2D((float(center[0]), float(center[1])), float(rng.normal(0, 6)), 1.0)
    return _opacity(cv2.warpAffine(picture, turned, (WIDTH, HEIGHT)))


def _blob(center: NDArray[np.float64], size: float, rng: Generator) -> Mask:
    angles = np.linspace(0, 2 * np.pi, 9)[:-1]
    radii = 0.5 * size * rng.uniform(0.35, 1.0, 8)
    knots = center + radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    outline = _smooth_curve(np.vstack([knots, knots[:1]]), 48)
    picture = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(picture, [_fixed(outline)], (255,), cv2.LINE_AA, 4)
    return _opacity(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.5, 3))))


def _ring(center: NDArray[np.float64], size: float, rng: Generator) -> Mask:
    """What a cup leaves behind."""
    angles = rng.uniform(0, 6.28) + np.linspace(0, rng.uniform(1.4, 2.0) * np.pi, 60)
    radius = size * rng.uniform(0.9, 1.6)
    points = center + radius * np.column_stack([np.cos(angles), np.sin(angles)])
    wet = cv2.GaussianBlur(_polyline(points, int(rng.integers(3, 7))), (0, 0), 1.5)
    return np.asarray(wet, np.float32) * np.float32(rng.uniform(0.3, 0.6))


def _noise_patch(center: NDArray[np.float64], size: float, rng: Generator) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    w, h = (int(v) for v in size * rng.uniform(0.6, 1.6, 2))
    x, y = max(int(center[0]) - w // 2, 0), max(int(center[1]) - h // 2, 0)
    part = mask[y : y + h, x : x + w]
    coarse = rng.uniform(0, 1, (max(h // 2, 1), max(w // 2, 1))).astype(np.float32)
    if part.size:
        noise = cv2.resize(coarse, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_LINEAR)
        part[:] = _smoothstep(noise, 0.35, 0.8) * float(rng.uniform(0.4, 0.9))
    return mask


def _grid(center: NDArray[np.float64], size: float, rng: Generator) -> Mask:
    """A piece of a table."""
    rows, columns = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    cell = size * rng.uniform(0.7, 1.3, 2)
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    corner = center - cell * np.array([columns, rows]) / 2
    for i in range(columns + 1):
        mask = np.maximum(mask, _polyline(corner + cell * np.array([[i, -0.1], [i, rows + 0.1]]), 1))
    for i in range(rows + 1):
        mask = np.maximum(mask, _polyline(corner + cell * np.array([[-0.1, i], [columns + 0.1, i]]), 1))
    return mask


def _hatching(center: NDArray[np.float64], size: float, rng: Generator) -> Mask:
    """Something that was crossed out."""
    turns = int(rng.integers(5, 11))
    x = np.linspace(-0.6, 0.6, turns) * size + rng.normal(0, 0.03 * size, turns)
    y = np.where(np.arange(turns) % 2 == 0, -0.4, 0.4) * size + rng.normal(0, 0.08 * size, turns)
    return _polyline(center + np.column_stack([x, y]), int(rng.integers(1, 4)))


Mark = Callable[[NDArray[np.float64], float, Generator], Mask]
MARKS: tuple[tuple[Mark, float], ...] = (
    (_scribble, 0.20),
    (_stroke, 0.13),
    (_arc, 0.13),
    (_sign, 0.12),
    (_word, 0.18),
    (_blob, 0.07),
    (_ring, 0.03),
    (_noise_patch, 0.04),
    (_grid, 0.05),
    (_hatching, 0.05),
)


def draw_mark(center: tuple[float, float], size: float, rng: Generator) -> Ink | None:
    """Draw a mark that is no digit; None where it fell off the canvas.

    Args:
        center: x and y in pixels.
        size: about its height, in pixels.
        rng: which mark, and its shape.
    """
    shares = np.array([share for _, share in MARKS])
    mark, _ = MARKS[int(rng.choice(len(MARKS), p=shares / shares.sum()))]
    drawn = mark(np.array(center, np.float64), size, rng)
    x, y, w, h = cv2.boundingRect((drawn > 0.01).astype(np.uint8))
    return Ink(drawn[y : y + h, x : x + w], x, y) if w and h else None
