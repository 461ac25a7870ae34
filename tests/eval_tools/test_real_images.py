"""Probes on real photographs; VIRTEX_REAL_DATA names the data root."""

import os
from pathlib import Path

import pytest

from tests.eval_tools.probe_runs import quick, record_of, run_to_end

ROOT = os.environ.get("VIRTEX_REAL_DATA")
pytestmark = pytest.mark.skipif(not ROOT, reason="VIRTEX_REAL_DATA is not set")


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
def test_every_probe_writes_a_record(out, kind, settings):
    run_to_end(kind, Path(ROOT), out, **settings)
    folders = sorted(out.glob("fraction_*")) or [out]
    for folder in folders:
        record = record_of(folder)
        assert 0 < record["metrics"][record["primary_metric"]] <= 100


def test_solvers_agree(out):
    found = {}
    for solver in ("fast", "liblinear"):
        run_to_end("svm", Path(ROOT), out / solver, "--solver", solver)
        found[solver] = record_of(out / solver)["metrics"]["mAP"]
    assert found["fast"] == pytest.approx(found["liblinear"], abs=0.5)
