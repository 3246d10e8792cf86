"""The Space's second tab: what offset learning does for one photo, as HTML."""

import html

from package_copies import default_palette, overlay
from pictures import HEAT, data_uri, heat_map, percent

MAX_BARS = 12
LABEL_MAPS = {
    "both": "Both offsets: (E\u00a0+\u00a0ΔE)(W\u00a0+\u00a0ΔW)ᵀ",
    "class": "Class offset only: E\u00a0(W\u00a0+\u00a0ΔW)ᵀ",
    "feature": "Feature offset only: (E\u00a0+\u00a0ΔE)\u00a0Wᵀ",
    "none": "No offset: E\u00a0Wᵀ",
}


def comparison_page(photo, offsets, label_maps, classes):
    """The label maps with both offsets, either one and none, and how far pixels and classes moved.

    Args:
        photo (`PIL.Image.Image`): in RGB, in the size that pictures are shown in.
        offsets ([`~offsets.Offsets`]): of this photo, on the CPU.
        label_maps (`dict[str, np.ndarray]`): class ids of shape (height, width), the size of `photo`, for each key of
            `LABEL_MAPS`.
        classes (`list[str]`): the names of the K classes.

    Returns:
        `str`: HTML.
    """
    colours = default_palette(max(2, len(classes)))
    differing = {
        key: percent((ids != label_maps["both"]).mean()) + " of pixels differ" for key, ids in label_maps.items()
    }
    differing["both"] = "the model's answer"
    maps = "".join(
        _figure(overlay(photo, label_maps[key], colours, 0.7), f"<b>{title}</b><br>{differing[key]}")
        for key, title in LABEL_MAPS.items()
    )
    shift = offsets.feature_shift.numpy()
    pixels = _figure(
        heat_map(shift, photo),
        "How far the features of each pixel moved: <b>‖ΔE‖\u00a0/\u00a0‖E‖</b>",
        (f"{shift.min():.2g}", f"{shift.max():.2g}"),
    )
    longest = max(offsets.class_shift.max().item(), 1e-12)
    bars = []
    for index in offsets.class_shift.argsort(descending=True)[:MAX_BARS].tolist():
        moved, colour = offsets.class_shift[index].item(), tuple(colours[index].tolist())
        bar = f"<i style='width: {100 * moved / longest:.1f}%; background: rgb{colour}'></i>"
        bars.append(f"<span>{html.escape(classes[index])}</span>{bar}<span>{moved:.2f}</span>")
    note = f", for the {MAX_BARS} that moved most" if len(classes) > MAX_BARS else ""
    return f"""
<h3>The same features, classified with both offsets, with either one and with none</h3>
<div class="grid">{maps}</div>
<h3>How far pixels and classes moved</h3>
<div class="grid moved">{pixels}<figure><div class="bars">{"".join(bars)}</div>
<figcaption>How far the representation of each class moved{note}:
<b>‖ΔW‖\u00a0/\u00a0‖W‖</b></figcaption></figure></div>"""


def attention_page(photo, offsets, classes, chosen):
    """The attention between the pixels and one class, over the pixels and over the classes.

    Args:
        photo (`PIL.Image.Image`): in RGB, in the size that pictures are shown in.
        offsets ([`~offsets.Offsets`]): of this photo, on the CPU.
        classes (`list[str]`): the names of the K classes.
        chosen (`str`): the name of the class.

    Returns:
        `str`: HTML.
    """
    index, name = classes.index(chosen), html.escape(chosen)
    over_pixels, over_classes = offsets.over_pixels[index].numpy(), offsets.over_classes[index].numpy()
    low, high = over_pixels.min() * over_pixels.size, over_pixels.max() * over_pixels.size
    attended_pixels = _figure(
        heat_map(over_pixels, photo),
        f"Pixels towards which <b>{name}</b> is moved (softmax over the pixels; 1× is the average of all pixels)",
        (f"{low:.2g}×", f"{high:.2g}×"),
    )
    attending_pixels = _figure(
        heat_map(over_classes, photo),
        f"Pixels that are moved towards <b>{name}</b> (softmax over the classes)",
        (percent(over_classes.min()), percent(over_classes.max())),
    )
    return f"<div class='grid'>{attended_pixels}{attending_pixels}</div>"


def _figure(picture, caption, scale=None):
    """A picture with a caption; `scale` holds the lowest and highest value of a heat map, as text."""
    legend = ""
    if scale:
        stops = ", ".join(f"rgb{tuple(colour)}" for colour in HEAT.tolist())
        bar = f"<i style='background: linear-gradient(to right, {stops})'></i>"
        legend = f"<div class='scale'><span>{scale[0]}</span>{bar}<span>{scale[1]}</span></div>"
    return f"<figure><img src='{data_uri(picture, 'jpeg')}' alt=''>{legend}<figcaption>{caption}</figcaption></figure>"
