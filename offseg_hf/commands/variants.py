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

Counted are all convolutions and matrix products, those of attention included. Element-wise work is not counted:
normalisation, activation, softmax, upsampling by interpolation, sampling, and weighted sums that are not matrix
products.
"""


def build_parser() -> CommandParser:
    """The parser of `offseg variants`."""
    parser = CommandParser("variants", __doc__)
    parser.add_argument("variants", nargs="*", help="Variants to list; all by default.")
    parser.add_argument("--output", type=Path, help="Markdown file to write too, with an explanation.")
    parser.add_argument("--overwrite", action="store_true", help="Replace that file where there is one.")
    return parser


@exit_code
def main(argv: list[str] | None = None) -> None:
    """Runs `offseg variants`; arguments and exit codes are those of `offseg_hf.commands.main`."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.output is not None and args.output.exists() and not args.overwrite:
        parser.error(f"`--output` must be a new file, but {args.output} is there; pass `--overwrite` to replace it.")

    from offseg_hf.files import check_output, write_text
    from offseg_hf.markdown import markdown_table
    from offseg_hf.variants import VARIANTS

    with parser.mistakes():
        if args.output is not None:
            check_output(args.output)
        rows = [table_row(name) for name in args.variants or VARIANTS]
    table = markdown_table(COLUMNS, rows, align="l" + "r" * (len(COLUMNS) - 2) + "l")
    print(table)
    if args.output is not None:
        write_text(args.output, f"# Variants\n\n{table}\n\n{EXPLANATION}")


def table_row(name: str) -> tuple:
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
