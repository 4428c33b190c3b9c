from __future__ import annotations

import json

import pytest
from checkout import ROOT
from zoo import ZOO
from zoo_picture import FAMILIES, draw, speedups_of

pytestmark = pytest.mark.backendless

RECORD = "bench/results/2026-12-01-amd-epyc-2-cores-avx2-zoo/bench.json"


@pytest.fixture(scope="module")
def record():
    return json.loads((ROOT / RECORD).read_text(encoding="utf8"))


def test_the_picture_of_the_readme_is_that_of_the_record(record):
    assert (ROOT / "docs" / "pictures" / "zoo.svg").read_text(encoding="utf8") == draw(record)


def test_every_net_is_in_one_family():
    assert sorted(net for nets in FAMILIES.values() for net in nets) == sorted(ZOO)


def test_every_net_has_a_dot_with_its_speedup(record):
    picture = draw(record)
    assert speedups_of(record).keys() == ZOO.keys()
    assert picture.count("<circle") == len(ZOO)
    assert "<title>spectral-norm: 1.13×</title>" in picture
