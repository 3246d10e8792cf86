"""Tables of the benchmarks, entry by entry, against their official definitions as they are written there."""

import numpy as np
import pytest

from offseg_hf.data.presets import PRESETS, class_palette, find_preset
from offseg_hf.pictures.palettes import default_palette

# objectInfo150.txt: Idx and the first name, in lines of ten.
ADE20K = """
1 wall|2 building|3 sky|4 floor|5 tree|6 ceiling|7 road|8 bed|9 windowpane|10 grass
11 cabinet|12 sidewalk|13 person|14 earth|15 door|16 table|17 mountain|18 plant|19 curtain|20 chair
21 car|22 water|23 painting|24 sofa|25 shelf|26 house|27 sea|28 mirror|29 rug|30 field
31 armchair|32 seat|33 fence|34 desk|35 rock|36 wardrobe|37 lamp|38 bathtub|39 railing|40 cushion
41 base|42 box|43 column|44 signboard|45 chest of drawers|46 counter|47 sand|48 sink|49 skyscraper|50 fireplace
51 refrigerator|52 grandstand|53 path|54 stairs|55 runway|56 case|57 pool table|58 pillow|59 screen door|60 stairway
61 river|62 bridge|63 bookcase|64 blind|65 coffee table|66 toilet|67 flower|68 book|69 hill|70 bench
71 countertop|72 stove|73 palm|74 kitchen island|75 computer|76 swivel chair|77 boat|78 bar|79 arcade machine|80 hovel
81 bus|82 towel|83 light|84 truck|85 tower|86 chandelier|87 awning|88 streetlight|89 booth|90 television
91 airplane|92 dirt track|93 apparel|94 pole|95 land|96 bannister|97 escalator|98 ottoman|99 bottle|100 buffet
101 poster|102 stage|103 van|104 ship|105 fountain|106 conveyer belt|107 canopy|108 washer|109 plaything
110 swimming pool|111 stool|112 barrel|113 basket|114 waterfall|115 tent|116 bag|117 minibike|118 cradle|119 oven
120 ball|121 food|122 step|123 tank|124 trade name|125 microwave|126 pot|127 animal|128 bicycle|129 lake
130 dishwasher|131 screen|132 blanket|133 sculpture|134 hood|135 sconce|136 vase|137 traffic light|138 tray|139 ashcan
140 fan|141 pier|142 crt screen|143 plate|144 monitor|145 bulletin board|146 shower|147 radiator|148 glass|149 clock
150 flag
"""

# labels.py of cityscapesScripts: name, id, trainId and colour.
CITYSCAPES = [
    ("unlabeled", 0, 255, (0, 0, 0)),
    ("ego vehicle", 1, 255, (0, 0, 0)),
    ("rectification border", 2, 255, (0, 0, 0)),
    ("out of roi", 3, 255, (0, 0, 0)),
    ("static", 4, 255, (0, 0, 0)),
    ("dynamic", 5, 255, (111, 74, 0)),
    ("ground", 6, 255, (81, 0, 81)),
    ("road", 7, 0, (128, 64, 128)),
    ("sidewalk", 8, 1, (244, 35, 232)),
    ("parking", 9, 255, (250, 170, 160)),
    ("rail track", 10, 255, (230, 150, 140)),
    ("building", 11, 2, (70, 70, 70)),
    ("wall", 12, 3, (102, 102, 156)),
    ("fence", 13, 4, (190, 153, 153)),
    ("guard rail", 14, 255, (180, 165, 180)),
    ("bridge", 15, 255, (150, 100, 100)),
    ("tunnel", 16, 255, (150, 120, 90)),
    ("pole", 17, 5, (153, 153, 153)),
    ("polegroup", 18, 255, (153, 153, 153)),
    ("traffic light", 19, 6, (250, 170, 30)),
    ("traffic sign", 20, 7, (220, 220, 0)),
    ("vegetation", 21, 8, (107, 142, 35)),
    ("terrain", 22, 9, (152, 251, 152)),
    ("sky", 23, 10, (70, 130, 180)),
    ("person", 24, 11, (220, 20, 60)),
    ("rider", 25, 12, (255, 0, 0)),
    ("car", 26, 13, (0, 0, 142)),
    ("truck", 27, 14, (0, 0, 70)),
    ("bus", 28, 15, (0, 60, 100)),
    ("caravan", 29, 255, (0, 0, 90)),
    ("trailer", 30, 255, (0, 0, 110)),
    ("train", 31, 16, (0, 80, 100)),
    ("motorcycle", 32, 17, (0, 0, 230)),
    ("bicycle", 33, 18, (119, 11, 32)),
    ("license plate", -1, 255, (0, 0, 142)),
]

# labels.txt of COCO-Stuff, all of it; pixel maps store these numbers minus 1.
COCO_STUFF = """
0 unlabeled|1 person|2 bicycle|3 car|4 motorcycle|5 airplane|6 bus|7 train|8 truck|9 boat|10 traffic light
11 fire hydrant|12 street sign|13 stop sign|14 parking meter|15 bench|16 bird|17 cat|18 dog|19 horse|20 sheep
21 cow|22 elephant|23 bear|24 zebra|25 giraffe|26 hat|27 backpack|28 umbrella|29 shoe|30 eye glasses
31 handbag|32 tie|33 suitcase|34 frisbee|35 skis|36 snowboard|37 sports ball|38 kite|39 baseball bat|40 baseball glove
41 skateboard|42 surfboard|43 tennis racket|44 bottle|45 plate|46 wine glass|47 cup|48 fork|49 knife|50 spoon
51 bowl|52 banana|53 apple|54 sandwich|55 orange|56 broccoli|57 carrot|58 hot dog|59 pizza|60 donut
61 cake|62 chair|63 couch|64 potted plant|65 bed|66 mirror|67 dining table|68 window|69 desk|70 toilet
71 door|72 tv|73 laptop|74 mouse|75 remote|76 keyboard|77 cell phone|78 microwave|79 oven|80 toaster
81 sink|82 refrigerator|83 blender|84 book|85 clock|86 vase|87 scissors|88 teddy bear|89 hair drier|90 toothbrush
91 hair brush|92 banner|93 blanket|94 branch|95 bridge|96 building-other|97 bush|98 cabinet|99 cage|100 cardboard
101 carpet|102 ceiling-other|103 ceiling-tile|104 cloth|105 clothes|106 clouds|107 counter|108 cupboard|109 curtain
110 desk-stuff|111 dirt|112 door-stuff|113 fence|114 floor-marble|115 floor-other|116 floor-stone|117 floor-tile
118 floor-wood|119 flower|120 fog|121 food-other|122 fruit|123 furniture-other|124 grass|125 gravel|126 ground-other
127 hill|128 house|129 leaves|130 light|131 mat|132 metal|133 mirror-stuff|134 moss|135 mountain|136 mud|137 napkin
138 net|139 paper|140 pavement|141 pillow|142 plant-other|143 plastic|144 platform|145 playingfield|146 railing
147 railroad|148 river|149 road|150 rock|151 roof|152 rug|153 salad|154 sand|155 sea|156 shelf|157 sky-other
158 skyscraper|159 snow|160 solid-other|161 stairs|162 stone|163 straw|164 structural-other|165 table|166 tent
167 textile-other|168 towel|169 tree|170 vegetable|171 wall-brick|172 wall-concrete|173 wall-other|174 wall-panel
175 wall-stone|176 wall-tile|177 wall-wood|178 water-other|179 waterdrops|180 window-blind|181 window-other|182 wood
"""
COCO_STUFF_REMOVED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # "Removed from COCO", labels.md

# Ids of the 59 classes among the 459 of the full annotation, which order them.
PASCAL_CONTEXT = """
2 aeroplane|9 bag|18 bed|19 bedclothes|22 bench|23 bicycle|25 bird|31 boat|33 book|34 bottle|44 building|45 bus
46 cabinet|59 car|65 cat|68 ceiling|72 chair|80 cloth|85 computer|98 cow|104 cup|105 curtain|113 dog|115 door|144 fence
158 floor|159 flower|162 food|187 grass|189 ground|207 horse|220 keyboard|232 light|258 motorbike|259 mountain
260 mouse|284 person|295 plate|296 platform|308 pottedplant|324 road|326 rock|347 sheep|349 shelves|354 sidewalk
355 sign|360 sky|366 snow|397 sofa|415 table|416 track|420 train|424 tree|427 truck|440 tvmonitor|445 wall|454 water
458 window|459 wood
"""


def entries(text):
    pairs = [entry.split(" ", 1) for line in text.split("\n") for entry in line.split("|") if entry]
    return [(int(number), name) for number, name in pairs]


def encoding(name, kind):
    (found,) = [encoding for encoding in PRESETS[name].encodings if encoding.name == kind]
    return found


def test_classes_of_ade20k_are_the_official_ones():
    official = dict(entries(ADE20K))
    official[90] = "television receiver"  # as published checkpoints have it; another of its official names
    assert list(official) == list(range(1, 151))
    assert {class_id + 1: name for class_id, name in PRESETS["ade20k"].id2label.items()} == official
    assert encoding("ade20k", "class ids from 1").class_ids == {0: 255, **{i + 1: i for i in range(150)}}


def test_classes_ids_and_colours_of_cityscapes_are_the_official_ones():
    preset = PRESETS["cityscapes"]
    evaluated = sorted((class_id, name, colour) for name, _, class_id, colour in CITYSCAPES if class_id != 255)
    assert [(class_id, name) for class_id, name, _ in evaluated] == list(preset.id2label.items())
    assert [colour for _, _, colour in evaluated] == [tuple(colour) for colour in preset.palette.tolist()]
    assert encoding("cityscapes", "labelIds").class_ids == {stored: class_id for _, stored, class_id, _ in CITYSCAPES}
    assert encoding("cityscapes", "labelIds").tolerated == {255: 255}
    assert encoding("cityscapes", "trainIds").class_ids == {**{i: i for i in range(19)}, 255: 255}


def test_classes_and_ids_of_coco_stuff_are_the_official_ones():
    official = [entry for entry in entries(COCO_STUFF) if entry[0] not in (0, *COCO_STUFF_REMOVED)]
    assert [number for number, _ in entries(COCO_STUFF)] == list(range(183)) and len(official) == 171
    assert [name for _, name in official] == list(PRESETS["coco_stuff"].class_names)
    pixel_maps = {number - 1: class_id for class_id, (number, _) in enumerate(official)}
    assert encoding("coco_stuff", "pixel-map ids").class_ids == {**pixel_maps, 255: 255}
    assert encoding("coco_stuff", "trainIds").class_ids == {**{i: i for i in range(171)}, 255: 255}


@pytest.mark.parametrize(
    ("stored", "name"),
    [(0, "person"), (10, "fire hydrant"), (12, "stop sign"), (91, "banner"), (156, "sky-other"), (181, "wood")],
)
def test_pixel_maps_of_coco_stuff_mean_what_labels_txt_says_of_the_next_number(stored, name):
    class_id = encoding("coco_stuff", "pixel-map ids").class_ids[stored]
    assert PRESETS["coco_stuff"].class_names[class_id] == name


def test_classes_of_pascal_context_are_in_the_order_of_their_ids_in_the_full_annotation():
    official = entries(PASCAL_CONTEXT)
    assert len(official) == 59 and official == sorted(official)
    assert [name for _, name in official] == list(PRESETS["pascal_context"].class_names)
    assert encoding("pascal_context", "class ids from 1").class_ids == {0: 255, **{i + 1: i for i in range(59)}}


@pytest.mark.parametrize(
    ("name", "class_name", "colour"),
    [
        ("ade20k", "wall", (120, 120, 120)),
        ("ade20k", "building", (180, 120, 120)),
        ("ade20k", "sky", (6, 230, 230)),
        ("ade20k", "person", (150, 5, 61)),
        ("ade20k", "car", (0, 102, 200)),
        ("ade20k", "river", (11, 200, 200)),
        ("ade20k", "tank", (0, 255, 235)),
        ("ade20k", "clock", (102, 255, 0)),
        ("ade20k", "flag", (92, 0, 255)),
        ("coco_stuff", "person", (0, 192, 64)),
        ("coco_stuff", "car", (0, 64, 96)),
        ("coco_stuff", "umbrella", (0, 160, 0)),
        ("coco_stuff", "banner", (0, 192, 0)),
        ("coco_stuff", "grass", (0, 32, 128)),
        ("coco_stuff", "wood", (64, 64, 0)),
        ("pascal_context", "aeroplane", (180, 120, 120)),
        ("pascal_context", "sky", (0, 163, 255)),
        ("pascal_context", "wood", (31, 0, 255)),
    ],
)
def test_colours_are_the_published_ones(name, class_name, colour):
    preset = PRESETS[name]
    assert tuple(preset.palette[preset.class_names.index(class_name)].tolist()) == colour


@pytest.mark.parametrize(
    ("name", "num_classes", "num_colours", "reduce_labels", "crop_size", "resize", "eval_size"),
    [
        ("ade20k", 150, 149, True, (512, 512), (2048, 512), (2048, 512)),  # road and skyscraper share one
        ("cityscapes", 19, 19, False, (1024, 1024), (2048, 1024), (2048, 1024)),
        ("coco_stuff", 171, 162, False, (512, 512), (2048, 512), (2048, 512)),
        ("pascal_context", 59, 58, True, (480, 480), (520, 520), (520, 520)),
    ],
)
def test_sizes_are_those_of_the_recipes(name, num_classes, num_colours, reduce_labels, crop_size, resize, eval_size):
    preset = PRESETS[name]
    assert len(preset.class_names) == len(set(preset.class_names)) == num_classes
    assert preset.palette.dtype == np.uint8 and preset.palette.shape == (num_classes, 3)
    assert len(np.unique(preset.palette, axis=0)) == num_colours
    assert (preset.reduce_labels, preset.crop_size, preset.resize, preset.eval_size) == (
        reduce_labels, crop_size, resize, eval_size,
    )  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_every_encoding_reaches_every_class_and_nothing_else(name):
    preset = PRESETS[name]
    for found in preset.encodings:
        reached = set(found.class_ids.values()) - {255}
        assert reached == set(range(len(preset.class_names)))


def test_preset_is_found_by_its_name_alone():
    assert find_preset("ade20k") is find_preset(["ade20k"]) is PRESETS["ade20k"]
    assert find_preset("org/ade20k") is find_preset(["ade20k", "cityscapes"]) is None


def test_palette_is_found_by_the_names_of_the_classes():
    preset = PRESETS["cityscapes"]
    assert class_palette(dict(preset.id2label)) is preset.palette
    np.testing.assert_array_equal(class_palette({**preset.id2label, 0: "street"}), default_palette(19))


def test_encoding_is_shown_by_the_runs_of_its_ids():
    assert str(encoding("cityscapes", "trainIds")) == "trainIds (0…18, 255)"
