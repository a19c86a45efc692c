"""A training of two ranks; run by tests/test_ranks.py. usage: FILE RANK FOLDER"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import precc
from precc.control.noise_aware_rule import NoiseAwareRule
from precc.control.ranks import Ranks
from tests.resumed_training import Net


def main(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", f"file://{folder}/meet", world_size=2, rank=rank)
    noise = Ranks.present().noise({"w": torch.tensor([1.0, 3.0 * rank])}, {})
    torch.manual_seed(0)
    net = precc.compile(Net(), backend="reference")
    parallel = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    rule = NoiseAwareRule(start=(2, 4, 6), every=3, agree=64.0)
    ctl = precc.NoiseAware(net, optimizer, loss=F.cross_entropy, rule=rule)
    torch.manual_seed(1 + rank)
    for step in range(9):
        optimizer.zero_grad()
        loss = ctl.loss(parallel(torch.randn(16, 12)), torch.randint(4, (16,)))
        loss.backward()
        optimizer.step()
        ctl.step(float("nan") if step == 7 and rank == 1 else loss)
    rows = [[row.step, row.event, row.plan, row.noise, row.noise_source] for row in net.history]
    values = [float(own.detach().double().sum()) for own in net.parameters()]
    (folder / f"{rank}.json").write_text(json.dumps({"rows": rows, "values": values, "noise": noise}))
    distributed.barrier()  # or one may leave while the other still reads
    os._exit(0)  # destructors of torch's process group deadlock once in some thirty runs


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
