"""A network with random weights, for tests and benches: no official weights are shipped, and speed does not need them.

Random weights alone would not do. A fresh spectral norm divides by a guess of the largest singular value that only
forward passes in training mode improve, so that folding one at once multiplies the weights by orders of magnitude;
and a fresh encoder scales each block by a millionth, which would hide mistakes inside the blocks.
"""

import torch
from torch import nn

from inference_worker.ddcolor.convnext import Block
from inference_worker.ddcolor.network import DDColor
from inference_worker.ddcolor.variants import Variant

SETTLING_PASSES = 4
SETTLING_PX = 64


def make_stand_in(variant: Variant, seed: int = 0) -> DDColor:
    """A settled random network in evaluation mode, not folded; the same for the same *seed* and release of torch."""
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    net = DDColor(variant)
    net.train()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, Block) and module.gamma is not None:
                module.gamma.uniform_(0.05, 0.2)
            elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
                module.weight.uniform_(0.7, 1.3)
                module.bias.uniform_(-0.1, 0.1)
        for _ in range(SETTLING_PASSES):
            net(torch.rand(2, 3, SETTLING_PX, SETTLING_PX))
    torch.set_rng_state(generator_state)
    net.eval()
    return net
