"""Publishes a model on the Hugging Face Hub, with its code and a model card, in one commit.

    offseg publish --model outputs/camvid --repo org/offseg-b0-camvid --dry_run
    offseg publish --model outputs/camvid --repo org/offseg-b0-camvid --license cc-by-4.0 --private

Anybody who may see the repository then loads the model with `trust_remote_code=True`, without this package. --dry_run
shows the files and the card and sends nothing. The token is that of HF_TOKEN or of `hf auth login`.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from offseg_hf.commands.parser import CommandParser, exit_code


def build_parser() -> CommandParser:
    """The parser of `offseg publish`."""
    parser = CommandParser("publish", __doc__)
    parser.add_argument("--model", required=True, help="Folder of the model and its image processor.")
    parser.add_argument("--repo", required=True, help="Repository, NAMESPACE/NAME; made if it does not exist.")
    parser.add_argument("--private", action="store_true", help="Let nobody else see it.")
    parser.add_argument("--license", help="Licence of the weights as the Hub spells it, such as apache-2.0.")
    parser.add_argument("--base_model", help="Hub id of the weights that training began with, if not recorded.")
    parser.add_argument("--dataset_name", help="Name of the training data, such as CamVid; by default its folder's.")
    parser.add_argument("--dry_run", action="store_true", help="Show what would be sent, and send nothing.")
    return parser


@exit_code
def main(argv: list[str] | None = None) -> None:
    """Runs `offseg publish`; arguments and exit codes are those of `offseg_hf.commands.main`."""
    parser = build_parser()
    args = parser.parse_args(argv)

    from offseg_hf.publishing.repository import write_repository
    from offseg_hf.publishing.upload import push_to_hub

    card_options = {"license": args.license, "base_model": args.base_model, "dataset_name": args.dataset_name}
    with parser.mistakes():
        if args.dry_run:
            with tempfile.TemporaryDirectory() as folder:
                show(write_repository(args.model, folder, args.repo, **card_options), args.repo)
            return
        url, is_new = push_to_hub(args.model, args.repo, args.private, **card_options)
    print(f"published: {url}" if is_new else f"nothing has changed since {url}")


def show(files: Sequence[Path], repo_id: str) -> None:
    """Prints the names and sizes of files, and the card."""
    print(f"would be sent to {repo_id}, in one commit:")
    for file in files:
        print(f"{file.stat().st_size:>14,}  {file.name}")
    print(f"{sum(file.stat().st_size for file in files):>14,}  bytes in all\n")
    print(next(file for file in files if file.name == "README.md").read_text(encoding="utf-8"))
