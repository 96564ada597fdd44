"""Models of this package in eager PyTorch, with the same parameters.

The transformer is `torch.nn.TransformerEncoder` and `TransformerDecoder`, with
normalisation first and causal masks; projection, positions and output around them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from flax import nnx

from experiments.benchmarks.rounds import torch
from mimii_jax.models.transformer import sinusoidal_positions

CONV_VAE = "conv_vae"
EPSILON = 1e-6  # Flax's default of layer normalisation
Module: Any = torch.nn.Module if torch else object


class VAE(Module):
    """A VAE's loss around an encoder and a decoder."""

    def __init__(self, model: Any, encoder: Any, decoder: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.mean, self.log_variance = linear(model.mean), linear(model.log_variance)
        self.kl_weight = float(model.kl_weight[...])

    def loss(self, x: Any) -> Any:
        """Mean loss of examples [batch, frame, bin]."""
        x = x.flatten(1)
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        reconstruction = 0.5 * ((x - self.decoder(z)) ** 2).sum(-1)
        divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(-1)
        return (reconstruction + self.kl_weight * divergence).mean()


def mlp_vae(model: Any) -> VAE:
    """Copy an `MLPVAE`."""
    decoder = [*stack(model.decoder), linear(model.output)]
    sequential = torch.nn.Sequential
    return VAE(model, sequential(*stack(model.encoder)), sequential(*decoder))


def conv_vae(model: Any) -> VAE:
    """A `ConvVAE` of strides 2 and two kernel blocks: convolutions of kernel 4.

    Other parameters: ours has a bias per pixel of a block.
    """
    nn, shape, halvings = torch.nn, model.sizes[0], 2 ** len(model.strides)
    channels = (1, *(layer.bias.shape[0] for layer in model.encoder))
    if {*model.strides} != {(2, 2)} or model.encoder[0].kernel.shape[0] != 2:
        raise ValueError("PyTorch's network needs strides (2, 2) and kernel_blocks 2")
    top = (channels[-1], *(size // halvings for size in shape))
    down: list[Any] = [nn.Unflatten(1, (1, *shape))]
    up: list[Any] = [nn.Linear(model.mean.out_features, int(np.prod(top)))]
    up += [nn.Unflatten(1, top)]
    for fine, coarse in pairwise(channels):
        down += [nn.Conv2d(fine, coarse, 4, 2, 1), nn.ReLU()]
    for coarse, fine in pairwise(reversed(channels)):
        up += [nn.ReLU(), nn.ConvTranspose2d(coarse, fine, 4, 2, 1)]
    encoder = nn.Sequential(*down, nn.Flatten())
    return VAE(model, encoder, nn.Sequential(*up, nn.Flatten()))


class Transformer(Module):
    """A `Transformer`, from the parameters of its network."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        network, nn = model.network, torch.nn
        width, hidden = network.width, network.encoder[0].feed_forward.hidden
        fields = {"layer_norm_eps": EPSILON, "batch_first": True, "norm_first": True}
        fields |= {"d_model": width, "nhead": network.heads, "dropout": 0.0}
        fields["dim_feedforward"] = hidden.out_features
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**fields),
            len(network.encoder),
            nn.LayerNorm(width, EPSILON),
            enable_nested_tensor=False,
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(**fields),
            len(network.decoder),
            nn.LayerNorm(width, EPSILON),
        )
        self.embed, self.output = linear(network.embed), linear(network.output)
        positions = np.array(sinusoidal_positions(network.n_positions, width))
        self.positions = torch.from_numpy(positions)
        self.mask = nn.Transformer.generate_square_subsequent_mask(network.n_positions)
        self.patch, self.stride = model.patch, model.stride
        with torch.no_grad():
            _copy_norm(network.encoder_norm, self.encoder.norm)
            _copy_norm(network.decoder_norm, self.decoder.norm)
            for ours, theirs in zip(network.encoder, self.encoder.layers, strict=True):
                _copy_layer(ours, theirs, theirs.norm2)
            for ours, theirs in zip(network.decoder, self.decoder.layers, strict=True):
                _copy_layer(ours, theirs, theirs.norm3)
                _copy_attention(ours.cross_attention, theirs.multihead_attn)
                _copy_norm(ours.cross_norm, theirs.norm2)

    def loss(self, x: Any) -> Any:
        """Mean squared error of the predicted patches of clips [batch, frame, bin]."""
        patches = x.unfold(1, self.patch, self.stride).swapaxes(2, 3).flatten(2)
        return torch.mean((self.teacher_forced(patches[:, :-1]) - patches[:, 1:]) ** 2)

    def teacher_forced(self, vectors: Any) -> Any:
        """Predictions from true vectors."""
        return self.output(self.decode(vectors, self.encode(vectors)))

    def next_of(self, own: Any, memory: Any) -> Any:
        """Prediction of the vector after a prefix, [batch 1 feature]."""
        return self.output(self.decode(own, memory)[:, -1:])

    def encode(self, vectors: Any) -> Any:
        """The encoder's sequence."""
        n = vectors.shape[1]
        x = self.embed(vectors) + self.positions[:n]
        return self.encoder(x, self.mask[:n, :n], is_causal=True)

    def decode(self, vectors: Any, memory: Any) -> Any:
        """The decoder's sequence; the encoder's may be longer."""
        n = vectors.shape[1]
        return self.decoder(
            self.embed(vectors) + self.positions[:n],
            memory,
            tgt_mask=self.mask[:n, :n],
            memory_mask=self.mask[:n, : memory.shape[1]],
            tgt_is_causal=True,
            memory_is_causal=n == memory.shape[1],
        )


PEERS = {"mlp_vae": mlp_vae, CONV_VAE: conv_vae, "transformer": Transformer}


def stack(layers: Sequence[nnx.Linear]) -> list[Any]:
    """Copy dense layers, each with a ReLU."""
    return [part for layer in layers for part in (linear(layer), torch.nn.ReLU())]


def linear(ours: nnx.Linear) -> Any:
    """Copy a dense layer."""
    theirs = torch.nn.Linear(ours.in_features, ours.out_features)
    with torch.no_grad():
        _copy_linear(ours, theirs)
    return theirs


def _copy_layer(ours: Any, theirs: Any, last_norm: Any) -> None:
    _copy_attention(ours.self_attention, theirs.self_attn)
    _copy_norm(ours.self_norm, theirs.norm1)
    _copy_linear(ours.feed_forward.hidden, theirs.linear1)
    _copy_linear(ours.feed_forward.output, theirs.linear2)
    _copy_norm(ours.feed_norm, last_norm)


def _copy_attention(ours: Any, theirs: Any) -> None:
    parts = (ours.query, ours.key_value)
    kernel = np.concatenate([np.asarray(part.kernel[...]) for part in parts], axis=1)
    # PyTorch also has biases of keys and values, which change nothing.
    bias = np.zeros(kernel.shape[1], np.float32)
    bias[: len(kernel)] = np.asarray(ours.query.bias[...])
    theirs.in_proj_weight.copy_(torch.from_numpy(kernel.T.copy()))
    theirs.in_proj_bias.copy_(torch.from_numpy(bias))
    _copy_linear(ours.output, theirs.out_proj)


def _copy_linear(ours: Any, theirs: Any) -> None:
    theirs.weight.copy_(torch.from_numpy(np.array(ours.kernel[...]).T.copy()))
    theirs.bias.copy_(torch.from_numpy(np.array(ours.bias[...])))


def _copy_norm(ours: Any, theirs: Any) -> None:
    theirs.weight.copy_(torch.from_numpy(np.array(ours.scale[...])))
    theirs.bias.copy_(torch.from_numpy(np.array(ours.bias[...])))
