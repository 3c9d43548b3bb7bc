"""Groups of clips: by label and, where all file names tell, by source scene, city and device."""

from collections.abc import Sequence

from asc.data.lists import TAU_NAME, Clip


def group_clips(clips: Sequence[Clip]) -> dict[str, list[str]]:
    """For each way to group the clips that tells more than the label does, the group of each clip."""
    names = [TAU_NAME.fullmatch(clip.path.stem) for clip in clips]
    groups = {"label": [clip.label for clip in clips]}
    for factor in ("scene", "city", "device"):
        values = [name[factor] for name in names if name]
        if len(values) == len(clips) and len(set(values)) > 1 and values != groups["label"]:
            groups[factor] = values
    return groups
