"""Converts a checkpoint of the authors' models (mmsegmentation) into a folder that `from_pretrained` loads.

    python scripts/convert_checkpoint.py --checkpoint segformer_b0_ade20k.pth --output outputs/offseg-b0-ade20k
    python scripts/convert_checkpoint.py --checkpoint iter_160000.pth --output outputs/b2 --variant offseg-b2

Variant and number of classes are those that the file's entries have.
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

    model = convert_checkpoint(args.checkpoint, args.output, args.variant, overwrite=args.overwrite)
    num_labels, num_parameters = model.config.num_labels, model.num_parameters()
    print(f"{args.output}: depths {model.config.depths}, {num_labels} classes, {num_parameters:,} parameters")


if __name__ == "__main__":
    main()
