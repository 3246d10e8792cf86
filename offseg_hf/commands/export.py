"""Exports a model to ONNX, for ONNX Runtime and for the browser, and compares it with torch.

    offseg export --model outputs/camvid --output outputs/onnx --int8 --calibration_images photos
    offseg export --model org/offseg-b0 --output outputs/b0-labels --task label_map --fp16

The folder holds onnx/model.onnx (float32), onnx/model_quantized.onnx (--int8), onnx/model_fp16.onnx (--fp16) and the
configurations that transformers.js reads.
"""

from offseg_hf.commands.parser import CommandParser, exit_code


def build_parser() -> CommandParser:
    """The parser of `offseg export`."""
    parser = CommandParser("export", __doc__, names={"model_name_or_path": "model"})
    parser.add_argument("--model", required=True, help="Folder or Hub id of the model and its image processor.")
    parser.add_argument("--output", required=True, help="Folder to write, new or empty.")
    parser.add_argument("--task", default="logits", help="Output: logits, or label_map at the input's size.")
    parser.add_argument("--size", type=int, nargs=2, help="Height and width, for models that need one size.")
    parser.add_argument("--int8", action="store_true", help="Add a file that computes in 8 bits.")
    parser.add_argument("--fp16", action="store_true", help="Add a file in float16.")
    parser.add_argument("--calibration_images", help="Folder of photos like those to come, for --int8; 32 will do.")
    parser.add_argument("--trust_remote_code", action="store_true", help="Run model code that comes with the weights.")
    return parser


@exit_code
def main(argv: list[str] | None = None) -> None:
    """Runs `offseg export`; arguments and exit codes are those of `offseg_hf.commands.main`."""
    parser = build_parser()
    args = parser.parse_args(argv)

    from offseg_hf.export.onnx import export_onnx

    with parser.mistakes():
        report = export_onnx(
            args.model,
            args.output,
            args.task,
            size=args.size and tuple(args.size),
            int8=args.int8,
            fp16=args.fp16,
            calibration_images=args.calibration_images,
            trust_remote_code=args.trust_remote_code,
        )
    for file, figures in report.items():
        if "agree" in figures:
            comparison = f"classes agree with float32 on {figures['agree']:.2%} of the pixels"
        else:
            comparison = f"differs from torch by at most {figures['largest_difference']:.1e}"
        print(f"{args.output}/{file}: {figures['megabytes']:.1f} MB, {comparison}")
