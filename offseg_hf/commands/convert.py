"""Converts a checkpoint of another library into a folder that `from_pretrained` loads.

    python scripts/convert_checkpoint.py --checkpoint segformer_b0_ade20k.pth --output outputs/offseg-b0-ade20k
    python scripts/convert_checkpoint.py --checkpoint mscan_t.pth --output outputs/mscan-t --variant offseg-segnext-t

Read are the authors' models (mmsegmentation) on SegFormer, SegNeXt and EfficientFormerV2, and encoders alone that were
trained on ImageNet: MSCAN as mmsegmentation publishes it, EfficientFormerV2 as timm does. Which variant it is, and its
number of classes, are found in the file.
"""

import argparse


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="File to convert: .pth or .safetensors.")
    parser.add_argument("--output", required=True, help="Folder to write.")
    parser.add_argument("--variant", help="What the checkpoint must be, such as offseg-b0; found out by default.")
    parser.add_argument("--overwrite", action="store_true", help="Write into a folder that is not empty.")
    args = parser.parse_args(argv)

    from offseg_hf.conversion import convert_checkpoint

    try:
        model = convert_checkpoint(args.checkpoint, args.output, args.variant, overwrite=args.overwrite)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    classes = f"{model.config.num_labels} classes, " if hasattr(model, "decode_head") else ""
    print(f"{args.output}: {type(model).__name__}, {classes}{model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
