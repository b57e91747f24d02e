"""What each of several processes runs in test_parallel.py: `torchrun --nproc-per-node 2 tools/joined.py OUT
FOLDER…`.

Makes a short video with the checkpoint in each FOLDER and saves the latents that this rank ended with to OUT.
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from pyramid import PyramidFlowPipeline
from pyramid.memory import parallel

ASK = dict(
    prompt="a red ball moves",
    negative_prompt="blue",
    width=128,
    height=64,
    num_frames=25,
    seed=5,
    num_inference_steps=[1, 2, 1],
    video_num_inference_steps=[1, 1, 1],
    output_type="latent",
)
REQUEST = (
    ASK | {"image": Image.linear_gradient("L").convert("RGB")},
    ASK,
)  # of the first folder, and of the second


def main(out: Path, folders: list[str]) -> None:
    parallel.begin("cpu")
    rank = torch.distributed.get_rank()
    for number, folder in enumerate(folders):
        pipe = PyramidFlowPipeline.from_pretrained(folder)
        parallel.join(pipe)
        latents = pipe(**REQUEST[number]).frames
        assert rank == 0 or not pipe.text.loaded, "rank 0 reads the prompt for all"
        torch.save(latents, out / f"{number}-{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
