"""The transformer in eager PyTorch, from the parameters of the one in Flax.

`torch.nn.TransformerEncoder` and `TransformerDecoder` as they come, with normalisation
first and causal masks; projection, positions and output around them.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from flax import nnx

from mimii_jax.models.transformer import EncoderDecoder, sinusoidal_positions

# An optional peer, of which a type checker knows nothing.
torch: Any = import_module("torch") if find_spec("torch") else None
EPSILON = 1e-6  # Flax's default of layer normalisation


class Peer:
    """The same network; `parameters` are those of all its parts."""

    def __init__(self, network: EncoderDecoder) -> None:
        heads, channels = network.heads, network.width // network.heads
        width = heads * channels
        hidden = network.encoder[0].feed_forward.hidden.out_features
        fields = {
            "d_model": width,
            "nhead": heads,
            "dim_feedforward": hidden,
            "dropout": 0.0,
            "layer_norm_eps": EPSILON,
            "batch_first": True,
            "norm_first": True,
        }
        layer = torch.nn.TransformerEncoderLayer(**fields)
        self.encoder = torch.nn.TransformerEncoder(
            layer,
            len(network.encoder),
            torch.nn.LayerNorm(width, EPSILON),
            enable_nested_tensor=False,
        )
        layer = torch.nn.TransformerDecoderLayer(**fields)
        self.decoder = torch.nn.TransformerDecoder(
            layer, len(network.decoder), torch.nn.LayerNorm(width, EPSILON)
        )
        n_features = network.embed.in_features
        self.embed = torch.nn.Linear(n_features, width)
        self.output = torch.nn.Linear(width, n_features)
        self.places = torch.from_numpy(sinusoidal_positions(network.n_positions, width))
        mask = torch.nn.Transformer.generate_square_subsequent_mask
        self.mask = mask(network.n_positions)
        with torch.no_grad():
            self._copy(network)

    @property
    def parameters(self) -> list[Any]:
        """Of all parts."""
        parts = (self.embed, self.encoder, self.decoder, self.output)
        return [parameter for part in parts for parameter in part.parameters()]

    def place(self, vectors: Any) -> Any:
        """Vectors at the model's width, with their positions."""
        return self.embed(vectors) + self.places[: vectors.shape[1]]

    def encode(self, x: Any) -> Any:
        """The encoder's sequence."""
        n = x.shape[1]
        return self.encoder(x, self.mask[:n, :n], is_causal=True)

    def decode(self, x: Any, memory: Any) -> Any:
        """Predictions; the encoder's sequence may be longer than x."""
        n = x.shape[1]
        y = self.decoder(
            x,
            memory,
            tgt_mask=self.mask[:n, :n],
            memory_mask=self.mask[:n, : memory.shape[1]],
            tgt_is_causal=True,
            memory_is_causal=n == memory.shape[1],
        )
        return self.output(y)

    def teacher_forced(self, vectors: Any) -> Any:
        """Predictions from true vectors."""
        x = self.place(vectors)
        return self.decode(x, self.encode(x))

    def autoregress(self, vectors: Any) -> Any:
        """The usual loop: the encoder once, then the decoder on a growing prefix."""
        memory, own = self.encode(self.place(vectors)), vectors[:, :1]
        for _ in range(vectors.shape[1]):
            own = torch.cat([own, self.next_of(own, memory)], dim=1)
        return own[:, 1:]

    def next_of(self, own: Any, memory: Any) -> Any:
        """What the loop adds to its own predictions, [batch 1 feature]."""
        x = self.decoder(
            self.place(own),
            memory,
            tgt_mask=self.mask[: own.shape[1], : own.shape[1]],
            memory_mask=self.mask[: own.shape[1], : memory.shape[1]],
            tgt_is_causal=True,
        )
        return self.output(x[:, -1:])

    def _copy(self, network: EncoderDecoder) -> None:
        _copy_linear(network.embed, self.embed)
        _copy_linear(network.output, self.output)
        _copy_norm(network.encoder_norm, self.encoder.norm)
        _copy_norm(network.decoder_norm, self.decoder.norm)
        for ours, theirs in zip(network.encoder, self.encoder.layers, strict=True):
            _copy_encoder_layer(ours, theirs, last_norm=theirs.norm2)
        for ours, theirs in zip(network.decoder, self.decoder.layers, strict=True):
            _copy_encoder_layer(ours, theirs, last_norm=theirs.norm3)
            _copy_attention(ours.cross_attention, theirs.multihead_attn)
            _copy_norm(ours.cross_norm, theirs.norm2)


def _copy_encoder_layer(ours: Any, theirs: Any, last_norm: Any) -> None:
    _copy_attention(ours.self_attention, theirs.self_attn)
    _copy_norm(ours.self_norm, theirs.norm1)
    _copy_linear(ours.feed_forward.hidden, theirs.linear1)
    _copy_linear(ours.feed_forward.output, theirs.linear2)
    _copy_norm(ours.feed_norm, last_norm)


def _copy_attention(ours: Any, theirs: Any) -> None:
    parts = (ours.query, ours.key_value)
    kernel = np.concatenate([np.asarray(part.kernel[...]) for part in parts], axis=1)
    # PyTorch has biases of keys and values, too, which change nothing.
    bias = np.zeros(kernel.shape[1], np.float32)
    bias[: len(kernel)] = np.asarray(ours.query.bias[...])
    theirs.in_proj_weight.copy_(torch.from_numpy(kernel.T.copy()))
    theirs.in_proj_bias.copy_(torch.from_numpy(bias))
    _copy_linear(ours.output, theirs.out_proj)


def _copy_linear(ours: nnx.Linear, theirs: Any) -> None:
    assert ours.bias is not None
    theirs.weight.copy_(torch.from_numpy(np.array(ours.kernel[...]).T.copy()))
    theirs.bias.copy_(torch.from_numpy(np.array(ours.bias[...])))


def _copy_norm(ours: nnx.LayerNorm, theirs: Any) -> None:
    assert ours.scale is not None
    assert ours.bias is not None
    theirs.weight.copy_(torch.from_numpy(np.array(ours.scale[...])))
    theirs.bias.copy_(torch.from_numpy(np.array(ours.bias[...])))
