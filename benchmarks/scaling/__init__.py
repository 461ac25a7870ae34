"""What ``benchmarks/scale.py`` measures: a row a subject."""

from benchmarks.scaling import (
    captions,
    checkpoints,
    datasets,
    detections,
    feature_cache,
    features,
    records,
    svms,
)

SUBJECTS = {
    **checkpoints.SUBJECTS,
    **features.SUBJECTS,
    **feature_cache.SUBJECTS,
    **svms.SUBJECTS,
    **detections.SUBJECTS,
    **records.SUBJECTS,
    **datasets.SUBJECTS,
    **captions.SUBJECTS,
}
