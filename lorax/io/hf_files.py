"""Which tensors lie in a Hugging Face directory? One safetensors file, or several by an index.

And how a directory gets here: `download` asks the Hub for the files of a model, and no others.
"""

import pathlib
import re
from typing import Any

from lorax.core.errors import LoraxError
from lorax.io.json_file import read_json
from lorax.io.tensors import Source, open_tensors, refuse_pickle

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
"""What a tokenizer is saved in; none of them must be there."""

GENERATION = "generation_config.json"

_WANTED = (CONFIG, SINGLE, "model-*.safetensors", INDEX, GENERATION, *TOKENIZER_FILES)
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")
_PLAIN_NAME = re.compile(r"[\w-][\w.-]*\.safetensors")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def tensors_of(folder: pathlib.Path) -> dict[str, Source]:
    """Every tensor of the model in `folder`, by name; headers are read, tensors are not.

    Raises:
      LoraxError: there is no safetensors file (for a pickle, with the command that converts it),
        or the index and its files disagree; it names the file, and the tensor.
    """
    if (folder / SINGLE).is_file():
        return open_tensors(folder / SINGLE).sources()
    if (folder / INDEX).is_file():
        return _sharded(folder)
    for name in _PICKLES:
        if (folder / name).is_file():
            refuse_pickle((folder / name).with_suffix(".bin"))
    raise LoraxError(
        f"'{folder}' holds neither {SINGLE} nor {INDEX}: expected a model saved by save_pretrained"
    )


def _sharded(folder: pathlib.Path) -> dict[str, Source]:
    index = folder / INDEX
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise LoraxError(f"'{index}' has no table weight_map: expected tensor names and files")
    for tensor, name in where.items():
        # no folder, no "..": an index is somebody else's, and names files of its own directory
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise LoraxError(
                f"'{index}' puts the tensor '{tensor}' into {name!r}: expected the plain name of a "
                ".safetensors file beside it"
            )
    sources: dict[str, Source] = {}
    for name in sorted(set(where.values())):
        found = open_tensors(folder / name).sources()
        listed = {tensor for tensor, file in where.items() if file == name}
        for tensor in sorted(set(found) ^ listed):
            what = "lacks" if tensor in listed else "holds, unknown to its index,"
            raise LoraxError(
                f"'{folder / name}' {what} the tensor '{tensor}': expected what {INDEX} lists; "
                "download the directory again"
            )
        sources |= found
    return sources


def is_hub_name(source: str) -> bool:
    """Whether `source` has the form "organisation/model" of the Hugging Face Hub."""
    return _HUB_NAME.fullmatch(source) is not None


def download(name: str, revision: str | None = None) -> tuple[pathlib.Path, str]:
    """The directory of the model `name` of the Hub, and its commit hash.

    Only configuration, safetensors and tokenizer files are fetched. What is in the local cache
    already is not; ``HF_HUB_OFFLINE=1`` looks nowhere else, ``HF_HOME`` moves it.

    Args:
      name: "organisation/model".
      revision: a branch, tag or commit hash; None is the main branch.

    Raises:
      LoraxError: no such model or revision, no network, or huggingface_hub is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise LoraxError(
            f"'{name}' is no directory here, and fetching it takes huggingface_hub: "
            "pip install 'lorax-flax[hf]', or pass a directory"
        ) from None
    options: dict[str, Any] = {"revision": revision, "allow_patterns": list(_WANTED)}
    try:
        folder = pathlib.Path(huggingface_hub.snapshot_download(name, **options))
    except Exception as error:  # its own types, those of its HTTP library, and the disk's
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        at = f" at revision {revision!r}" if revision else ""
        raise LoraxError(
            f"cannot fetch '{name}'{at} from the Hugging Face Hub ({text[:200]}): check the name "
            "and the network, or pass a directory"
        ) from None
    return folder, folder.name
