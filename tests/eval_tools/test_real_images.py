"""The probes on real photographs, where there are some: VIRTEX_REAL_DATA names their data root."""

import os
from pathlib import Path

import pytest

from tests.eval_tools.probe_runs import ended_well, quick, record_of

ROOT = os.environ.get("VIRTEX_REAL_DATA")
pytestmark = pytest.mark.skipif(not ROOT, reason="VIRTEX_REAL_DATA names no data root")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("svm", {}),
        ("low-shot", {}),
        ("cached", {}),
        ("knn", {}),
        ("linear", quick()),
        ("inaturalist", quick()),
        ("fractions", quick()),
    ],
)
def test_every_probe_ends_with_a_record(out, kind, settings):
    ended_well(kind, Path(ROOT), out, **settings)
    folders = sorted(out.glob("fraction_*")) or [out]
    for folder in folders:
        record = record_of(folder)
        assert 0 < record["metrics"][record["primary_metric"]] <= 100


def test_both_solvers_agree(out):
    found = {}
    for solver in ("fast", "liblinear"):
        ended_well("svm", Path(ROOT), out / solver, "--solver", solver)
        found[solver] = record_of(out / solver)["metrics"]["mAP"]
    assert found["fast"] == pytest.approx(found["liblinear"], abs=0.5)
