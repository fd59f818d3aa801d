"""Where published preference data comes from: `mmdpo data download`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from mmdpo.benchmarks.reading import EvaluationError, read_data
from mmdpo.evaluation.sources import Archive, Data, RemoteFile
from mmdpo.evaluation.unpacking import LARGEST_PICTURE, Unpacked, unpack_zip


def unpack_named_pictures(archive: Path, *, rows: str, folder: str) -> Unpacked:
    """Yields the pictures of a zip archive that rows of preference data name, into `folder` under these names.

    `rows` is the file of the rows, which lies beside the archive already; each has its picture's name in `img_path`.
    Raises EvaluationError as `unpack_zip`, and for rows that have none.
    """
    try:
        wanted = {PurePosixPath(row["img_path"]).name: row["img_path"] for row in read_data(archive.parent / rows)}
    except (KeyError, TypeError) as error:
        raise EvaluationError(f"{archive.parent / rows}: a row has no img_path ({error!r})") from error
    for name, content in unpack_zip(archive, lambda path: wanted.get(path.name, ""), LARGEST_PICTURE):
        yield f"{folder}/{name}", content


_VLFEEDBACK_ROWS = "vlfeedback_llava_10k.json"

PREFERENCES: Mapping[str, Data] = {
    "mdpo": Data(
        (
            "mDPO's pairs (fwnlp/mDPO-preference-data): no licence is known to this project; look at its card",
            "their images and answers: VLFeedback's (MMInstruction/VLFeedback), whose card names no licence; rated by "
            "GPT-4V",
        ),
        (RemoteFile(_VLFEEDBACK_ROWS, (f"hub:fwnlp/mDPO-preference-data@main/{_VLFEEDBACK_ROWS}",)),),
        (
            Archive(
                "VLFeedback's images",
                # This commit's; its archive's checksum is not known here.
                ("hub:MMInstruction/VLFeedback@0bd5e141605f55ce04e845c65ac2c716ef89e8ec/merged_images.zip",),
                partial(unpack_named_pictures, rows=_VLFEEDBACK_ROWS, folder="merged_images"),
                "2.9 GB, of which the images of the pairs are kept",
                only_images=True,
            ),
        ),
    ),
}
"""What `mmdpo data download` fetches: the preference data that the paper trained on."""
