"""Prints the table of variants: parameters, multiply-adds, and the paper's figures.

    offseg variants offseg-t offseg-b0 segformer-b0
    offseg variants --output results/variants.md

Without names, all are listed; counting the multiply-adds takes a minute.
"""

from pathlib import Path

from offseg_hf.commands.parser import CommandParser, exit_code

COLUMNS = (
    "variant",
    "parameters",
    "multiply-adds, 512×512",
    "the paper's GFLOPs",
    "multiply-adds, 1024×2048",
    "ADE20K",
    "Cityscapes",
    "COCO-Stuff",
    "Pascal Context",
    "architecture",
)
EXPLANATION = """\
Parameters and the multiply-adds at 512×512 pixels, in 10⁹, are those for 150 classes; the multiply-adds at 1024×2048
those for the 19 of Cityscapes, where the paper has a result on it. mIoU in percent, single scale, and GFLOPs are the
paper's (arXiv 2508.08811); `segformer-b*` are transformers' own SegFormer, to compare with. This table is printed by
`offseg variants`.

Counted are convolutions and matrix products, those of attention included. Element-wise work is not counted:
normalisation, activation, softmax, resizing, sampling, and FreqFusion's sums over a neighbourhood with weights of its
own for each pixel. Tools differ in this by a few tenths, so the paper's figures for the larger SegFormers, without
offset learning, are 0.2 to 0.4 above ours.

Where else the counts differ from the paper's:

- **SegFormer and SegNeXt with offset learning compute less here than as they are written.** A 1×1 convolution over
  upsampled and concatenated stages is applied to each stage before it is upsampled, which saves 2.87 for SegFormer and
  0.38, 0.75, 1.51 for SegNeXt T, S, B. The product (E + ΔE)(W + ΔW)ᵀ of offset learning is not computed as written
  either, which saves 0.33 with 256 channels and 1.30 with 512. With these added the counts are 8.7, 16.2, 26.0, 42.6,
  59.2, 75.1 for B0–B5 and 7.2, 16.4, 34.8 for T, S, B: the paper's, less at most 0.4. Outputs are the same.
- **OffSeg-T, B, L compute more here than the paper says**, since its figures are those of the convolutions alone. Of
  our counts, convolutions are 5.29, 10.22 and 17.02; the rest are matrix products: those of the encoder's attention,
  in which maps are upsampled by them too (0.55, 0.94, 1.33), and those of offset learning (2.28, at a quarter of the
  image's resolution).
- **Mask2Former**: the paper has no figure. Of ours, 10.2 are offset learning's, ten times: for the queries at the
  start, and after each of the nine decoder layers.
"""


def build_parser():
    parser = CommandParser("variants", __doc__)
    parser.add_argument("variants", nargs="*", help="Variants to list; all by default.")
    parser.add_argument("--output", type=Path, help="Markdown file to write too, with an explanation.")
    parser.add_argument("--overwrite", action="store_true", help="Replace that file where there is one.")
    return parser


@exit_code
def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.output is not None and args.output.exists() and not args.overwrite:
        parser.error(f"`--output` must be a new file, but {args.output} is there; pass `--overwrite` to replace it.")

    from offseg_hf.files import write_text
    from offseg_hf.markdown import markdown_table
    from offseg_hf.variants import VARIANTS

    with parser.mistakes():
        rows = [table_row(name) for name in args.variants or VARIANTS]
    table = markdown_table(COLUMNS, rows, align="l" + "r" * (len(COLUMNS) - 2))
    print(table)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.output, f"# Variants\n\n{table}\n\n{EXPLANATION}")


def table_row(name):
    """The cells of one variant's row."""
    from offseg_hf.complexity import count_multiply_adds, count_parameters
    from offseg_hf.variants import VARIANTS, variant_config

    config = variant_config(name, num_labels=150)
    variant = VARIANTS[name]
    large = ""
    if variant.cityscapes is not None:
        large = f"{count_multiply_adds(variant_config(name, num_labels=19), 1024, 2048) / 1e9:.1f}"
    figures = (variant.ade20k, variant.cityscapes, variant.coco_stuff, variant.pascal_context)
    return (
        name,
        f"{count_parameters(config):,}",
        f"{count_multiply_adds(config, 512, 512) / 1e9:.1f}",
        variant.gflops,
        large,
        *figures,
        variant.source,
    )
