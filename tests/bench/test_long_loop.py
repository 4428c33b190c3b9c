"""The benchmark of long inner loops: what it measures is right, and its report says what was kept."""

from __future__ import annotations

import io

import pytest
import report
import torch
from bench_inner_memory import NETS
from bench_record import make_record, table_row
from child import Child
from inner_memory_section import draw, inner_memory
from long_loop import LongLoop
from measurements import Measurements, rows_of
from PIL import Image
from place import Place

# One net shows that the loops of both backends are measured.
ON_BOTH_BACKENDS = "conv4"


@pytest.mark.parametrize(
    "net", [pytest.param(net, marks=[] if net == ON_BOTH_BACKENDS else pytest.mark.backendless) for net in NETS]
)
def test_steps_that_are_taken_again_give_the_same(net):
    place = Place(torch.get_num_threads(), "cpu", "exact")
    with Child(net, LongLoop, net, 20, 1, place, True) as child:  # more parts than a way has
        seconds, mib = child.call("measure")
        assert seconds > 0
        assert mib is None or mib < 1024
        assert set(child.call("parity")) == {"loss", "gradient"}
        assert child.call("ran").startswith("inner loop: ")


def found():
    found = Measurements()
    for what, slope in (("all steps", 1.0), ("5 steps", 0.1)):
        for steps in (5, 20):
            row = found.row("inner memory", "a net", what, "maml_fast", steps)
            row.seconds, row.peak_mib = [steps * 0.1], 5 + slope * (steps - 5)
    return found.record({}, {"numpy": 1.0})


@pytest.mark.backendless
def test_the_report_compares_with_fewest_steps_and_with_all_in_memory():
    text = inner_memory(rows_of(found(), "inner memory"))
    row = table_row(text, "|       |          20 |   5 steps")
    assert row[3:5] == ["6.5", "1.30×"]
    assert row[6] == "1.00×"


@pytest.mark.backendless
def test_the_picture_has_a_column_for_every_net():
    assert Image.open(io.BytesIO(draw(found()))).width > 500
    assert "Memory of inner steps" not in report.markdown(make_record())
