"""`plan --compare`: the samplers beside a fine grid, in numbers and as a picture."""

from dataclasses import replace

from PIL import Image

from pyramid.commands.plan_tables import sampler_rows, sampler_table
from pyramid.hub.checkpoints import find
from pyramid.memory.plan import make_plan
from pyramid.settings import Settings


def test_samplers_are_measured_beside_a_fine_grid(tiny_checkpoint, tmp_path):
    checkpoint = find(tiny_checkpoint)
    settings = Settings.for_model(str(tiny_checkpoint), "128p", checkpoint.defaults, prompt="a red ball")
    settings = replace(settings, seed=1, num_frames=9, device="cpu", dtype="float32")
    rows = sampler_rows(settings)
    assert [row.sampler for row in rows] == ["multistep", *2 * ("reference", "even", "multistep")]
    assert rows[0].num_inference_steps == (5, 5, 5) and rows[-1].num_inference_steps == (2, 2, 2)
    table = sampler_table(settings, make_plan(checkpoint, settings), sheet=tmp_path / "sheet.png")
    cells = [list(column.cells) for column in table.columns]
    assert cells[2] == ["24"] + 6 * ["12"]  # evaluations of two units; of two steps all are taken
    assert cells[4][0] == "–" and all(cell.endswith("%") for cell in cells[4][1:])
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (6 * 64, 7 * 64)
