"""Paints a random street with PIL, and the class of every pixel with it.

The street lies in three dimensions, in metres: x to the right, y up, z into the picture, the camera above the origin.
It is painted from far to near on a canvas of twice the size, so that edges come out smooth.
"""

import colorsys
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SCENE_LABELS = ("sky", "building", "road", "pavement", "tree", "car", "person", "sign")
SCENE_PALETTE = (
    (121, 182, 232),
    (158, 128, 112),
    (92, 84, 122),
    (226, 192, 208),
    (74, 148, 72),
    (36, 64, 190),
    (222, 48, 66),
    (250, 208, 50),
)

SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, SIGN = range(len(SCENE_LABELS))
# Poles are thinner than the 8 pixels of a logit: they stay unlabelled, as thin things do in hand-made masks.
UNLABELLED = 255

# Strength of the coarse and of the fine noise on each class, in grey levels; none on poles.
TEXTURE: np.ndarray = np.zeros((256, 2), dtype=np.float32)
TEXTURE[: len(SCENE_LABELS)] = [[4, 1], [5, 5], [6, 8], [6, 7], [14, 16], [3, 2], [5, 5], [2, 2]]

NEAR = 1.0  # metres; nothing is painted closer to the camera
WHITE, BLACK = (255, 255, 255), (0, 0, 0)

Colour = tuple[int, int, int]  # red, green and blue, from 0 to 255
Range = tuple[float, float]  # the smallest and the largest of a random number


class Thing(NamedTuple):
    """What stands on the ground at (x, z), the function that paints it there, and the size of its shadow."""

    x: float
    z: float
    paint: Callable
    shadow: tuple = (0.4, 0.4)  # half its width, its depth


class StreetPainter:
    """One street: its random plan, and the canvas it is painted on.

    Args:
        rng (`np.random.Generator`): where every choice comes from.
        height (`int`): height of the picture in pixels.
        width (`int`): width of the picture in pixels.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int):
        self.rng = rng
        self.height, self.width = height, width
        self.image = Image.new("RGB", (2 * width, 2 * height))
        self.mask = Image.new("L", (2 * width, 2 * height), SKY)
        self.draw, self.draw_mask = ImageDraw.Draw(self.image), ImageDraw.Draw(self.mask)

        self.focal_length = 2 * rng.uniform(0.95, 1.25) * max(height, 0.67 * width)  # canvas pixels
        self.horizon = (2 * width * rng.uniform(0.3, 0.7), 2 * height * rng.uniform(0.36, 0.52))  # where z is endless
        roll = math.radians(rng.normal(0, 1.5))
        self.cos_roll, self.sin_roll = math.cos(roll), math.sin(roll)
        self.camera_height = rng.uniform(1.5, 2.3)

        middle, half = rng.uniform(-1.5, 1.5), rng.uniform(2.5, 3.8)
        self.kerbs = (middle - half, middle + half)
        self.walls = (self.kerbs[0] - rng.uniform(2.2, 4), self.kerbs[1] + rng.uniform(2.2, 4))

        weather = ("clear", "clear", "grey", "evening")[rng.integers(4)]
        if weather == "clear":
            hue = rng.uniform(0.53, 0.62)
            self.zenith, self.haze = _rgb(hue, rng.uniform(0.35, 0.65), rng.uniform(0.8, 0.98)), _rgb(hue, 0.12, 0.97)
        elif weather == "grey":
            hue, value = rng.uniform(0.5, 0.7), rng.uniform(0.6, 0.9)
            self.zenith, self.haze = _rgb(hue, rng.uniform(0.02, 0.12), value), _rgb(hue, 0.03, value + 0.08)
        else:
            self.zenith = _rgb(rng.uniform(0.6, 0.72), rng.uniform(0.2, 0.45), rng.uniform(0.5, 0.75))
            self.haze = _rgb(rng.uniform(0.03, 0.11), rng.uniform(0.3, 0.6), 0.95)
        self.visibility = rng.uniform(60, 250)  # metres
        self.is_sunny = weather != "grey"
        self.sun_side = (-1, 1)[rng.integers(2)]
        self.exposure = rng.uniform(0.85, 1.25) * (0.8 if weather == "evening" else 1)

    def paint(self) -> tuple[Image.Image, np.ndarray]:
        """Paints everything.

        Returns:
            `tuple[PIL.Image.Image, np.ndarray]`: the RGB picture, and the (height, width) `uint8` mask of indices into
            `SCENE_LABELS`, 255 where a pixel belongs to no class.
        """
        self.paint_sky()
        self.paint_ground()
        things = self.place_things()
        self.cast_shadows(things)
        self.paint_buildings()
        for thing in sorted(things, key=lambda thing: -thing.z):
            thing.paint(thing.x, thing.z)
        return self.develop()

    # From metres to the canvas

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Where a point of the street lies on the canvas."""
        scale = self.focal_length / max(z, NEAR)
        right, down = x * scale, (self.camera_height - y) * scale
        return (
            self.horizon[0] + right * self.cos_roll - down * self.sin_roll,
            self.horizon[1] + right * self.sin_roll + down * self.cos_roll,
        )

    def seen(self, colour: Colour, z: float, light: float = 1.0) -> Colour:
        """A colour as it looks under this light from this distance."""
        clear = math.exp(-z / self.visibility)
        red, green, blue = (
            min(255, int(light * clear * channel + (1 - clear) * hazy))
            for channel, hazy in zip(colour, self.haze, strict=True)
        )
        return red, green, blue

    def polygon(
        self, points: Sequence[tuple[float, float, float]], colour: Colour, label: int, light: float = 1.0
    ) -> None:
        """Paints a polygon of (x, y, z) corners, the nearest first."""
        corners = [self.project(*point) for point in points]
        self.draw.polygon(corners, fill=self.seen(colour, points[0][2], light))
        self.draw_mask.polygon(corners, fill=label)

    def upright(
        self,
        x: float,
        z: float,
        outline: Sequence[tuple[float, float]],
        colour: Colour,
        label: int,
        light: float = 1.0,
    ) -> None:
        """Paints a polygon of (right, up) corners that stands at (x, z) and faces the camera."""
        self.polygon([(x + right, up, z) for right, up in outline], colour, label, light)

    def level(
        self,
        left: float,
        right: float,
        near: float,
        far: float,
        colour: Colour,
        label: int,
        y: float = 0.0,
        light: float = 1.0,
    ) -> None:
        """Paints a rectangle that lies on the ground, or higher."""
        corners = [(left, y, max(near, NEAR)), (right, y, max(near, NEAR)), (right, y, far), (left, y, far)]
        self.polygon(corners, colour, label, light)

    def colour(self, hue: Range, saturation: Range, value: Range) -> Colour:
        """A random colour: each argument is a range."""
        return _rgb(self.rng.uniform(*hue), self.rng.uniform(*saturation), self.rng.uniform(*value))

    def paint_colour(self) -> Colour:
        """Any colour that people give to cars, clothes and doors."""
        if self.rng.random() < 0.4:
            return self.colour((0, 1), (0, 0.1), (0.12, 0.95))
        return self.colour((0, 1), (0.4, 0.85), (0.3, 0.9))

    # The street

    def paint_sky(self) -> None:
        """A gradient from the zenith to the horizon, with clouds."""
        rng, horizon = self.rng, self.horizon[1]
        depth = np.clip(np.arange(2 * self.height) / horizon, 0, 1)[:, None] ** 1.5
        rows = np.array(self.zenith) * (1 - depth) + np.array(self.haze) * depth  # (2 H, 3)
        self.image.paste(Image.fromarray(rows.astype(np.uint8)[:, None]).resize(self.image.size))
        clouds = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(clouds)
        for _ in range(rng.integers(6)):
            x, y = rng.uniform(0, 2 * self.width), rng.uniform(0, 0.8 * horizon)
            for _ in range(7):
                puff = (x + rng.normal(0, 0.12) * self.width, y + rng.normal(0, 0.025) * self.height)
                wide, high = self.width * rng.uniform(0.06, 0.2), self.height * rng.uniform(0.02, 0.06)
                draw.ellipse(_around(puff, wide, high), fill=int(rng.integers(90, 200)))
        self.image.paste(_mix(self.haze, WHITE, 0.4), mask=clouds.filter(ImageFilter.BoxBlur(self.height / 24)))

    def paint_ground(self) -> None:
        """Pavement, road and what is painted on it."""
        x: float
        z: float
        rng = self.rng
        left, right = self.kerbs
        slabs = self.colour((0.02, 0.15), (0, 0.2), (0.35, 0.75))
        asphalt = self.colour((0.5, 0.75), (0, 0.12), (0.22, 0.5))
        far = 2000  # as good as the horizon
        self.level(-far, far, NEAR, far, slabs, PAVEMENT)
        joint = _mix(slabs, BLACK, rng.uniform(0.12, 0.3))
        for side in (0, 1):
            inner, outer = sorted((self.kerbs[side], self.walls[side]))
            for z in np.arange(3, 30, 1.2).tolist():
                self.level(inner, outer, z, z + 0.05, joint, PAVEMENT)
            for x in np.arange(inner, outer, 1.1).tolist():
                self.level(x, x + 0.05, NEAR, 30, joint, PAVEMENT)
        self.level(left - 0.25, right + 0.25, NEAR, far, _mix(slabs, WHITE, 0.3), PAVEMENT)  # kerb stones
        self.level(left, right, NEAR, far, asphalt, ROAD)
        for _ in range(rng.integers(5)):  # repairs
            x, z = rng.uniform(left, right - 1.5), rng.uniform(4, 20)
            self.level(x, x + rng.uniform(0.5, 1.5), z, z + rng.uniform(1, 5), _mix(asphalt, BLACK, 0.25), ROAD)
        white = _mix(asphalt, WHITE, rng.uniform(0.4, 0.85))
        middle, dash = (left + right) / 2, rng.uniform(1.5, 3)
        for z in np.arange(NEAR + rng.uniform(0, dash), 60, 2 * dash).tolist():
            self.level(middle - 0.08, middle + 0.08, z, z + dash, white, ROAD)
        if rng.random() < 0.5:
            self.level(left + 0.35, left + 0.47, NEAR, 80, white, ROAD)
            self.level(right - 0.47, right - 0.35, NEAR, 80, white, ROAD)
        if rng.random() < 0.4:  # a zebra crossing
            z = rng.uniform(6, 14)
            for x in np.arange(left + 0.4, right - 0.6, 1.0).tolist():
                self.level(x, x + 0.5, z, z + 2.5, white, ROAD)

    def place_things(self) -> list[Thing]:
        """What stands on the ground, in no order."""
        rng = self.rng
        left, right = self.kerbs
        things = []
        for side, kerb, wall in ((-1, left, self.walls[0]), (1, right, self.walls[1])):
            if rng.random() < 0.75:
                z = rng.uniform(6, 14)
                while z < 50:
                    things.append(Thing(kerb + side * 0.8, z, self.paint_tree, (1.6, 2.4)))
                    z += rng.uniform(8, 22)
            if rng.random() < 0.7:  # parked
                z = rng.uniform(5, 11)
                while z < 26:
                    things.append(Thing(kerb - side * 1.15, z, self.paint_car, (1.05, 4.2)))
                    z += rng.uniform(5.5, 14)
            for _ in range(rng.integers(1, 4)):
                x = rng.uniform(min(kerb, wall) + 0.3, max(kerb, wall) - 0.3)
                # Nearer than 1.1 |x| most things are out of the picture.
                things.append(Thing(x, max(1.1 * abs(x), rng.uniform(3, 6)), self.paint_person))
            if rng.random() < 0.85:
                x = kerb + side * rng.uniform(0.2, 0.8)
                things.append(Thing(x, max(1.1 * abs(x), rng.uniform(3.5, 7)), self.paint_sign))
        room = (right - left) / 2 - 3
        if room > 0 or rng.random() < 0.3:  # on its way between the parked ones
            x = (left + right) / 2 + max(0, room) * rng.uniform(-1, 1)
            things.append(Thing(x, rng.uniform(6, 18), self.paint_car, (1.05, 4.2)))
        if rng.random() < 0.5:  # crossing the road
            things.append(Thing(rng.uniform(left + 0.5, right - 0.5), rng.uniform(3.5, 6), self.paint_person))
        return things

    def cast_shadows(self, things: Sequence[Thing]) -> None:
        """Darkens the ground under the things, and along the wall that hides the sun."""
        shadows = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(shadows)
        if self.is_sunny:
            wall = self.walls[(self.sun_side + 1) // 2]
            edge = wall - self.sun_side * self.rng.uniform(1, 7)
            corners = ((wall, NEAR), (edge, NEAR), (edge, 80), (wall, 80))
            draw.polygon([self.project(x, 0, z) for x, z in corners], fill=80)
        for thing in things:
            wide, deep = thing.shadow
            x, z = thing.x - self.sun_side * 0.3 * wide, thing.z - 0.2
            corners = ((x - wide, z), (x + wide, z), (x + wide, z + 0.2 + deep), (x - wide, z + 0.2 + deep))
            draw.polygon([self.project(x, 0, z) for x, z in corners], fill=130)
        self.image.paste((16, 18, 30), mask=shadows.filter(ImageFilter.BoxBlur(self.height / 60)))

    def paint_buildings(self) -> None:
        """A skyline at the end of the street, and a row of houses along each side."""
        rng = self.rng
        for _ in range(12):
            outline = _box(0, 0, rng.uniform(6, 14), rng.uniform(3, 22))
            self.upright(rng.uniform(-70, 70), 90, outline, self.wall_colour(), BUILDING, 0.9)
        for side, wall in ((-1, self.walls[0]), (1, self.walls[1])):
            light = 0.8 if self.is_sunny and side == self.sun_side else 1.0
            ends = [NEAR]
            while ends[-1] < 80:
                ends.append(ends[-1] + rng.uniform(6, 18))
            for near, far in reversed(list(pairwise(ends))):
                if rng.random() < 0.12:  # a garden
                    self.paint_tree(wall + side * rng.uniform(2, 5), (near + far) / 2)
                else:
                    self.paint_house(side, wall, near, far, rng.uniform(4.5, 17), light)

    def wall_colour(self) -> Colour:
        """Plaster, brick, concrete or paint."""
        kind = self.rng.random()
        if kind < 0.35:
            return self.colour((0.02, 0.14), (0.1, 0.4), (0.65, 0.95))
        if kind < 0.65:
            return self.colour((0.0, 0.07), (0.35, 0.65), (0.35, 0.65))
        if kind < 0.9:
            return self.colour((0.5, 0.75), (0, 0.15), (0.35, 0.8))
        return self.colour((0, 1), (0.2, 0.5), (0.4, 0.8))

    def paint_house(self, side: int, wall: float, near: float, far: float, top: float, light: float) -> None:
        """The face towards the camera, then the face along the street with its windows."""
        rng = self.rng

        def face(z0, z1, y0, y1, colour):
            corners = [(wall, y0, z0), (wall, y1, z0), (wall, y1, z1), (wall, y0, z1)]
            self.polygon(corners, colour, BUILDING, light)

        plaster = self.wall_colour()
        self.upright(wall, near, _box(0, 0, side * 12, top), plaster, BUILDING, 0.88)
        face(near, far, 0, top, plaster)
        if near < 25 and rng.random() < 0.5:  # courses of brick or boards
            for y in np.arange(0.3, top, rng.uniform(0.25, 0.6)).tolist():
                face(near, far, y, y + 0.06, _mix(plaster, BLACK, 0.16))
        trim = _mix(plaster, WHITE, rng.uniform(0.2, 0.6))
        face(near, far, top - 0.4, top, trim)

        glass = self.colour((0.5, 0.65), (0.1, 0.4), (0.15, 0.6))
        storey, num_bays = rng.uniform(2.7, 3.4), max(1, int((far - near) / rng.uniform(1.7, 3.2)))
        bay = (far - near) / num_bays
        high, wide = rng.uniform(1.2, 1.9), rng.uniform(0.45, 0.75) * bay
        left_sides = [near + (index + 0.5) * bay - wide / 2 for index in range(num_bays)]
        for z in left_sides:
            for y in np.arange(storey + 0.7, top - high - 0.5, storey).tolist():
                if near < 45:
                    face(z - 0.12, z + wide + 0.12, y - 0.15, y + high + 0.12, trim)
                inside = (255, 226, 150) if rng.random() < 0.15 else (20, 22, 30)
                face(z, z + wide, y, y + high, _mix(glass, inside, rng.uniform(0, 0.6)))
        if rng.random() < 0.5:  # a shop: its window and its name board
            face(near + 0.4, far - 0.4, 0.5, 2.3, _mix(glass, (255, 240, 200), rng.uniform(0, 0.5)))
            face(near + 0.4, far - 0.4, 2.4, 3.0, self.paint_colour())
        else:
            for z in left_sides:
                if rng.random() < 0.3:
                    face(z, z + wide, 0, 2.2, self.paint_colour())
                else:
                    face(z, z + wide, 0.9, 2.2, glass)

    # What stands on the ground

    def paint_tree(self, x: float, z: float) -> None:
        """A trunk and a crown of tufts, lit from the sun's side."""
        rng = self.rng
        middle, radius = rng.uniform(3.6, 5.2), rng.uniform(1.3, 2.2)
        bark = self.colour((0.05, 0.1), (0.2, 0.45), (0.2, 0.4))
        self.upright(x, z, [(-0.17, 0), (-0.12, middle), (0.12, middle), (0.17, 0)], bark, TREE)
        leaf = self.colour((0.2, 0.36) if rng.random() < 0.75 else (0.04, 0.16), (0.35, 0.7), (0.3, 0.65))
        squeeze, tuft = rng.uniform(0.8, 1.3), 0.26 * radius * self.focal_length / max(z, NEAR)
        for _ in range(max(25, min(70, int(900 / z)))):
            angle, distance = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform(0, 1))
            right, up = distance * math.cos(angle), distance * math.sin(angle)  # within the unit disc
            light = 0.85 + 0.25 * squeeze * up + 0.12 * self.sun_side * right + rng.normal(0, 0.1)
            box = _around(self.project(x + radius * right, middle + radius * squeeze * up, z), tuft, 0.8 * tuft)
            self.draw.ellipse(box, fill=self.seen(leaf, z, light))
            self.draw_mask.ellipse(box, fill=TREE)

    def paint_car(self, x: float, z: float) -> None:
        """A car or a van along the street: its flank, its top, then the end that faces the camera."""
        rng = self.rng
        colour, glass, tyre = self.paint_colour(), self.colour((0.5, 0.65), (0.1, 0.4), (0.1, 0.45)), (22, 22, 24)
        half, end, is_van = rng.uniform(0.82, 0.95), z + rng.uniform(3.7, 4.6), rng.random() < 0.25
        # The cabin: its near and far end at the belt line and at the roof, and half the width of the roof.
        if is_van:
            belt, roof, slim = 1.1, rng.uniform(1.9, 2.3), half - 0.08
            start, stop, roof_start, roof_stop = z, end - 0.9, z + 0.1, end - 1.3
        else:
            belt, roof, slim = rng.uniform(0.8, 0.95), rng.uniform(1.38, 1.55), half - 0.2
            start, stop = z + rng.uniform(0.2, 0.7), end - 1.1
            roof_start, roof_stop = start + 0.55, stop - 0.7

        flank, eave = x - math.copysign(half, x), x - math.copysign(slim, x)  # on the side of the camera's axis
        self.polygon([(flank, 0.28, z), (flank, belt, z), (flank, belt, end), (flank, 0.28, end)], colour, CAR, 0.8)
        for axle in (z + 0.75, end - 0.75):
            self.polygon([(flank, up, axle + along) for along, up in _disc(0, 0.31, 0.31)], tyre, CAR)
        self.level(x - half, x + half, z, end, colour, CAR, y=belt, light=1.12)
        corners = [(flank, belt, start), (eave, roof, roof_start), (eave, roof, roof_stop), (flank, belt, stop)]
        self.polygon(corners, colour if is_van else glass, CAR, 0.85)
        self.level(x - slim, x + slim, roof_start, roof_stop, colour, CAR, y=roof, light=1.1)
        for inset, frame in ((0, colour), (0.08, glass)):
            low, high = half - inset, slim - inset
            corners = [(x - low, belt + inset, start), (x - high, roof - inset, roof_start)]
            corners += [(x + high, roof - inset, roof_start), (x + low, belt + inset, start)]
            self.polygon(corners, frame, CAR)

        for right in (-half + 0.1, half - 0.28):
            self.upright(x, z, _box(right, 0, 0.18, 0.4), tyre, CAR)
        self.upright(x, z, _box(-half, 0.26, 2 * half, belt - 0.26), colour, CAR, 0.95)
        self.upright(x, z, _box(-half, 0.26, 2 * half, 0.16), (40, 40, 44), CAR)
        lamp = (196, 24, 22) if rng.random() < 0.6 else (250, 246, 220)  # from behind or from the front
        for right in (-half + 0.05, half - 0.35):
            self.upright(x, z, _box(right, belt - 0.3, 0.3, 0.18), lamp, CAR)
        self.upright(x, z, _box(-0.26, 0.45, 0.52, 0.14), (226, 226, 216), CAR)

    def paint_person(self, x: float, z: float) -> None:
        """A person who walks."""
        rng = self.rng
        size, swing, hem = rng.uniform(0.92, 1.1), rng.uniform(0, 0.22), (0.85, 0.85, 0.55)[rng.integers(3)]
        shirt, trousers = self.paint_colour(), self.colour((0.5, 0.75), (0, 0.5), (0.1, 0.5))
        hair = self.colour((0.03, 0.12), (0.1, 0.6), (0.08, 0.6))
        skin = self.colour((0.04, 0.09), (0.25, 0.6), (0.35, 0.95))
        parts = [
            ([(-0.02, 1.0), (-0.22, 1.0), (-0.2 - swing, 0), (-swing, 0)], trousers, 0.85),
            ([(0.02, 1.0), (0.22, 1.0), (0.2 + swing, 0), (swing, 0)], trousers, 1.0),
            ([(-0.2, 1.44), (-0.34, 1.36), (-0.38 - swing / 2, 0.78), (-0.2 - swing / 2, 0.78)], shirt, 0.75),
            ([(0.2, 1.44), (0.34, 1.36), (0.38 + swing / 2, 0.78), (0.2 + swing / 2, 0.78)], shirt, 0.85),
            ([(-0.26, hem), (-0.28, 1.4), (-0.1, 1.52), (0.1, 1.52), (0.28, 1.4), (0.26, hem)], shirt, 1.0),
            (_disc(0, 1.66, 0.17), hair, 1.0),
            (_disc(0, 1.62, 0.13), skin, 1.0),
        ]
        for outline, colour, light in parts:
            self.upright(x, z, [(size * right, size * up) for right, up in outline], colour, PERSON, light)

    def paint_sign(self, x: float, z: float) -> None:
        """A traffic sign on its pole."""
        rng = self.rng
        radius, up, light = rng.uniform(0.6, 0.8), rng.uniform(2.2, 2.8), rng.uniform(0.7, 1.05)
        shapes = [(16, 0), (3, math.pi / 2), (3, -math.pi / 2), (4, math.pi / 4), (8, math.pi / 8)]
        num_corners, turn = shapes[rng.integers(5)]
        rim, plate = [
            ((200, 28, 36), (240, 240, 236)),
            ((240, 240, 236), (200, 28, 36)),
            ((236, 236, 236), (26, 72, 168)),
            ((30, 30, 30), (246, 196, 40)),
        ][rng.integers(4)]
        self.upright(x, z, _box(-0.05, 0, 0.1, up), (128, 130, 134), UNLABELLED)
        self.upright(x, z, _disc(0, up, radius, num_corners, turn), rim, SIGN, light)
        self.upright(x, z, _disc(0, up, 0.76 * radius, num_corners, turn), plate, SIGN, light)
        wide, high = ((0.9, 0.22), (0.2, 0.7))[rng.integers(2)]
        bar = _box(-wide / 2 * radius, up - high / 2 * radius, wide * radius, high * radius)
        self.upright(x, z, bar, _mix(rim, BLACK, 0.3), SIGN, light)

    def develop(self) -> tuple[Image.Image, np.ndarray]:
        """The picture, with texture, light and noise, at its own size; and the mask."""
        rng = self.rng
        size = (self.width, self.height)
        mask = np.array(self.mask.resize(size, Image.Resampling.NEAREST))
        picture = np.asarray(self.image.reduce(2), dtype=np.float32)  # (H, W, 3)

        coarse = Image.fromarray(rng.standard_normal((self.height // 6 + 1, self.width // 6 + 1), dtype=np.float32))
        coarse = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))
        fine = rng.standard_normal((self.height, self.width), dtype=np.float32)
        strength = TEXTURE[mask]  # (H, W, 2)
        picture = picture + (strength[..., 0] * coarse + strength[..., 1] * fine)[..., None]

        contrast = rng.uniform(0.9, 1.2)
        tint = (contrast * self.exposure * (1 + rng.normal(0, 0.04, 3))).astype(np.float32)
        picture = picture * tint + np.float32(128 * (1 - contrast))
        picture += rng.uniform(1, 3.5) * rng.standard_normal(picture.shape, dtype=np.float32)
        image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
        if rng.random() < 0.2:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9)))
        return image, mask


def _rgb(hue, saturation, value):
    """The colour as three numbers up to 255."""
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, min(1, value)))


def _mix(colour, other, share):
    """The colour with a share of another."""
    return tuple(round(a + share * (b - a)) for a, b in zip(colour, other, strict=True))


def _around(centre, half_width, half_height):
    """The box around a point, as PIL draws ellipses into."""
    x, y = centre
    return x - half_width, y - half_height, x + half_width, y + half_height


def _box(right, up, wide, high):
    """Corners of an upright rectangle, from its lower left."""
    return [(right, up), (right, up + high), (right + wide, up + high), (right + wide, up)]


def _disc(right, up, radius, num_corners=14, turn=0.0):
    """Corners of a regular polygon."""
    angles = [turn + 2 * math.pi * corner / num_corners for corner in range(num_corners)]
    return [(right + radius * math.cos(angle), up + radius * math.sin(angle)) for angle in angles]
