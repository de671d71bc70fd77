"""One epoch of SVI over all layers of LeNet-5 on MNIST's training images, one thread."""

from __future__ import annotations

import argparse
import math

import torch
from common import write_result

from dirprune import SwitchedNetwork, fit
from dirprune.inference.data import load_data, loader
from dirprune.model.networks import build_network

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root")
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("mnist", root=options.data_root)
    network = build_network("lenet5", num_classes=10, in_channels=1, size=28)
    model = SwitchedNetwork(network, data.train[[0, 1]][0], num_data=len(data.train))
    fitted = fit(model, "dirichlet", loader(data.train, options.batch, shuffle=True))
    write_result(
        "svi_epoch",
        {
            "network": "lenet5",
            "images": len(data.train),
            "batch": options.batch,
            "steps": math.ceil(len(data.train) / options.batch),
            "seconds": round(fitted.seconds, 2),
        },
        hide=("--data-root",),
    )
