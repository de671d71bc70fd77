"""What a posterior is called in settings, and what tells one from another in checkpoints."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from pyro import poutine
from torch import nn

from ..model.switched import SwitchedNetwork


def readable(part: object) -> str:
    """What a prior or a likelihood is called: its own words, or the name of a function."""
    if isinstance(part, nn.Module):
        return type(part).__name__
    return getattr(part, "__qualname__", None) or repr(part)


def model_settings(model: SwitchedNetwork) -> dict[str, Any]:
    """What settings say of the model."""
    return {
        "temperature": model.temperature, "scaling": model.scaling, "num_data": model.num_data,
        "prior": readable(model.prior), "likelihood": readable(model.likelihood),
    }  # fmt: skip


def fingerprint(model: SwitchedNetwork) -> dict[str, Any]:
    """What tells one posterior from another: sites, prior, function and the frozen weights."""
    crc = 0
    for tensor in (*model.network.parameters(), *model.network.buffers()):
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        crc = zlib.crc32(data.numpy(), crc)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), poutine.block():
        torch.manual_seed(0)  # one draw and its density tell priors apart, hyper-priors included
        trace = poutine.trace(model.sample_switches).get_trace()
        trace.compute_log_prob()
    return {
        "sites": {s.name: s.size for s in model.sites.values()},
        "prior_density": {
            name: f"{float(trace.nodes[name]['log_prob_sum']):.6g}"
            for name in trace.stochastic_nodes
        },
        "function": zlib.crc32(model.graph.module.code.encode()),
        "weights": crc,
    }
