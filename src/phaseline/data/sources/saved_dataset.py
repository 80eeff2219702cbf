"""The source `saved_dataset`: a folder that `datasets.Dataset.save_to_disk` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from phaseline.config.places import place_of
from phaseline.data.sources.files import FileTable
from phaseline.data.sources.row_source import RowSettings, RowSource
from phaseline.errors import DataError
from phaseline.session.stored import is_plain_name, parse_object, read_file

if TYPE_CHECKING:
    from typing_extensions import Unpack


_STATE_FILE = "state.json"
_SPLITS_FILE = "dataset_dict.json"
_SAVE_AGAIN = "Save it again with `save_to_disk` of the datasets library."


def saved_dataset(
    path: str,
    split: str | None = None,
    **settings: Unpack[RowSettings],
) -> RowSource:
    """Yields a sample per row; the id is the path of the Arrow file and the number of the row.

    Args:
        path: The folder.
        split: The split, if the folder holds several.
        settings: How the rows are read.
    """
    table = FileTable("saved_dataset", _arrow_files(_folder(Path(path), split)), "arrow")
    return RowSource(table, **settings)


def _folder(root: Path, split: str | None) -> Path:
    """The folder of one split."""
    place = place_of(str(root))
    if (place / _STATE_FILE).is_file() and split is None:
        return root
    splits = sorted(file.parent.name for file in place.glob(f"*/{_STATE_FILE}"))
    if split in splits:
        return root / str(split)
    if not splits:
        kind = "a single data set" if (place / _STATE_FILE).is_file() else "no saved data set"
        fix = (
            "Remove `split`."
            if split is not None and (place / _STATE_FILE).is_file()
            else "It must be a folder that `save_to_disk` of the datasets library wrote."
        )
        raise DataError(f"`path` of a saved_dataset source is {str(root)!r}, {kind}. {fix}")
    asked = "needs a `split`" if split is None else f"has no split {split!r}"
    raise DataError(
        f"saved_dataset {root} {asked}; there are {', '.join(splits)}. Set `split` in the "
        "source's arguments to one of them."
    )


def _arrow_files(folder: Path) -> list[str]:
    # Read directly: the files are Arrow streams, and importing `datasets` takes seconds at
    # every start.
    path = place_of(str(folder)) / _STATE_FILE
    state = parse_object(read_file(path, remedy=_SAVE_AGAIN), path, remedy=_SAVE_AGAIN)
    listed = state.get("_data_files")
    listed = listed if isinstance(listed, list) else []
    names = [
        name
        for file in listed
        if isinstance(file, dict) and is_plain_name(name := str(file.get("filename", "")))
    ]
    files = [str(folder / name) for name in names]
    missing = [file for file in files if not place_of(file).is_file()]
    if missing or not files or len(names) != len(listed) or state.get("_indices_files"):
        found = f"lacks {missing[0]}" if missing else "holds no rows that can be read in order"
        raise DataError(f"saved_dataset {folder} {found}. {_SAVE_AGAIN}")
    return files
